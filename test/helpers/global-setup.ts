/** Runs once around all test files: the S3 server takes seconds to start, so the first test that needs one starts it. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { TestProject } from 'vitest/node';
import { startRadosgw } from './servers.ts';

export default async function setUp(project: TestProject): Promise<() => Promise<void>> {
  let server: ReturnType<typeof startRadosgw> | undefined;
  const door = createServer((_request, reply) => {
    server ??= startPatiently();
    server.then(
      ({ close, ...address }) => reply.end(JSON.stringify(address)),
      (error) => reply.writeHead(500).end(String(error)),
    );
  });
  await once(door.listen(0, '127.0.0.1'), 'listening');
  // An 'AddressInfo' since it listens on TCP.
  project.provide('s3Door', `http://127.0.0.1:${(door.address() as AddressInfo).port}`);

  return async () => {
    door.close();
    // One that did not start has told its test so.
    await server?.then(({ close }) => close()).catch(() => undefined);
  };
}

/** Most files wait for this one server: on a machine where it fails once, it gets two more attempts, and its words are printed. */
async function startPatiently(attemptsLeft = 2): ReturnType<typeof startRadosgw> {
  try {
    return await startRadosgw();
  } catch (error) {
    if (attemptsLeft === 0) throw error;
    console.error(`${error}\nOnce more.`);
    return startPatiently(attemptsLeft - 1);
  }
}
