/** The server of an output: who may use it, what it says to who may not, and how it begins and ends. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { Ajv2020 } from 'ajv/dist/2020.js';
import type { FastifyInstance } from 'fastify';
import { afterEach, beforeAll, expect, test } from 'vitest';
import { s3OptionsOf } from '../src/settings/options.ts';
import type { Settings } from '../src/settings/table.ts';
import { openStore } from '../src/stores/open-store.ts';
import type { Store } from '../src/stores/store.ts';
import { lensmill } from './helpers/cli.ts';
import { contextOf } from './helpers/context.ts';
import { ask, bearer, serve, token } from './helpers/served.ts';
import { tempFolder } from './helpers/temp.ts';

const { settings } = contextOf({ device: 'cpu', cacheDir: tempFolder() });
let store: Store;
const servers: FastifyInstance[] = [];

beforeAll(async () => {
  store = openStore(tempFolder(), s3OptionsOf(settings));
  await store.probe();
});

afterEach(async () => {
  for (const server of servers.splice(0)) await server.close();
});

/** Of an output that has nothing yet: who gets past the door is told so. */
async function open(options: Parameters<typeof serve>[1] = {}, changes: Partial<Settings> = {}) {
  const server = await serve({ store, settings: { ...settings, ...changes } }, options);
  servers.push(server);
  return server;
}

async function sessionCookie(server: FastifyInstance, headers = {}): Promise<string> {
  const { headers: given } = await server.inject({
    method: 'POST',
    url: '/api/session',
    headers: { host: 'localhost', ...bearer, ...headers },
  });
  return String(given['set-cookie']);
}

test('nothing of the API is answered without the token, whatever it is asked for', async () => {
  const server = await open();
  const refused: Record<string, string>[] = [
    {},
    { authorization: 'Bearer another-token-12' },
    { authorization: `Bearer ${token}x` },
    { authorization: `Basic ${Buffer.from(`lensmill:${token}`).toString('base64')}` },
    { authorization: token },
    { cookie: `lensmill=${token}` },
    { authorization: 'Bearer another-token-12', cookie: await sessionCookie(server) },
  ];
  for (const headers of refused) {
    const reply = await server.inject({ url: '/api/index', headers: { host: 'localhost', ...headers } });
    expect([reply.statusCode, reply.json().code]).toEqual([401, 'unauthorized']);
  }
  for (const url of ['/api/nothing', '/api/runs', '/api/images/..%2f..']) {
    const reply = await server.inject({ url, headers: { host: 'localhost' } });
    expect(reply.statusCode).toBe(401);
  }
  expect((await ask(server, '/api/runs')).status).toBe(200);
});

test('a browser that has shown the token may ask by cookie, and the cookie is not the token', async () => {
  const server = await open();
  const cookie = await sessionCookie(server);
  expect(cookie).toMatch(/^lensmill-[0-9a-f]{12}=[\w-]{43}; Path=\/; HttpOnly; SameSite=Strict$/);
  expect(cookie).not.toContain(token);
  expect(await sessionCookie(server, { 'x-forwarded-proto': 'https' })).toMatch(/; Secure$/);
  const runs = await server.inject({
    url: '/api/runs',
    headers: { host: 'localhost', cookie: `a=b; ${cookie}` },
  });
  expect(runs.statusCode).toBe(200);
  // Of another token, so that two servers of one machine do not take each other's place.
  const other = await open({ token: 'another-token-of-16' });
  expect(cookie).not.toContain(
    (await sessionCookie(other, { authorization: 'Bearer another-token-of-16' })).split('=')[0],
  );
});

test.each([
  ['the page itself', { 'sec-fetch-site': 'same-origin' }, 503],
  ['the page itself, in a browser that tells only the origin', { origin: 'http://localhost:8152' }, 503],
  ['another port of this machine', { 'sec-fetch-site': 'same-site', origin: 'http://localhost:3000' }, 403],
  ['another site', { 'sec-fetch-site': 'cross-site', origin: 'http://evil.example' }, 403],
  ['a sandboxed frame', { origin: 'null' }, 403],
  ['nobody that says who it is', {}, 403],
])('a search by cookie from %s', async (_, headers, status) => {
  const server = await open();
  const cookie = await sessionCookie(server);
  const reply = await server.inject({
    method: 'POST',
    url: '/api/search',
    headers: { host: 'localhost:8152', cookie, ...headers },
    payload: { keys: ['0'.repeat(32)] },
  });
  // 503: it got as far as that there is no index.
  expect(reply.statusCode).toBe(status);
});

