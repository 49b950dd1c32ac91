/** All kinds of archives, and the readers of them that one source needs. */
import type { Objects } from '../objects/objects.ts';
import { persistent } from '../objects/persistent.ts';
import type { ItemRead } from '../sources/source.ts';
import type { Item } from '../types.ts';
import type { ArchiveKind, ArchiveReader, Member } from './archive.ts';
import { gzipTar, zstdTar } from './packed-tar.ts';
import { tar } from './tar.ts';
import { zip } from './zip.ts';

export const archiveKinds: readonly ArchiveKind[] = [tar, gzipTar, zstdTar, zip];

/** By the extension of a path, key or URI without a query. */
export function archiveKindOf(name: string): ArchiveKind | undefined {
  const lowerCase = name.toLowerCase();
  return archiveKinds.find(({ extensions }) => extensions.some((extension) => lowerCase.endsWith(extension)));
}

export interface Archives {
  /** As `ArchiveReader.list`, of the archive as it is now. Patient, since nobody repeats a listing. */
  list(
    kind: ArchiveKind,
    uri: string,
    signal: AbortSignal | undefined,
  ): Promise<{ members: Member[]; skipped: number }>;

  /** As `ArchiveReader.read`. */
  read(kind: ArchiveKind, item: Item, options: ItemRead): Promise<Uint8Array>;

  /** Closes the objects, too. */
  close(): Promise<void>;
}

/** Opens what is needed when it is needed first. */
export function openArchives(objects: Objects): Archives {
  const patient = persistent(objects);
  const readers = new Map<ArchiveKind, ArchiveReader>();
  return {
    async list(kind, uri, signal) {
      const reader = kind.open(patient);
      try {
        return await reader.list(uri, await patient.stat(uri, { signal }), { signal });
      } finally {
        await reader.close();
      }
    },

    read(kind, item, options) {
      const reader = readers.get(kind) ?? kind.open(objects);
      readers.set(kind, reader);
      return reader.read(item, options);
    },

    async close() {
      for (const reader of readers.values()) await reader.close();
      readers.clear();
      await objects.close();
    },
  };
}
