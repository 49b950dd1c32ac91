/**
 * Objects as files below a folder.
 *
 * The life of an object: (1) a temporary file under `.tmp/`, written and fsynced; (2) `link` to its name, which fails if
 * the name is taken and shows readers the whole object or none; (3) its folder fsynced; (4) the temporary name removed.
 * A writer that dies leaves at most a temporary file, which `probe` sweeps once it is an hour old.
 *
 * File systems without hard links (FAT, some FUSE and SMB mounts) get `rename` after a look: readers still see whole
 * objects, but two writers at once may both believe they were first, so `conditional` is false there. A lock file would
 * not mend it: breaking a dead writer's lock is the same race again.
 */
import { createHash, randomUUID } from 'node:crypto';
import { link, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import pMap from 'p-map';
import { errnoOf } from '../errno.ts';
import { ConfigError } from '../errors.ts';
import { fileUri, rawOfText } from '../uri.ts';
import type { ByteRange, ListedObject, ObjectFacts, Store } from './store.ts';

/** A writer that has not touched its temporary file for this long is dead: parts take seconds. */
const staleMs = 3_600_000;

export interface FileStoreOptions {
  /** `link(2)`; tests put one here that fails as FAT's does. */
  linkFile?: typeof link;
  /** As an earlier `probe` found it. */
  conditional?: boolean;
}

export class FileStore implements Store {
  readonly uri: string;
  readonly #root: string;
  readonly #linkFile: typeof link;
  #conditional: boolean;

  /** `root` is an absolute path. */
  constructor(root: string, { linkFile = link, conditional = false }: FileStoreOptions = {}) {
    this.uri = fileUri(rawOfText(root));
    this.#root = root;
    this.#linkFile = linkFile;
    this.#conditional = conditional;
  }

  get conditional(): boolean {
    return this.#conditional;
  }

  async probe(): Promise<void> {
    const temporary = this.#temporaryPath();
    // In the root itself, which must be writable too; hidden from `list` like every name that begins with a dot.
    const probe = join(this.#root, `.probe-${randomUUID()}`);
    try {
      await mkdir(dirname(temporary), { recursive: true });
      await this.#sweepTemporary();
      await writeDurably(temporary, Buffer.from('probe'));
      this.#conditional = (await this.#place(temporary, probe)) === 'linked';
      await readdir(this.#root);
    } catch (error) {
      throw explain(error, this.#root, 'write');
    } finally {
      await removeQuietly(probe, temporary);
    }
  }

  async look(): Promise<void> {
    await unlessAbsent(this.#root, () => readdir(this.#root));
  }

  async create(key: string, body: Uint8Array): Promise<boolean> {
    const path = this.#pathOf(key);
    const folder = dirname(path);
    const temporary = this.#temporaryPath();
    try {
      await mkdir(dirname(temporary), { recursive: true });
      const firstMade = await mkdir(folder, { recursive: true });
      await writeDurably(temporary, body);
      const placed = await this.#place(temporary, path);
      // Also after another writer's object: whoever is told that the key is taken may rely on it.
      await syncFolders(folder, firstMade ? dirname(firstMade) : folder);
      return placed !== 'taken';
    } catch (error) {
      throw explain(error, path, 'write');
    } finally {
      await removeQuietly(temporary);
    }
  }

  async read(key: string, range?: ByteRange): Promise<Uint8Array | undefined> {
    const path = this.#pathOf(key);
    return unlessAbsent(path, async () => {
      const file = await open(path, 'r');
      try {
        if (!range) return await file.readFile();
        const { size } = await file.stat();
        const bytes = Buffer.allocUnsafeSlow(Math.max(0, Math.min(range.count, size - range.first)));
        for (let filled = 0; filled < bytes.length; ) {
          const { bytesRead } = await file.read(bytes, filled, bytes.length - filled, range.first + filled);
          if (bytesRead === 0) throw new Error(`${path} became shorter while it was read`);
          filled += bytesRead;
        }
        return bytes;
      } finally {
        await file.close();
      }
    });
  }

  async head(key: string): Promise<ObjectFacts | undefined> {
    const path = this.#pathOf(key);
    return unlessAbsent(path, async () => {
      const file = await open(path, 'r');
      try {
        const hash = createHash('sha256');
        const buffer = Buffer.allocUnsafeSlow(1 << 20);
        for (let size = 0; ; ) {
          const { bytesRead } = await file.read(buffer, 0, buffer.length, size);
          if (bytesRead === 0) return { size, sha256: hash.digest('hex') };
          hash.update(buffer.subarray(0, bytesRead));
          size += bytesRead;
        }
      } finally {
        await file.close();
      }
    });
  }

  list(prefix: string, after = ''): AsyncIterable<ListedObject> {
    return this.#walk(prefix.slice(0, prefix.lastIndexOf('/') + 1), prefix, after);
  }

  async close(): Promise<void> {}

  /** `folder` is '' or ends in '/'; what lies wholly outside `prefix`, or wholly up to `after`, is not read. */
  async *#walk(folder: string, prefix: string, after: string): AsyncGenerator<ListedObject> {
    const path = join(this.#root, folder);
    const names = await unlessAbsent(path, () => readFolder(path));
    const keys = (names ?? [])
      .filter((name) => !name.startsWith('.'))
      .map((name) => folder + name)
      .filter((key) => key.startsWith(prefix))
      .filter((key) => key > after || (key.endsWith('/') && after.startsWith(key)));
    const sizes = await pMap(
      keys,
      async (key) => (key.endsWith('/') ? undefined : (await stat(join(this.#root, key))).size),
      { concurrency: 64 },
    );
    for (const [at, key] of keys.entries()) {
      const size = sizes[at];
      if (size === undefined) yield* this.#walk(key, prefix, after);
      else yield { key, size };
    }
  }

  /** Gives a whole file its name, unless that is taken. */
  async #place(temporary: string, path: string): Promise<'linked' | 'renamed' | 'taken'> {
    try {
      await this.#linkFile(temporary, path);
      return 'linked';
    } catch (error) {
      const code = errnoOf(error);
      if (code === 'EEXIST') return 'taken';
      if (!code || !noHardLinks.has(code)) throw error;
    }
    if (await unlessAbsent(path, () => stat(path))) return 'taken';
    await rename(temporary, path);
    return 'renamed';
  }

  async #sweepTemporary(): Promise<void> {
    const folder = dirname(this.#temporaryPath());
    for (const name of await readdir(folder)) {
      const path = join(folder, name);
      const found = await unlessAbsent(path, () => stat(path));
      if (found && Date.now() - found.mtimeMs > staleMs) await removeQuietly(path);
    }
  }

  #temporaryPath(): string {
    return join(this.#root, '.tmp', `${process.pid}-${randomUUID()}`);
  }

  #pathOf(key: string): string {
    if (!/^[A-Za-z0-9_-][A-Za-z0-9._-]*(\/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$/.test(key)) {
      throw new Error(`'${key}' is not an object key; this is a bug`);
    }
    return join(this.#root, key);
  }
}

/** What `link` says where there are no hard links: FAT and exFAT EPERM, SMB and FUSE one of the others. */
const noHardLinks = new Set(['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS']);

/** Names in a folder, ordered as the keys below them are: a folder's ends in '/'. */
async function readFolder(path: string): Promise<string[]> {
  const entries = await readdir(path, { withFileTypes: true });
  const names = await pMap(entries, async (entry) => {
    const isLinkedFolder = entry.isSymbolicLink() && (await stat(join(path, entry.name))).isDirectory();
    return entry.isDirectory() || isLinkedFolder ? `${entry.name}/` : entry.name;
  });
  return names.sort();
}

async function writeDurably(path: string, body: Uint8Array): Promise<void> {
  const file = await open(path, 'wx');
  try {
    await file.writeFile(body);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Makes the names in `folder` durable, and in its parents up to `top`. */
async function syncFolders(folder: string, top: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
  if (folder !== top) await syncFolders(dirname(folder), top);
}

/** A file that cannot be removed is a stale one soon. */
async function removeQuietly(...paths: string[]): Promise<void> {
  await Promise.allSettled(paths.map((path) => rm(path, { force: true })));
}

async function unlessAbsent<T>(path: string, act: () => Promise<T>): Promise<T | undefined> {
  try {
    return await act();
  } catch (error) {
    // ENOTDIR and EISDIR: the key's parent is an object, or the key is a folder of others.
    if (['ENOENT', 'ENOTDIR', 'EISDIR'].includes(errnoOf(error) ?? '')) return undefined;
    throw explain(error, path, 'read');
  }
}

/** What the operator can mend, as a ConfigError; anything else as it came. */
function explain(error: unknown, path: string, act: 'read' | 'write'): unknown {
  const code = errnoOf(error);
  const fail = (name: string, what: string) =>
    new ConfigError(name, `${what} (${code}), or choose another --output`, { cause: error });
  switch (code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return fail('disk-full', `no space left for '${path}': free some`);
    case 'EACCES':
    case 'EPERM':
      return act === 'read'
        ? fail('access-denied', `'${path}' cannot be read: make it readable for this user`)
        : fail('not-writable', `'${path}' cannot be written: make it writable for this user`);
    case 'EROFS':
      return fail('not-writable', `'${path}' cannot be written: mount it writable`);
    case 'EEXIST':
    case 'ENOTDIR':
      return fail('not-writable', `'${path}' cannot be a folder, a part of it is a file: move that`);
    default:
      return error;
  }
}