test('trying tokens is over after twenty, and who has the right one is not kept out', async () => {
  const server = await open();
  const attempt = () =>
    server.inject({
      url: '/api/runs',
      headers: { host: 'localhost', authorization: 'Bearer guess-guess-guess' },
    });
  for (let n = 0; n < 20; n++) expect((await attempt()).statusCode).toBe(401);
  const { statusCode, headers } = await attempt();
  expect([statusCode, Number(headers['retry-after']) > 0]).toEqual([429, true]);
  expect((await ask(server, '/api/runs')).status).toBe(200);
});

test('searches have a rate of their own', async () => {
  const server = await open();
  const search = () => ask(server, '/api/search', { method: 'POST', payload: {} });
  for (let n = 0; n < 240; n++) expect((await search()).status).toBe(503);
  expect(await search()).toMatchObject({ status: 429, body: { code: 'too-many-requests' } });
  expect((await ask(server, '/api/runs')).status).toBe(200);
});

test('at loopback, only names of this machine are served: a rebound name gets nothing', async () => {
  const server = await open();
  for (const host of ['localhost', 'LOCALHOST:8152', '127.0.0.1:9000', '[::1]:8152', '127.0.0.2'])
    expect((await ask(server, '/api/runs', { headers: { host } })).status).toBe(200);
  for (const host of ['evil.example:8152', '192.168.0.7', 'localhost.evil.example', '127.0.0.1.nip.io']) {
    expect(await ask(server, '/api/runs', { headers: { host } })).toMatchObject({
      body: { code: 'wrong-host' },
    });
    expect((await server.inject({ url: '/', headers: { host } })).statusCode).toBe(421);
  }
  const public_ = await open({ host: '0.0.0.0' });
  expect((await ask(public_, '/api/runs', { headers: { host: 'photos.example' } })).status).toBe(200);
});

test('whatever is wrong is told as a problem, without a stack', async () => {
  const server = await open();
  const wrong: [string, string, number, string][] = [
    ['GET', '/api/nothing', 404, 'no-route'],
    ['GET', '/nothing', 404, 'no-route'],
    ['DELETE', '/api/runs', 404, 'no-route'],
    ['GET', '/%E0', 400, 'bad-request'],
    ['GET', '/api/index', 503, 'no-index'],
    ['GET', '/api/images?limit=0', 400, 'bad-request'],
    ['GET', '/api/images/..%2f..%2fetc%2fpasswd', 400, 'bad-request'],
    ['GET', '/api/runs/..%2f..%2fetc/failures', 400, 'bad-request'],
    ['GET', '/api/runs/none/failures', 404, 'no-run'],
    ['GET', '/api/runs/none/thumbnail?id=a.jpg', 404, 'no-run'],
  ];
  for (const [method, url, status, code] of wrong) {
    const { headers, statusCode, body } = await server.inject({
      method: method as 'GET', // and DELETE
      url,
      headers: { host: 'localhost', ...bearer },
    });
    expect([url, statusCode, headers['content-type']]).toEqual([url, status, expect.stringMatching(/json/)]);
    expect(JSON.parse(body)).toEqual({ status, code, message: expect.any(String) });
    expect(body).not.toMatch(/\bat .*\.ts:|node_modules/);
  }
  const { message } = (await ask(server, '/api/index')).body;
  expect(message).toContain(`lensmill build-index ${store.uri}`);
});

