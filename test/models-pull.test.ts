/** Downloads, from a hub on this machine that redirects, breaks off and lies as told. */
import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, expect, test } from 'vitest';
import { pullModel, resolveModel } from '../src/models/model.ts';
import type { Preset } from '../src/models/presets.ts';
import { imagenetPreprocessing } from '../src/models/presets.ts';
import { hubFromEnv, type PullOptions, pullPreset } from '../src/models/pull.ts';
import { randomTensors } from '../src/models/random.ts';
import { encodeSafetensors } from '../src/models/safetensors.ts';
import { parseArchitecture } from '../src/models/spec.ts';
import { tempFolder } from './helpers/temp.ts';

const content = randomBytes(300_000);
const sha256 = createHash('sha256').update(content).digest('hex');
const etag = '"storage-etag"';
const preset: Preset = {
  name: 'timm/test',
  aliases: [],
  repository: 'timm/test',
  file: 'model.safetensors',
  sha256,
  preprocessing: imagenetPreprocessing,
  accuracy: 0,
  license: 'CC0-1.0',
};
const { sha256: _, ...unknownPreset } = preset;

type Handler = (request: IncomingMessage, response: ServerResponse) => void;
const servers: Server[] = [];

/** Origin of a server that keeps the requests it got. */
async function startServer(handler: Handler): Promise<{ origin: string; requests: IncomingMessage[] }> {
  const requests: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    requests.push(request);
    handler(request, response);
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests };
}

afterEach(() => {
  for (const server of servers.splice(0)) {
    server.close();
    server.closeAllConnections();
  }
});

/** The file, or the rest of it that was asked for. `breakAfter` bytes the connection is cut. */
function sendFile(
  request: IncomingMessage,
  response: ServerResponse,
  body = content,
  breakAfter?: number,
): void {
  const isRange = request.headers['if-range'] === etag;
  const start = isRange ? Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0) : 0;
  const range = { 'content-range': `bytes ${start}-${body.length - 1}/${body.length}` };
  response.writeHead(isRange ? 206 : 200, {
    etag,
    'content-length': body.length - start,
    ...(isRange && range),
  });
  if (breakAfter === undefined) response.end(body.subarray(start));
  else
    response.write(body.subarray(start, start + breakAfter), () => setTimeout(() => response.destroy(), 20));
}

function optionsFor(
  endpoint: string,
  changes: Partial<PullOptions> = {},
): PullOptions & { cacheDir: string } {
  return {
    cacheDir: tempFolder(),
    hub: { endpoint, offline: false },
    retryMs: 1,
    timeoutMs: 2000,
    ...changes,
  };
}

const cached = (cacheDir: string) => join(cacheDir, 'hub/timm/test/model.safetensors');
const partsIn = (cacheDir: string) =>
  readdirSync(dirname(cached(cacheDir))).filter((name) => name.endsWith('.part'));

test('a preset is pulled over redirects, with progress, and the second time taken from the cache', async () => {
  const storage = await startServer((request, response) => sendFile(request, response));
  const hub = await startServer((_request, response) =>
    response.writeHead(302, { location: `${storage.origin}/blob` }).end(),
  );
  const progress: [number, number | undefined][] = [];
  const options = optionsFor(hub.origin, { onProgress: (...step) => progress.push(step) });
  const pulled = await pullPreset(preset, options);
  expect(pulled).toEqual({ path: cached(options.cacheDir), sha256, isPinnedNow: false });
  expect(readFileSync(pulled.path).equals(content)).toBe(true);
  expect(hub.requests[0]?.url).toBe('/timm/test/resolve/main/model.safetensors');
  expect(progress.at(-1)).toEqual([content.length, content.length]);
  expect(await pullPreset(preset, options)).toEqual(pulled);
  expect(hub.requests).toHaveLength(1);
  expect(partsIn(options.cacheDir)).toEqual([]);
});

