/**
 * Weights from the Hugging Face hub, into a cache folder that processes share.
 *
 *   1. A file that is there is hashed and used; nothing else is asked of the network.
 *   2. Otherwise it is downloaded to `<file>.<host>-<pid>.<etag>.part`. The name says whose it is and of what: a part
 *      whose process is gone is taken over and continued, if the server still has the same content (Range, If-Range).
 *   3. Its SHA-256 is compared with the preset's, or with the pin that the first download left beside the file, or with
 *      the one the hub states. Only then is it renamed into place; of two processes that pull at once, the later
 *      replaces the file by its equal.
 *
 * `@huggingface/hub` keeps such a cache, too, but neither resumes, retries, times out, nor verifies a hash.
 */
import { existsSync } from 'node:fs';
import { open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';
import pRetry from 'p-retry';
import { z } from 'zod';
import { errnoOf } from '../errno.ts';
import { ConfigError, messageOf } from '../errors.ts';
import { makeFolder, rethrowUnwritable } from './files.ts';
import { hashFile } from './identity.ts';
import type { Preset } from './presets.ts';

export interface Hub {
  /** Without a trailing slash. */
  endpoint: string;
  /** Sent to `endpoint` only, never to where it redirects. */
  token?: string;
  /** Use what the cache holds; open no connection. */
  offline: boolean;
}

export interface PullOptions {
  cacheDir: string;
  hub: Hub;
  /** Bytes on disk, and of the whole file where the server tells. */
  onProgress?: (bytes: number, total: number | undefined) => void;
  signal?: AbortSignal;
  /** Longest silence of a server before the request is repeated. Default 30 s. */
  timeoutMs?: number;
  /** Times that a failed request is repeated. Default 5. */
  retries?: number;
  /** Pause before the first repetition, doubled each time. Default 1 s. */
  retryMs?: number;
}

export interface Pulled {
  path: string;
  sha256: string;
  /** True where this call made the SHA-256 the one to expect from now on, because nobody had named it before. */
  isPinnedNow: boolean;
}

/** As huggingface_hub reads them: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE. Throws ConfigError 'bad-setting'. */
export function hubFromEnv(env: NodeJS.ProcessEnv): Hub {
  const endpoint = z.url({ protocol: /^https?$/ }).safeParse(env.HF_ENDPOINT || 'https://huggingface.co');
  if (!endpoint.success)
    throw new ConfigError('bad-setting', `HF_ENDPOINT: '${env.HF_ENDPOINT}' is no http(s) URL`);
  return {
    endpoint: endpoint.data.replace(/\/+$/, ''),
    ...(env.HF_TOKEN && { token: env.HF_TOKEN }),
    offline: /^(1|true|yes|on)$/i.test(env.HF_HUB_OFFLINE ?? ''),
  };
}

/**
 * A preset's file on this machine. Throws ConfigError: 'offline', 'unauthorized', 'not-found', 'download-failed' (after
 * retries; what has come is kept and continued next time), 'wrong-sha256' (of the cached or of the downloaded file), 'unwritable'.
 */
export async function pullPreset(preset: Preset, options: PullOptions): Promise<Pulled> {
  const path = join(options.cacheDir, 'hub', preset.repository, preset.file);
  for (;;) {
    const running = pulls.get(path) ?? {
      pulled: pullInto(path, preset, options).finally(() => pulls.delete(path)),
      signal: options.signal,
    };
    pulls.set(path, running);
    try {
      return await running.pulled;
    } catch (error) {
      const isOnlyTheirs = running.signal?.aborted && !options.signal?.aborted;
      if (!isOnlyTheirs) throw error;
    }
  }
}

/** Parts are named after the process, so within one process a file is pulled once, for whoever asks meanwhile. */
const pulls = new Map<string, { pulled: Promise<Pulled>; signal: AbortSignal | undefined }>();

async function pullInto(path: string, preset: Preset, options: PullOptions): Promise<Pulled> {
  const { endpoint, offline } = options.hub;
  if (!existsSync(path)) {
    if (offline) {
      const where = dirname(path);
      throw new ConfigError(
        'offline',
        `${preset.name} is not in ${where}, and HF_HUB_OFFLINE forbids to download it`,
      );
    }
    await makeFolder(dirname(path));
    await download(`${endpoint}/${preset.repository}/resolve/main/${preset.file}`, path, preset, options);
  }
  const sha256 = await hashFile(path);
  const expected = preset.sha256 ?? (await readPin(path));
  if (expected === undefined) await writeFile(pinPath(path), `${sha256}\n`);
  else if (sha256 !== expected) {
    throw new ConfigError(
      'wrong-sha256',
      `${path} has SHA-256 ${sha256}, not ${expected}: delete it to pull it again`,
    );
  }
  return { path, sha256, isPinnedNow: expected === undefined };
}

/** What has come of a file. Its path names the writer and the content's ETag, which is empty where none can be used. */
interface Part {
  path: string;
  etag: string;
  bytes: number;
}

async function download(url: string, path: string, preset: Preset, options: PullOptions): Promise<void> {
  const { retries = 5, retryMs = 1000 } = options;
  const part = (await takeOverPart(path)) ?? { path: partPath(path, ''), etag: '', bytes: 0 };
  let isInherited = part.bytes > 0;
  const attempt = async () => {
    const answer = await request(url, part, options);
    if (answer.response.status !== 206) await restart(part, path, answer.response.headers.get('etag'));
    await receive(answer, part, options);
    const sha256 = await hashFile(part.path);
    const expected = preset.sha256 ?? (await readPin(path)) ?? answer.linkedSha256;
    if (expected === undefined || sha256 === expected) return rename(part.path, path);
    await restart(part, path, null);
    const mismatch = `it came with SHA-256 ${sha256}, not ${expected}`;
    // An earlier process may have left damaged bytes; those of this download alone are what the server has.
    if (!isInherited) throw new ConfigError('wrong-sha256', `${url}: ${mismatch}; it was not kept`);
    isInherited = false;
    throw new Error(mismatch);
  };
  try {
    await pRetry(attempt, {
      retries,
      minTimeout: retryMs,
      randomize: true,
      ...(options.signal && { signal: options.signal }),
      shouldRetry: ({ error }) => !(error instanceof ConfigError),
    });
  } catch (error) {
    options.signal?.throwIfAborted();
    if (error instanceof ConfigError) throw error;
    const failure = `${url}: ${messageOf(error)}, in the last of ${retries + 1} attempts; what has come is kept`;
    throw new ConfigError('download-failed', failure, { cause: error });
  }
}

interface Answer {
  /** 200, or 206 from `part.bytes` on. */
  response: Response;
  /** Aborts the response when it runs out. */
  silence: NodeJS.Timeout;
  /** What the hub says that the file's SHA-256 is: the ETag it "links" in its own answer for files kept in LFS. */
  linkedSha256: string | undefined;
}

/** Follows redirects by hand: the token stays with the hub's origin, and the headers of the hub's own answer are seen. */
async function request(url: string, part: Part, options: PullOptions): Promise<Answer> {
  const { hub, timeoutMs = 30_000 } = options;
  const controller = new AbortController();
  const silence = setTimeout(
    () => controller.abort(new Error(`nothing came for ${timeoutMs} ms`)),
    timeoutMs,
  ).unref();
  const signal = options.signal ? AbortSignal.any([controller.signal, options.signal]) : controller.signal;
  let linkedSha256: string | undefined;
  let target = new URL(url);
  for (let hops = 0; hops < 6; hops++) {
    const headers = new Headers({ 'accept-encoding': 'identity', 'user-agent': 'lensmill' });
    if (hub.token && target.origin === new URL(hub.endpoint).origin)
      headers.set('authorization', `Bearer ${hub.token}`);
    if (part.bytes > 0 && part.etag) {
      headers.set('range', `bytes=${part.bytes}-`);
      headers.set('if-range', part.etag);
    }
    const response = await fetch(target, { headers, redirect: 'manual', signal }).catch(rethrowPlainly);
    linkedSha256 ??= /^(?:W\/)?"?([0-9a-f]{64})"?$/.exec(response.headers.get('x-linked-etag') ?? '')?.[1];
    if (response.ok) return { response, silence, linkedSha256 };
    await response.body?.cancel();
    const location = response.headers.get('location');
    if (response.status >= 400 || !location) {
      if (response.status === 416) part.etag = ''; // the part is no beginning of the file: next time ask for all of it
      throw refusal(response.status, url, hub);
    }
    target = new URL(location, target);
    if (!/^https?:$/.test(target.protocol)) throw new Error(`it redirects to ${target.protocol}`);
  }
  throw new Error('it redirects in a circle');
}

function refusal(status: number, url: string, hub: Hub): Error {
  if (status === 401 || status === 403) {
    const hint = hub.token ? 'HF_TOKEN was refused' : 'set HF_TOKEN if it is private or gated';
    return new ConfigError('unauthorized', `${url}: HTTP ${status}; ${hint}`);
  }
  if (status === 404) return new ConfigError('not-found', `${url}: HTTP 404; is HF_ENDPOINT right?`);
  return new Error(`HTTP ${status}`);
}

/** Appends the body to the part. */
async function receive({ response, silence }: Answer, part: Part, options: PullOptions): Promise<void> {
  const start = Number(/^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '')?.[1] ?? 0);
  if (start !== part.bytes) throw new Error(`it goes on at byte ${start}, not at ${part.bytes}`);
  const length = response.headers.get('content-length');
  const total = length === null ? undefined : part.bytes + Number(length);
  const file = await open(part.path, 'a').catch(rethrowUnwritable(part.path));
  try {
    for await (const chunk of response.body ?? []) {
      silence.refresh();
      await file.writeFile(chunk).catch(rethrowUnwritable(part.path));
      part.bytes += chunk.length;
      options.onProgress?.(part.bytes, total);
    }
    await file.sync();
  } catch (error) {
    rethrowPlainly(error);
  } finally {
    clearTimeout(silence);
    await file.close();
  }
  if (total !== undefined && part.bytes !== total)
    throw new Error(`it ended at ${part.bytes} of ${total} bytes`);
}