test.each([
  ['no HTTP', 'HELO photos.example\r\n\r\n', 400],
  [
    'larger than may be',
    `GET /api/images?prefix=${'a'.repeat(20_000)} HTTP/1.1\r\nHost: localhost\r\n\r\n`,
    431,
  ],
])('a request that is %s is told so as a problem too', async (_, request, status) => {
  const server = await open();
  await server.listen({ host: '127.0.0.1', port: 0 });
  const { port } = server.server.address() as AddressInfo; // it listens at a port
  const connection = connect(port, '127.0.0.1');
  connection.write(request);
  const [head = '', body = ''] = (await text(connection)).split('\r\n\r\n');
  expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} .*\r\ncontent-type: application/json`));
  expect(JSON.parse(body)).toEqual({ status, code: expect.any(String), message: expect.any(String) });
});

test('a body that is too large or no JSON is refused', async () => {
  const server = await open();
  const send = (payload: string, type = 'application/json') =>
    ask(server, '/api/search', { method: 'POST', payload, headers: { 'content-type': type } });
  expect((await send(`{"keys":["${'0'.repeat(300_000)}"]}`)).body.code).toBe('too-large');
  expect((await send('{"k":')).status).toBe(400);
  expect((await send('k=1', 'application/x-www-form-urlencoded')).status).toBe(415);
  expect((await send('k=1', 'text/plain')).body.code).toBe('unsupported-media-type');
});

test('the page is served as it was built, to whoever asks, and nothing beside it', async () => {
  const folder = join(tempFolder(), 'public');
  mkdirSync(join(folder, 'assets'), { recursive: true });
  writeFileSync(join(folder, '../secret.txt'), 'secret');
  writeFileSync(join(folder, 'index.html'), '<!doctype html>');
  writeFileSync(join(folder, 'assets/main-1a2b.js'), '');
  const server = await open({ pageFolder: folder });
  const get = (url: string) => server.inject({ url, headers: { host: 'localhost' } });
  const page = await get('/');
  expect([page.statusCode, page.body, page.headers['cache-control']]).toEqual([
    200,
    '<!doctype html>',
    'no-cache',
  ]);
  const policy = String(page.headers['content-security-policy']);
  expect(policy).toMatch(/default-src 'self'.*frame-ancestors 'none'/);
  expect(policy).not.toContain('unsafe');
  expect((await get('/assets/main-1a2b.js')).headers['cache-control']).toContain('immutable');
  for (const url of [
    '/../secret.txt',
    '/..%2fsecret.txt',
    '/assets/..%2f..%2fsecret.txt',
    '/%2e%2e/secret.txt',
  ])
    expect((await get(url)).statusCode).toBeGreaterThanOrEqual(400);

  const { body } = await (await open()).inject({ url: '/', headers: { host: 'localhost' } });
  expect(body).toContain('npm run build:page');
});

interface Described {
  paths: Record<string, Record<string, { responses: Record<string, unknown>; operationId: string }>>;
  components: { schemas: Record<string, object> };
}

test('the OpenAPI document tells every route, with its problems, in schemas that are valid', async () => {
  const server = await open();
  const reply = await server.inject({ url: '/api/openapi.json', headers: { host: 'localhost' } });
  const { paths, components }: Described = reply.json();
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, described]) => ({ route: `${method} ${path}`, ...described })),
  );
  expect(operations.map(({ route }) => route).toSorted()).toEqual([
    'get /api/duplicates',
    'get /api/images',
    'get /api/images/{key}',
    'get /api/images/{key}/neighbours',
    'get /api/images/{key}/thumbnail',
    'get /api/index',
    'get /api/labels',
    'get /api/map',
    'get /api/runs',
    'get /api/runs/events',
    'get /api/runs/{run}/failures',
    'get /api/runs/{run}/thumbnail',
    'post /api/search',
    'post /api/session',
  ]);
  expect(new Set(operations.map(({ operationId }) => operationId)).size).toBe(operations.length);
  for (const { responses } of operations)
    expect(Object.keys(responses)).toEqual(expect.arrayContaining(['4XX', '5XX']));
  const ajv = new Ajv2020({ strict: false });
  ajv.addFormat('date-time', true);
  ajv.addSchema({ $id: 'api', components });
  for (const name of Object.keys(components.schemas))
    expect(ajv.getSchema(`api#/components/schemas/${name}`)).toBeDefined();
  // What is referred to is there.
  for (const [, path = ''] of reply.body.matchAll(/"\$ref":"#\/components\/schemas\/([^"]*)"/g))
    expect(components.schemas).toHaveProperty(path);
});

test('a second server at a port says so, and one that is stopped ends in good order', async () => {
  const uri = store.uri.replace('file://', '');
  const first = lensmill(['serve', uri, '--port', '0', '--token', token]);
  const { promise: printed, resolve } = Promise.withResolvers<string>();
  first.stdout?.on('data', (chunk) => /#token=/.test(String(chunk)) && resolve(String(chunk)));
  const url = new URL(/http:\S+/.exec(await printed)?.[0] ?? '');
  expect([url.hostname, url.hash]).toEqual(['127.0.0.1', `#token=${token}`]);
  const reply = await fetch(new URL('/api/runs', url), { headers: bearer });
  expect([reply.status, await reply.json()]).toEqual([200, []]);

  const second = await lensmill(['serve', uri, '--port', url.port]);
  expect([second.exitCode, second.stderr]).toEqual([
    2,
    expect.stringContaining(`127.0.0.1:${url.port} already`),
  ]);

  // A page that follows the runs is no reason to stay.
  const events = connect(Number(url.port), '127.0.0.1');
  events.write(`GET /api/runs/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${token}\r\n\r\n`);
  await new Promise((heard) => events.once('data', heard));
  first.kill('SIGTERM');
  expect((await first).exitCode).toBe(0);
});
