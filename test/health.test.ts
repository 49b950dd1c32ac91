/** The port that an orchestrator looks at, by itself. */
import { once } from 'node:events';
import { connect } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { openLog, silentLog } from '../src/telemetry/log.ts';
import { type Health, type HealthServer, openHealth } from '../workers/health.ts';

const well: Health = { ailments: () => [], obstacles: () => [] };
const servers: HealthServer[] = [];

afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()));
});

async function serve(
  health: Health,
  { host = '127.0.0.1', port = 0, log = silentLog } = {},
): Promise<string> {
  const server = await openHealth(health, { host, port, log });
  servers.push(server);
  return server.url;
}

test('says in a status and in words how it is', async () => {
  const ailments: string[] = [];
  const url = await serve({
    ailments: () => ailments,
    obstacles: () => ['cuda:1: loading its model'],
    describe: () => ({ workers: [1] }),
  });
  const ask = async (path: string) => {
    const reply = await fetch(`${url}${path}`);
    return [reply.status, await reply.json()];
  };
  expect(await ask('/healthz')).toEqual([200, { status: 'well', reasons: [] }]);
  ailments.push('cuda:0: no sign of life for 21 s');
  expect(await ask('/healthz?verbose')).toEqual([503, { status: 'failing', reasons: ailments }]);
  expect(await ask('/readyz')).toEqual([
    503,
    { status: 'not ready', reasons: ['cuda:1: loading its model'], workers: [1] },
  ]);
});

test('a probe by HEAD gets the status alone; other methods and paths are told what there is', async () => {
  const url = await serve({ ...well, metrics: async () => ({ contentType: 'text/plain', body: 'up 1\n' }) });
  const head = await fetch(`${url}/metrics`, { method: 'HEAD' });
  expect([head.status, head.headers.get('content-length'), await head.text()]).toEqual([200, '5', '']);
  const post = await fetch(`${url}/healthz`, { method: 'POST', body: 'x'.repeat(1e6) });
  expect([post.status, post.headers.get('allow')]).toEqual([405, 'GET, HEAD']);
  for (const path of ['/', '/metrics/', '/__proto__', '/constructor']) {
    const reply = await fetch(`${url}${path}`);
    expect([reply.status, await reply.json()]).toMatchObject([
      404,
      { paths: ['/healthz', '/readyz', '/metrics'] },
    ]);
  }
  expect((await fetch(`${await serve(well)}/metrics`)).status).toBe(404);
});

test('what fails as it is asked is a status, a reason and a line of the log, and the next request is answered', async () => {
  const lines: string[] = [];
  const metrics = (): Promise<never> => Promise.reject(new Error('no such metric'));
  const url = await serve({ ...well, metrics }, { log: openLog('info', (line) => void lines.push(line)) });
  const reply = await fetch(`${url}/metrics`);
  expect([reply.status, await reply.json()]).toEqual([
    500,
    { status: 'failed', reasons: ['no such metric'] },
  ]);
  expect(lines.join()).toContain('no such metric');
  expect((await fetch(`${url}/healthz`)).status).toBe(200);
});

test('a port that is taken, and an address of another machine, are errors that say what to type', async () => {
  const port = Number(new URL(await serve(well)).port);
  await expect(serve(well, { port })).rejects.toMatchObject({
    code: 'port-in-use',
    message: expect.stringContaining('--metrics-port'),
  });
  await expect(serve(well, { host: '192.0.2.1' })).rejects.toMatchObject({ code: 'no-such-address' });
});

test('clients that never finish their request keep nobody out, and do not hold up the end', async () => {
  const url = await serve(well);
  const slow = Array.from({ length: 20 }, () => {
    const socket = connect(Number(new URL(url).port), '127.0.0.1');
    socket.write('GET /healthz HTTP/1.1\r\nhost: here\r\n');
    socket.on('error', () => undefined);
    return socket;
  });
  await Promise.all(slow.map((socket) => once(socket, 'connect')));
  expect((await fetch(`${url}/healthz`)).status).toBe(200);
  const gone = Promise.all(slow.map((socket) => once(socket, 'close')));
  for (const server of servers) await server.close();
  await gone;
  await expect(fetch(`${url}/healthz`)).rejects.toThrow();
});