test('the token goes to the hub, also behind its own redirects, and to no other host', async () => {
  const storage = await startServer((request, response) => sendFile(request, response));
  const hub = await startServer((request, response) => {
    const location = request.url === '/inner' ? `${storage.origin}/blob` : '/inner';
    response.writeHead(307, { location }).end();
  });
  await pullPreset(
    preset,
    optionsFor(hub.origin, { hub: { endpoint: hub.origin, token: 'hf_secret', offline: false } }),
  );
  expect(hub.requests.map(({ headers }) => headers.authorization)).toEqual([
    'Bearer hf_secret',
    'Bearer hf_secret',
  ]);
  expect(storage.requests.map(({ headers }) => headers.authorization)).toEqual([undefined]);
});

test('a download that breaks off goes on where it broke', async () => {
  let count = 0;
  const hub = await startServer((request, response) =>
    sendFile(request, response, content, count++ < 2 ? 100_000 : undefined),
  );
  const options = optionsFor(hub.origin);
  expect((await pullPreset(preset, options)).sha256).toBe(sha256);
  const starts = hub.requests.map(({ headers }) => Number(/\d+/.exec(headers.range ?? '0')?.[0]));
  expect(starts[0]).toBe(0);
  expect(starts[1]).toBeGreaterThan(0);
  expect(starts[2]).toBeGreaterThan(starts[1] as number);
});

test('what a killed process left is continued by the next one', async () => {
  const hub = await startServer((request, response) => sendFile(request, response));
  const options = optionsFor(hub.origin);
  leavePart(options.cacheDir, 999_999_999, content.subarray(0, 200_000));
  leavePart(options.cacheDir, 999_999_998, content.subarray(0, 100));
  leavePart(options.cacheDir, process.ppid, content.subarray(0, 250_000)); // still running: not ours to take
  expect((await pullPreset(preset, options)).sha256).toBe(sha256);
  expect(hub.requests.map(({ headers }) => headers.range)).toEqual(['bytes=200000-']);
  expect(partsIn(options.cacheDir)).toHaveLength(1);
});

test('damaged bytes of an earlier process are thrown away and pulled again', async () => {
  const hub = await startServer((request, response) => sendFile(request, response));
  const options = optionsFor(hub.origin);
  leavePart(options.cacheDir, 999_999_999, Buffer.alloc(200_000));
  expect((await pullPreset(preset, options)).sha256).toBe(sha256);
  expect(hub.requests.map(({ headers }) => headers.range)).toEqual(['bytes=200000-', undefined]);
});

test.each([
  [
    'has changed since',
    (request: IncomingMessage, response: ServerResponse) =>
      sendFile({ ...request, headers: {} } as IncomingMessage, response),
  ],
  [
    'cannot be satisfied',
    (request: IncomingMessage, response: ServerResponse) =>
      request.headers.range ? void response.writeHead(416).end() : sendFile(request, response),
  ],
])('a range that %s begins anew', async (_name, handler) => {
  const hub = await startServer(handler);
  const options = optionsFor(hub.origin);
  leavePart(options.cacheDir, 999_999_999, Buffer.alloc(400_000));
  expect((await pullPreset(preset, options)).sha256).toBe(sha256);
  expect(hub.requests[0]?.headers.range).toBe('bytes=400000-');
});

test('a wrong byte is an error, and nothing is kept', async () => {
  const wrong = Buffer.from(content);
  wrong.writeUInt8(wrong.readUInt8(1234) ^ 1, 1234);
  const hub = await startServer((request, response) => sendFile(request, response, wrong));
  const options = optionsFor(hub.origin);
  await expect(pullPreset(preset, options)).rejects.toMatchObject({
    code: 'wrong-sha256',
    message: expect.stringContaining(sha256),
  });
  expect(hub.requests).toHaveLength(1);
  expect(existsSync(cached(options.cacheDir))).toBe(false);
  expect(partsIn(options.cacheDir)).toEqual([]);
});

