/** The writer thread (writer.ts), as the main thread speaks to it. */
import type { CommitResult } from '../src/commit.ts';
import type { PartFacts } from '../src/finalize.ts';
import type { PipelineParts } from '../src/pipeline.ts';
import type { CommittedPart } from '../src/runs/committed.ts';
import { openThread } from './thread.ts';
import type { WriterOptions, WriterReply, WriterRequest } from './writer.ts';

export interface PartWriter {
  encode: PipelineParts['encode'];
  /** As `readPartFacts`. */
  readFacts(part: CommittedPart): Promise<PartFacts>;
  /** Rejects when the thread is lost: the process must end then. */
  readonly lost: Promise<never>;
  /** Lets what is under way end. Safe to call twice. */
  close(): Promise<void>;
}

/** Over a store that was probed. */
export function openPartWriter(options: WriterOptions): PartWriter {
  const thread = openThread<WriterRequest, WriterReply>('writer', options);
  let parts = 0;
  return {
    async encode(rows, ...made) {
      const part = parts++;
      // It answers as it was asked, here and below.
      const bytes = (await thread.call({ kind: 'encode', part, rows, made })) as number;
      const [{ run, shard }] = made;
      return {
        bytes,
        commit: () => thread.call({ kind: 'commit', part, run, shard }) as Promise<CommitResult>,
        drop: () => void thread.call({ kind: 'drop', part }).catch(() => undefined), // lost with its thread
      };
    },
    readFacts: (part) => thread.call({ kind: 'read', part }) as Promise<PartFacts>,
    lost: thread.lost,
    close: () => thread.close(),
  };
}
