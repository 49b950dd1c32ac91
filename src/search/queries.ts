/** What is searched by: images of the index, or pictures from elsewhere that the model embeds. */
import { open, stat } from 'node:fs/promises';
import type { Embedder, Picture } from '../../workers/embedder.ts';
import { ConfigError, type Failure } from '../errors.ts';
import { openFileObjects } from '../objects/file.ts';
import { publicUrl } from '../objects/web-url.ts';
import { formatOf } from '../pixels/container.ts';
import { fileUri, rawOfText } from '../uri.ts';
import type { IndexedImage, SearchIndex } from './search-index.ts';

/** An image of the index, or a picture from elsewhere that is to be embedded; `name` is for people. */
export type Query = { name: string; image: IndexedImage } | { name: string; picture: Picture };

/** What a query came to. */
export interface ResolvedQuery {
  name: string;
  /** Of the index, if it is there. */
  image?: IndexedImage;
  vector: Float32Array;
  labels: number[];
  scores: number[];
  /** Of a picture from elsewhere. */
  content?: Uint8Array;
}

/** An image of the index by id, uri or key. Throws ConfigError 'no-image', which says `what` the name is not. */
export async function imageQuery(
  index: SearchIndex,
  name: string,
  what = 'no image of the index',
): Promise<Query> {
  const image = await findImage(index, name);
  if (image) return { name: image.id, image };
  throw await noImage(index, name, what);
}

/** What the index holds of this URL, else what lies there now. */
export async function urlQuery(index: SearchIndex, url: string): Promise<Query> {
  const image = await index.find(url);
  return image ? { name: image.id, image } : { name: publicUrl(url), picture: { uri: url } };
}

export async function findImage(index: SearchIndex, name: string): Promise<IndexedImage | undefined> {
  return (await index.find(name)) ?? (/^[0-9a-f]{32}$/.test(name) ? index.get(name) : undefined);
}

/** A file by its absolute path. Throws ConfigError 'no-file', 'unsupported-format'. */
export async function fileQuery(index: SearchIndex, file: string, name = file): Promise<Query> {
  if (!(await isFile(file))) throw new ConfigError('no-file', `${file} is no file`);
  const uri = fileUri(rawOfText(file));
  const image = await index.find(uri);
  if (image && image.etag === (await openFileObjects().stat(uri)).etag) return { name: image.id, image };
  await requirePicture(file, name);
  return { name, picture: { file } };
}

/** Throws for what is no picture at all, before a model is loaded for it. */
async function requirePicture(path: string, name: string): Promise<void> {
  const file = await open(path).catch((error: Error) => {
    throw new ConfigError('no-file', `${path} cannot be read: ${error.message}`);
  });
  try {
    const { buffer, bytesRead } = await file.read({ buffer: Buffer.alloc(16) });
    if (formatOf(buffer.subarray(0, bytesRead))) return;
    const message = 'it is not a JPEG, PNG, WebP, GIF, TIFF or AVIF picture';
    throw refuse(name, { error: bytesRead === 0 ? 'empty' : 'unsupported-format', message });
  } finally {
    await file.close();
  }
}

export async function isFile(path: string): Promise<boolean> {
  const stats = await stat(path).catch(() => undefined);
  return stats?.isFile() ?? false;
}

const suggested = 3;
/** Letters that ids must begin with to be like what was typed. */
const leastAlike = 3;

/** Names some ids that begin alike. */
async function noImage(index: SearchIndex, name: string, what: string): Promise<ConfigError> {
  for (
    let prefix = name;
    prefix.length >= leastAlike;
    prefix = prefix.slice(0, Math.floor(prefix.length / 2))
  ) {
    const near = await index.list({ filter: { prefix }, limit: suggested });
    if (near.length === 0) continue;
    const ids = near.map(({ id }) => id).join(', ');
    return new ConfigError('no-image', `'${name}' is ${what}; ids that begin alike: ${ids}`);
  }
  const [some] = await index.list({ limit: 1 });
  const such = some ? `; its ids are such as ${some.id}` : ', which is empty';
  return new ConfigError('no-image', `'${name}' is ${what}${such}`);
}

/** The embeddings of queries. `embed` is called if one is to be made. Throws ConfigError by the code of a picture's failure. */
export async function embedQueries(
  index: SearchIndex,
  queries: readonly Query[],
  embed: Embedder['embed'],
  signal?: AbortSignal,
): Promise<ResolvedQuery[]> {
  const indexed = queries.flatMap((query) => ('image' in query ? [query] : []));
  const others = queries.flatMap((query) => ('picture' in query ? [query] : []));
  const vectors = await index.vectorsOf(indexed.map(({ image }) => image.key));
  const found: ResolvedQuery[] = indexed.map(({ name, image }, at) => {
    const { labels, scores } = image;
    return { name, image, vector: vectors[at] as Float32Array, labels, scores }; // one for each
  });
  if (others.length === 0) return found;
  const pictures = others.map(({ picture }) => picture);
  const embedded = await embed(pictures, signal && { signal });
  for (const [at, { name }] of others.entries()) {
    const made = embedded[at];
    if (!made) throw new Error(`${name} was not embedded: this is a bug`);
    if ('error' in made) throw refuse(name, made);
    const { embedding, labels, scores, content } = made;
    found.push({ name, vector: embedding, labels, scores, content });
  }
  return found;
}

function refuse(name: string, { error, message }: Failure): ConfigError {
  return new ConfigError(error, `'${name}' cannot be searched by: ${message}`);
}
