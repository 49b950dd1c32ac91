/**
 * The writer: the thread that makes a part's bytes of a shard's rows, 14 µs a row that the main thread would not answer in.
 * The rows' numbers lie in shared memory, the bytes are handed over.
 */
import { encodePart } from '../src/part.ts';
import { serveThread } from './thread.ts';

export type WriterRequest = Parameters<typeof encodePart>;
export type WriterReply = Uint8Array<ArrayBuffer>;

serveThread<WriterRequest, WriterReply>(
  async (request) => new Uint8Array(encodePart(...request)),
  async () => undefined,
  ({ buffer }) => [buffer],
);
