/** Which pictures are of which class: a list (CSV, TSV, JSONL, Parquet) with a column that names a picture and one that names its class. */
import { ConfigError } from '../errors.ts';
import type { ListWords } from '../lists/columns.ts';
import { badRow, readManifest } from '../lists/manifest.ts';
import type { Objects } from '../objects/objects.ts';
import { compareBytewise, fileUri, rawOfText } from '../uri.ts';

export interface Labels {
  /** Class names, sorted. */
  classes: string[];
  /** By a picture's id or URI: its class. */
  byName: Map<string, number>;
}

const words: ListWords = {
  usual: ['id', 'uri', 'url', 'path', 'file'],
  flags: { uri: '--id-column', id: '--id-column', keep: '--label-column' },
};

/** Throws ConfigError as `readManifest`, and 'bad-list' where a picture has no class, or two. */
export async function readLabels(
  uri: string,
  objects: Objects,
  {
    idColumn,
    labelColumn,
    signal,
  }: { idColumn: string | undefined; labelColumn: string; signal?: AbortSignal },
): Promise<Labels> {
  const columns = { uri: idColumn ?? null, id: null, keep: [labelColumn] };
  const nameOf = new Map<string, string>();
  for await (const { line, id, extra } of readManifest(uri, objects, columns, {
    words,
    ...(signal && { signal }),
  })) {
    const label = textOf(extra?.[labelColumn]);
    if (label === undefined) throw badRow(uri, line, `has no text or number in column '${labelColumn}'`);
    // A path names the file that a run has as file:///….
    const name = id.startsWith('/') ? fileUri(rawOfText(id)) : id;
    const known = nameOf.get(name);
    if (known !== undefined && known !== label)
      throw badRow(uri, line, `says that ${id} is '${label}', and a line before that it is '${known}'`);
    nameOf.set(name, label);
  }
  if (nameOf.size === 0) throw new ConfigError('bad-list', `${uri} names no picture`);
  const classes = [...new Set(nameOf.values())].sort(compareBytewise);
  const numberOf = new Map(classes.map((name, label) => [name, label]));
  const byName = new Map<string, number>();
  for (const [name, label] of nameOf) byName.set(name, numberOf.get(label) as number); // every label is a class
  return { classes, byName };
}

function textOf(value: unknown): string | undefined {
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  return typeof value === 'string' && value.trim() !== '' ? value.trim() : undefined;
}