test('a file that was damaged in the cache is not used', async () => {
  const options = optionsFor('http://127.0.0.1:1');
  mkdirSync(dirname(cached(options.cacheDir)), { recursive: true });
  writeFileSync(cached(options.cacheDir), 'damaged');
  await expect(pullPreset(preset, options)).rejects.toMatchObject({ code: 'wrong-sha256' });
});

test('a hash that nobody names is pinned by the first download and expected by the next', async () => {
  let body = content;
  const hub = await startServer((request, response) => sendFile(request, response, body));
  const options = optionsFor(hub.origin);
  expect(await pullPreset(unknownPreset, options)).toMatchObject({ sha256, isPinnedNow: true });
  expect(readFileSync(`${cached(options.cacheDir)}.sha256`, 'utf8')).toBe(`${sha256}\n`);
  expect(await pullPreset(unknownPreset, options)).toMatchObject({ sha256, isPinnedNow: false });

  body = randomBytes(1000);
  writeFileSync(`${cached(options.cacheDir)}.sha256`, `${sha256}\n`);
  const fresh = optionsFor(hub.origin);
  mkdirSync(dirname(cached(fresh.cacheDir)), { recursive: true });
  writeFileSync(`${cached(fresh.cacheDir)}.sha256`, `${sha256}\n`);
  await expect(pullPreset(unknownPreset, fresh)).rejects.toMatchObject({ code: 'wrong-sha256' });
});

test('where no hash is known, the one that the hub links is expected', async () => {
  const storage = await startServer((request, response) => sendFile(request, response));
  const headers = { location: `${storage.origin}/blob`, 'x-linked-etag': `"${'0'.repeat(64)}"` };
  const hub = await startServer((_request, response) => response.writeHead(302, headers).end());
  await expect(pullPreset(unknownPreset, optionsFor(hub.origin))).rejects.toMatchObject({
    code: 'wrong-sha256',
  });
});

test.each([
  [404, 'not-found', /HF_ENDPOINT/, 1],
  [401, 'unauthorized', /set HF_TOKEN/, 1],
  [403, 'unauthorized', /set HF_TOKEN/, 1],
  [503, 'download-failed', /HTTP 503/, 6],
])('HTTP %d is the error %s', async (status, code, message, requests) => {
  const hub = await startServer((_request, response) => response.writeHead(status).end('no'));
  const pulling = pullPreset(preset, optionsFor(hub.origin));
  await expect(pulling).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  expect(hub.requests).toHaveLength(requests);
});

test('a server that falls silent is asked again, for the rest', async () => {
  let count = 0;
  const hub = await startServer((request, response) => {
    if (count++ > 0) return sendFile(request, response);
    response.writeHead(200, { etag, 'content-length': content.length }).write(content.subarray(0, 50_000));
  });
  expect((await pullPreset(preset, optionsFor(hub.origin, { timeoutMs: 300 }))).sha256).toBe(sha256);
  expect(hub.requests[1]?.headers.range).toBe('bytes=50000-');
});

test('nobody there is an error that names the address', async () => {
  const pulling = pullPreset(preset, optionsFor('http://127.0.0.1:1'));
  await expect(pulling).rejects.toMatchObject({
    code: 'download-failed',
    message: expect.stringMatching(/127\.0\.0\.1:1/),
  });
});

test('offline, the cache is used and no connection is opened', async () => {
  const hub = await startServer((request, response) => sendFile(request, response));
  const online = optionsFor(hub.origin);
  const offline = { ...online, hub: { ...online.hub, offline: true } };
  await expect(pullPreset(preset, offline)).rejects.toMatchObject({ code: 'offline' });
  expect(hub.requests).toHaveLength(0);
  await pullPreset(preset, online);
  expect((await pullPreset(preset, offline)).sha256).toBe(sha256);
  expect(hub.requests).toHaveLength(1);
});