/** Forgets what has come. A weak ETag does not promise equal bytes (RFC 9110 §13.1.5), so it is not kept. */
async function restart(part: Part, path: string, etag: string | null): Promise<void> {
  await rm(part.path, { force: true });
  part.etag = etag && !etag.startsWith('W/') ? etag : '';
  part.path = partPath(path, part.etag);
  part.bytes = 0;
}

function partPath(path: string, etag: string): string {
  return `${path}.${hostname()}-${process.pid}.${Buffer.from(etag).toString('base64url')}.part`;
}

/** The longest part of which the process is gone, renamed to be ours; shorter ones are removed. */
async function takeOverPart(path: string): Promise<Part | undefined> {
  const folder = dirname(path);
  const orphans: Part[] = [];
  for (const name of await readdir(folder)) {
    if (!name.startsWith(`${basename(path)}.${hostname()}-`)) continue;
    const [, pid, etag] = /-(\d+)\.([\w-]*)\.part$/.exec(name) ?? [];
    // Our own id is that of an earlier process, too: in a container, every process is number 1.
    if (pid === undefined || (Number(pid) !== process.pid && isRunning(Number(pid)))) continue;
    const { size } = await stat(join(folder, name));
    orphans.push({
      path: join(folder, name),
      etag: Buffer.from(etag ?? '', 'base64url').toString(),
      bytes: size,
    });
  }
  const [part, ...shorter] = orphans.toSorted((a, b) => b.bytes - a.bytes);
  for (const orphan of shorter) await rm(orphan.path, { force: true });
  if (!part) return undefined;
  const ours = partPath(path, part.etag);
  await rename(part.path, ours);
  return { ...part, path: ours };
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return errnoOf(error) === 'EPERM'; // it runs, as another user's
  }
}

const pinPath = (path: string) => `${path}.sha256`;

async function readPin(path: string): Promise<string | undefined> {
  const pin = await readFile(pinPath(path), 'utf8').catch(() => '');
  return /^[0-9a-f]{64}/.exec(pin)?.[0];
}

/** fetch's errors are TypeErrors that say 'fetch failed' and keep the reason for themselves. */
function rethrowPlainly(error: unknown): never {
  if (error instanceof ConfigError) throw error;
  const cause = error instanceof TypeError && error.cause !== undefined ? error.cause : error;
  throw new Error(messageOf(cause), { cause: error });
}
