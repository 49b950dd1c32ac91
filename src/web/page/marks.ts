/** What of the duplicates is to be kept and what removed, as it was marked here. The browser keeps it; nothing is deleted by it. */
import type { DuplicateGroups } from '../api.ts';
import { createStore } from './store.ts';

export type Group = DuplicateGroups['groups'][number];
export type Mark = 'keep' | 'remove';

/** A line of the export: enough to find the file, and to see why. */
export interface Marked {
  mark: Mark;
  id: string;
  uri: string;
  run: string;
  sha256: string;
  bytes: number;
  width: number;
  height: number;
  key: string;
  /** Id of the group's suggested keeper, and the cosine to it. */
  keeper: string;
  score: number;
}

/** By key. Marks of pictures that another threshold hides stay. */
export const marks = createStore<ReadonlyMap<string, Marked>>(new Map());

let place = '';

/** Marks are kept apart by output. Call it before the first mark. */
export function openMarks(output: string): void {
  const wanted = `lensmill-marks ${output}`;
  if (place === wanted) return;
  place = wanted;
  const stored = localStorage.getItem(place);
  // Written by `setMarks`.
  marks.set(new Map(stored ? (JSON.parse(stored) as [string, Marked][]) : []));
}

/** Of one picture; null takes the mark away. */
export function setMark(group: Group, key: string, mark: Mark | null): void {
  const changed = new Map(marks.get());
  if (mark === null) changed.delete(key);
  else
    for (const image of group.images) if (image.key === key) changed.set(key, markedIn(group, image, mark));
  save(changed);
}

/** The keepers kept, the rest removed. */
export function markAsSuggested(groups: readonly Group[]): void {
  const changed = new Map(marks.get());
  for (const group of groups)
    for (const image of group.images)
      changed.set(image.key, markedIn(group, image, image.key === group.keeper ? 'keep' : 'remove'));
  save(changed);
}

function markedIn(group: Group, image: Group['images'][number], mark: Mark): Marked {
  const { id, uri, run, sha256, bytes, width, height, key, score } = image;
  const keeper = group.images.find((one) => one.key === group.keeper)?.id ?? '';
  return { mark, id, uri, run, sha256, bytes, width, height, key, keeper, score };
}

export const clearMarks = (): void => save(new Map());

function save(changed: ReadonlyMap<string, Marked>): void {
  marks.set(changed);
  try {
    localStorage.setItem(place, JSON.stringify([...changed]));
  } catch {
    // More than the browser stores (5 MB, some ten thousand marks): they last as long as the page.
  }
}

export function exportMarks(format: 'csv' | 'json'): void {
  const rows = [...marks.get().values()];
  if (format === 'json') saveFile('marks.json', 'application/json', `${JSON.stringify(rows, null, 2)}\n`);
  else saveFile('marks.csv', 'text/csv', toCsv(rows));
}

const columns = [
  'mark',
  'id',
  'uri',
  'run',
  'sha256',
  'bytes',
  'width',
  'height',
  'key',
  'keeper',
  'score',
] as const satisfies (keyof Marked)[];

/** RFC 4180. */
function toCsv(rows: readonly Marked[]): string {
  const cell = (value: string | number): string =>
    /[",\r\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
  return [columns, ...rows.map((row) => columns.map((name) => row[name]))]
    .map((line) => `${line.map(cell).join(',')}\r\n`)
    .join('');
}

function saveFile(name: string, type: string, text: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