test('two processes that pull at once both end with the file', async () => {
  const hub = await startServer((request, response) => sendFile(request, response));
  const options = optionsFor(hub.origin);
  const script = `
    import { pullPreset } from ${JSON.stringify(join(import.meta.dirname, '../src/models/pull.ts'))};
    console.log((await pullPreset(${JSON.stringify(preset)}, ${JSON.stringify(options)})).sha256);
  `;
  const pull = () => promisify(execFile)(process.execPath, ['--input-type=module', '-e', script]);
  const outputs = await Promise.all([pull(), pull()]);
  expect(outputs.map(({ stdout }) => stdout.trim())).toEqual([sha256, sha256]);
  expect(readFileSync(cached(options.cacheDir)).equals(content)).toBe(true);
  expect(partsIn(options.cacheDir)).toEqual([]);
});

test('an interrupted pull ends at once with its reason, and takes nobody else along', async () => {
  const stop = new AbortController();
  let asked = 0;
  const hub = await startServer((request, response) => {
    if (asked++ > 0) return sendFile(request, response);
    response.writeHead(200, { etag, 'content-length': content.length }).write(content.subarray(0, 50_000));
  });
  const options = optionsFor(hub.origin);
  const interrupted = pullPreset(preset, {
    ...options,
    signal: stop.signal,
    onProgress: () => stop.abort(new Error('enough')),
  });
  const other = pullPreset(preset, options);
  await expect(interrupted).rejects.toThrow('enough');
  expect((await other).sha256).toBe(sha256);
  expect(hub.requests[1]?.headers.range).toBe('bytes=50000-');
});

test('the environment names the hub', () => {
  expect(hubFromEnv({})).toEqual({ endpoint: 'https://huggingface.co', offline: false });
  const env = { HF_ENDPOINT: 'https://mirror.example/hf/', HF_TOKEN: 'hf_x', HF_HUB_OFFLINE: '1' };
  expect(hubFromEnv(env)).toEqual({ endpoint: 'https://mirror.example/hf', token: 'hf_x', offline: true });
  expect(() => hubFromEnv({ HF_ENDPOINT: 'mirror' })).toThrow(
    expect.objectContaining({ code: 'bad-setting' }),
  );
});

test('a preset resolves to a model, and says that its hash was pinned', async () => {
  const weights = Buffer.concat([...encodeSafetensors(randomTensors('0', parseArchitecture('1-1-1-1')))]);
  const hub = await startServer((_request, response) => response.end(weights));
  const notices: string[] = [];
  const options = {
    ...optionsFor(hub.origin),
    resizeMode: 'exact',
    precision: 'fp32',
    onNotice: (notice: string) => notices.push(notice),
  } as const;
  const model = await resolveModel('resnet152.a1h_in1k', options);
  expect(hub.requests[0]?.url).toBe('/timm/resnet152.a1h_in1k/resolve/main/model.safetensors');
  expect(model.preset?.license).toBe('Apache-2.0');
  expect(model.file).toBeUndefined();
  expect(model.identity).toMatchObject({
    ref: 'timm/resnet152.a1h_in1k',
    preprocessing: { resize: 235 },
    untrained: false,
  });
  expect(notices).toEqual([expect.stringContaining(model.identity.weights)]);
  await resolveModel('timm/resnet152.a1h_in1k', options);
  expect(notices).toHaveLength(1);
  await expect(pullModel('resnet18', options)).rejects.toMatchObject({ code: 'unknown-preset' });
});

/** A part as a process with that id would have left it. */
function leavePart(cacheDir: string, pid: number, bytes: Buffer): void {
  mkdirSync(dirname(cached(cacheDir)), { recursive: true });
  const name = `${hostname()}-${pid}.${Buffer.from(etag).toString('base64url')}.part`;
  writeFileSync(`${cached(cacheDir)}.${name}`, bytes);
}
