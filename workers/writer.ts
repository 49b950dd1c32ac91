/**
 * The writer: the thread that makes a part's bytes of a shard's rows and creates the part. Encoding takes 14 µs a row, and hashing
 * and sending as much again, which the main thread would not answer in. It reads finished parts, too, for the same reason.
 */
import { workerData } from 'node:worker_threads';
import { type CommitResult, commitPart } from '../src/commit.ts';
import { type PartFacts, readPartFacts } from '../src/finalize.ts';
import { encodePart } from '../src/parts/part.ts';
import type { Made } from '../src/pipeline.ts';
import type { CommittedPart } from '../src/runs/committed.ts';
import type { S3Options } from '../src/s3/s3.ts';
import { type EndedRows, readSheet } from '../src/sheet.ts';
import { openStore } from '../src/stores/open-store.ts';
import { serveThread } from './thread.ts';

export interface WriterOptions {
  output: string;
  s3: S3Options;
  /** As the store's `probe` found it. */
  conditional: boolean;
}

/** `part`: a number that the caller chooses; what was encoded is kept under it until it is committed or dropped. */
export type WriterRequest =
  | { kind: 'encode'; part: number; rows: EndedRows; made: Made }
  | { kind: 'commit'; part: number; run: string; shard: number }
  | { kind: 'drop'; part: number }
  | { kind: 'read'; part: CommittedPart };
/** Of a commit, of 'read', and of 'encode': how many bytes it came to. */
export type WriterReply = CommitResult | PartFacts | number | undefined;

// Only part-writer.ts starts this thread.
const { output, s3, conditional } = workerData as WriterOptions;
const store = openStore(output, s3, { conditional });
const encoded = new Map<number, Uint8Array>();

serveThread<WriterRequest, WriterReply>(
  async (request) => {
    switch (request.kind) {
      case 'encode': {
        const bytes = encodePart(readSheet(request.rows), ...request.made);
        encoded.set(request.part, bytes);
        return bytes.length;
      }
      case 'commit':
        return commitPart(store, request.run, request.shard, take(request.part));
      case 'drop':
        take(request.part);
        return undefined;
      case 'read':
        return readPartFacts(store, request.part);
    }
  },
  () => store.close(),
);

function take(part: number): Uint8Array {
  const bytes = encoded.get(part);
  if (!bytes) throw new Error(`no part ${part} was encoded: this is a bug`);
  encoded.delete(part);
  return bytes;
}
