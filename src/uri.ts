/**
 * Sources and stores are named by URIs: a plain path, `file:///…` or `s3://bucket/prefix`.
 *
 * Paths are handled as `RawPath`: a string with one character per *byte* (Latin-1). A file name on Linux is bytes, not
 * text; this form holds all of them, and comparing two such strings with `<` orders them bytewise, as S3 orders keys.
 */
import { isUtf8 } from 'node:buffer';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ConfigError, messageOf } from './errors.ts';

export type RawPath = string;

/** 'file' for a plain path, else what stands before '://', in lower case. */
export function schemeOf(uri: string): string {
  return /^([a-z][a-z0-9+.-]*):\/\//i.exec(uri)?.[1]?.toLowerCase() ?? 'file';
}

/** Whether it is to be read over http or https. */
export function isWebUri(uri: string): boolean {
  return /^https?:/i.test(uri);
}

/** The absolute path that a plain path or a `file:` URI names. Throws ConfigError 'bad-uri'. */
export function pathOfUri(uri: string): string {
  if (uri === '') throw new ConfigError('bad-uri', 'an empty path names no folder');
  if (!/^file:\/\//i.test(uri)) return resolve(uri);
  try {
    return resolve(fileURLToPath(uri));
  } catch (error) {
    throw new ConfigError('bad-uri', `'${uri}' names no folder here: ${messageOf(error)}`);
  }
}

/** `file:///…` of an absolute path. Bytes that a URI may not hold are %XX, so names that are not UTF-8 survive too. */
export function fileUri(path: RawPath): string {
  return `file://${escapeInUri(path)}`;
}

/** Bytes that a URI's path may not hold as %XX; '/' stays. */
export function escapeInUri(path: RawPath): string {
  return path.replace(unsafeInUri, (byte) => `%${hexOf(byte)}`);
}

const unsafeInUri = /[^A-Za-z0-9/._~!$&'()*+,;=:@-]/g;

/** Undoes `fileUri`, and takes an absolute path as it is. `undefined` for what can name no file of this machine. */
export function pathOfFileUri(uri: string): RawPath | undefined {
  const raw = rawOfText(uri);
  const escaped = /^file:\/\/(?:localhost)?(\/[^?#]*)$/i.exec(raw)?.[1];
  if (escaped !== undefined && /%(?!(?!2F)[0-9A-F]{2})/i.test(escaped)) return undefined;
  const path = escaped?.replace(/%(..)/g, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16))) ?? raw;
  return path.startsWith('/') && !path.includes('\0') ? path : undefined;
}

export function rawOfText(text: string): RawPath {
  return isPlain(text) ? text : Buffer.from(text, 'utf8').toString('latin1');
}

/** Orders text bytewise as UTF-8, the order of every listing; JavaScript's own differs beyond U+FFFF. */
export function compareBytewise(a: string, b: string): number {
  if (a === b) return 0;
  return rawOfText(a) < rawOfText(b) ? -1 : 1;
}

/** Bytes that are not UTF-8 become U+FFFD. */
export function textOfRaw(path: RawPath): string {
  return isPlain(path) ? path : Buffer.from(path, 'latin1').toString('utf8');
}

/**
 * A name as it stands in ids. UTF-8 stands as it is; in any other name, each byte that is not ASCII is written as U+FFFD
 * and two hex digits ('caf�E9.jpg'). A name that has U+FFFD itself is escaped too, so that two names never share an id
 * and `unescapeName` finds the bytes again.
 */
export function escapeName(name: RawPath): RawPath {
  const bytes = fsPath(name);
  const isText = typeof bytes === 'string' || (isUtf8(bytes) && !name.includes(escapeMark));
  return isText ? name : name.replace(/[\x80-\xff]/g, (byte) => escapeMark + hexOf(byte));
}

/** Takes whole paths too. */
export function unescapeName(name: RawPath): RawPath {
  return name.replace(/\xEF\xBF\xBD([0-9A-F]{2})/g, (_, hex) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
}

/** U+FFFD in UTF-8. */
const escapeMark: RawPath = '\xEF\xBF\xBD';

/** What `node:fs` takes for a path: a Buffer where the bytes may not be UTF-8. */
export function fsPath(path: RawPath): string | Buffer {
  return isPlain(path) ? path : Buffer.from(path, 'latin1');
}

/** Two upper-case hex digits. */
export function hexOf(byte: string): string {
  return byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0');
}

/** Most names are; the others go the long way, to the same result where they were ASCII after all. */
function isPlain(text: string): boolean {
  return /^[ -~]*$/.test(text);
}
