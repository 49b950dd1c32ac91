/** A lane by itself, with a session that stands for the device and counts what it is asked. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MessageChannel } from 'node:worker_threads';
import sharp from 'sharp';
import { expect, test } from 'vitest';
import { encodeItems } from '../src/page.ts';
import { openSheets, readSheet } from '../src/sheet.ts';
import type { Item } from '../src/types.ts';
import type { LaneOptions, LaneReply, LaneRequest } from '../workers/lane.ts';
import { openThread } from '../workers/thread.ts';
import { makeRequest } from './helpers/requests.ts';
import { sourceDefaults } from './helpers/source-options.ts';
import { tempFolder } from './helpers/temp.ts';

test('what has no pixels is told, and a batch of nothing else never reaches the device', async () => {
  const folder = tempFolder();
  const white = { width: 300, height: 200, channels: 3, background: 'white' } as const;
  writeFileSync(join(folder, 'good.jpg'), await sharp({ create: white }).jpeg().toBuffer());
  writeFileSync(join(folder, 'bad.jpg'), 'no picture');
  const itemOf = (id: string): Item => ({ id, uri: `file://${folder}/${id}`, etag: '', size: 0 });
  const gone: Item = { ...itemOf('gone.jpg'), replaces: true, gone: true };
  const lines = encodeItems([itemOf('bad.jpg'), itemOf('missing.jpg'), gone, itemOf('good.jpg')]);
  const sheet = openSheets({ dimension: 1, topK: 1 }).take(lines).memory;

  const lane = openThread<LaneRequest, LaneReply>('lane', {
    slots: [new SharedArrayBuffer(4 * 224 * 224 * 3)],
    reads: 2,
    readTimeoutMs: 10_000,
    decoder: 'auto',
    sources: sourceDefaults,
    sessionCalls: new SharedArrayBuffer(4),
  } satisfies LaneOptions);
  const { port1, port2 } = new MessageChannel();
  const asked: unknown[] = [];
  port2.on('message', ({ id, request }) => {
    asked.push(request);
    port2.postMessage({ id, reply: { inferMs: 1, batch: 4 } });
  });
  lane.connect(port1);
  try {
    const request = makeRequest('r', {
      source: { ...makeRequest('r').source, uris: [`file://${folder}`] },
      maxPixels: 1e9,
      maxBytes: 1e8,
    });
    await lane.call({ kind: 'run', run: request, seen: undefined });
    const embed = (first: number, count: number) =>
      lane.call({
        kind: 'embed',
        slot: 0,
        ranges: [{ run: 'r', sheet, first, count, suspect: false, anew: false }],
      });
    const none = await embed(0, 3);
    expect(none?.exceptions.map(({ at, outcome }) => [at, outcome.status])).toEqual([
      [0, 'failed'],
      [1, 'failed'],
      [2, 'gone'],
    ]);
    expect(none?.inferred).toBeUndefined();
    // 'no picture'; of the others nothing came.
    expect(none?.bytesRead).toEqual([10]);
    expect(asked).toEqual([]);

    const some = await embed(2, 2);
    expect(some).toMatchObject({ exceptions: [{ at: 0 }], inferred: { inferMs: 1 } });
    expect(asked).toMatchObject([{ kind: 'infer', slot: 0, ranges: [{ first: 2, count: 2 }] }]);

    const failures = new Map(
      (none?.exceptions ?? []).flatMap(({ at, outcome }) =>
        outcome.status === 'failed' ? [[at, outcome] as const] : [],
      ),
    );
    const { items, outcomes } = readSheet({ sheet, failures });
    expect(items[2]).toEqual(gone);
    expect(outcomes).toMatchObject([
      { status: 'failed', error: 'unsupported-format', bytes: 10 },
      { status: 'failed', error: 'not-found' },
      { status: 'gone' },
      {
        status: 'ok',
        width: 300,
        height: 200,
        format: 'jpeg',
        sha256: expect.stringMatching(/^[0-9a-f]{64}$/),
      },
    ]);
  } finally {
    await lane.close();
    port2.close();
  }
});
