import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { Redis } from 'ioredis';
import { afterEach, expect, test } from 'vitest';
import { openQueue } from '../src/queue.ts';
import { startPrivateRedis } from '../src/redis/server.ts';
import { openLog, silentLog } from '../src/telemetry/log.ts';
import { inSpan, startTraces, stopTraces } from '../src/telemetry/traces.ts';
import { moduleUrl } from './helpers/child.ts';
import { lensmill, logged } from './helpers/cli.ts';
import { type OtlpReceiver, type SentSpan, startOtlpReceiver } from './helpers/otlp-receiver.ts';
import { tempFolder } from './helpers/temp.ts';
import { makeTinyArchive } from './helpers/tiny-archive.ts';

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  await stopTraces();
  delete process.env.OTEL_EXPORTER_OTLP_ENDPOINT;
  for (const one of opened.splice(0).reverse()) await one.close();
});

async function receiver(): Promise<OtlpReceiver> {
  const started = await startOtlpReceiver();
  opened.push(started);
  return started;
}

test('a shard is one trace from who enqueued it to its part, over two processes', async () => {
  const shards = 4;
  const { url, spans } = await receiver();
  const redis = await startPrivateRedis();
  opened.push(redis);
  const env = {
    REDIS_URL: redis.url,
    LENSMILL_OUTPUT: tempFolder(),
    OTEL_EXPORTER_OTLP_ENDPOINT: url,
    OTEL_RESOURCE_ATTRIBUTES: 'deployment.environment.name=tests',
  };
  const archive = await makeTinyArchive(2 * shards);
  const plan = ['--model', 'null', '--shard-size', '2', '--reuse', 'off', '--run', 'day'];
  const worker = lensmill(['work', '--device', 'sleep:1'], env);
  const [{ exitCode }] = await Promise.all([
    lensmill(['enqueue', archive, ...plan], env),
    logged(worker, 'run done'),
  ]);
  expect(exitCode).toBe(0);
  worker.kill('SIGTERM');
  expect((await worker).exitCode).toBe(0);

  const named = (name: string): SentSpan[] => spans.filter((span) => span.name === name);
  const parentOf = ({ traceId, parentId }: SentSpan): SentSpan | undefined =>
    spans.find((span) => span.traceId === traceId && span.spanId === parentId);
  const done = named('shard');
  expect(done.map(({ attributes }) => attributes.shard).toSorted()).toEqual([0, 1, 2, 3]);
  for (const span of done) {
    expect(span).toMatchObject({
      kind: 5,
      status: 0,
      attributes: { run: 'day', attempt: 1, images: 2, failed: 0, device: 'sleep:1', commit: 'created' },
      resource: { 'service.name': 'lensmill', 'deployment.environment.name': 'tests' },
    });
    expect(span.attributes.inferMs).toBeGreaterThan(0);
    const enqueued = parentOf(span);
    expect(enqueued).toMatchObject({ kind: 4, name: expect.stringContaining('addBulk') });
    expect(enqueued?.resource['process.pid']).not.toBe(span.resource['process.pid']);
    const steps = spans.filter((step) => step.parentId === span.spanId && step.kind === 1);
    const names = steps.toSorted((a, b) => (a.endNs < b.endNs ? -1 : 1)).map(({ name }) => name);
    expect(names.slice(0, 4)).toEqual(['embed', 'encode', 'commit', 'mark done']);
    for (const { startNs, endNs } of steps) {
      expect(startNs).toBeGreaterThanOrEqual(span.startNs - 1_000_000n);
      expect(endNs).toBeGreaterThanOrEqual(startNs);
    }
  }
  const [finalized] = named('finalize');
  const asked = finalized && parentOf(finalized);
  expect(asked && parentOf(asked)?.name).toBe('shard');
  // Nobody's looks at a queue that is empty.
  expect(spans.filter(({ name }) => name.startsWith('getNextJob'))).toEqual([]);
});

test('who traces keeps the context beside a job, and not in it', async () => {
  process.env.OTEL_EXPORTER_OTLP_ENDPOINT = (await receiver()).url;
  const redis = await startPrivateRedis();
  opened.push(redis);
  const client = new Redis(redis.url);
  opened.push({ close: async () => client.disconnect() });
  const enqueue = async (name: string): Promise<Record<string, string>> => {
    const queue = openQueue({ redisUrl: redis.url, name });
    await queue.enqueue('r', [0], { highWater: 10, attempts: 1 });
    await queue.close();
    return client.hgetall(`{lensmill}:${name}.r:r-0`);
  };
  const plain = await enqueue('plain');
  await startTraces(process.env, silentLog);
  const traced = await enqueue('traced');
  await stopTraces();
  expect(traced.data).toBe(plain.data);
  expect(JSON.parse(plain.opts ?? '').tm).toBeUndefined();
  const { tm } = JSON.parse(traced.opts ?? '');
  expect(JSON.parse(tm).traceparent).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
  expect((traced.opts ?? '').length - (plain.opts ?? '').length).toBeLessThan(100);
});

test('what fails is told of its span, and traces that nobody takes are told once', async () => {
  const lines: string[] = [];
  const log = openLog('warn', (line) => void lines.push(line));
  const { url, spans, close } = await receiver();
  process.env.OTEL_EXPORTER_OTLP_ENDPOINT = url;
  await startTraces(process.env, log);
  const failing = inSpan('shard', { attributes: { run: 'r' } }, () =>
    Promise.reject(new Error('no space left')),
  );
  await expect(failing).rejects.toThrow('no space left');
  await stopTraces();
  expect(spans).toMatchObject([{ name: 'shard', status: 2, attributes: { run: 'r' } }]);
  expect(lines).toEqual([]);

  await close();
  opened.length = 0;
  await startTraces(process.env, log);
  await inSpan('shard', { attributes: {} }, async () => undefined);
  await stopTraces();
  expect(lines).toHaveLength(1);
  expect(lines[0]).toContain('traces are not sent');
});

test('where nobody asks for traces, nothing of OpenTelemetry is loaded', async () => {
  const script = `
    import { registerHooks } from 'node:module';
    const loaded = [];
    registerHooks({ load: (url, context, next) => (/opentelemetry|bullmq-otel/.test(url) && loaded.push(url), next(url, context)) });
    const { startTraces } = await import(${JSON.stringify(moduleUrl('src/telemetry/traces.ts'))});
    const log = { warn: console.log };
    const endpoint = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:1' };
    for (const env of [{}, { ...endpoint, OTEL_SDK_DISABLED: 'true' }, { ...endpoint, OTEL_TRACES_EXPORTER: 'none' }])
      await startTraces(env, log);
    const off = loaded.length;
    await startTraces({ ...endpoint, OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' }, log);
    console.log(JSON.stringify({ off, on: loaded.length > 0 }));
    process.exit();`;
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', script]);
  expect(stdout).toContain('http/protobuf');
  expect(JSON.parse(stdout.trim().split('\n').at(-1) ?? '')).toEqual({ off: 0, on: true });
});

test('of all traces those are sent that the sampler takes; one that does not exist is told', async () => {
  const lines: string[] = [];
  const log = openLog('warn', (line) => void lines.push(line));
  const { url, spans } = await receiver();
  process.env.OTEL_EXPORTER_OTLP_ENDPOINT = url;
  const sentOf = async (name: string, argument?: string): Promise<number> => {
    spans.length = 0;
    await startTraces({ ...process.env, OTEL_TRACES_SAMPLER: name, OTEL_TRACES_SAMPLER_ARG: argument }, log);
    // Children go the way of their parent.
    for (let trace = 0; trace < 100; trace++)
      await inSpan('shard', { attributes: {} }, () =>
        inSpan('step', { attributes: {} }, async () => undefined),
      );
    await stopTraces();
    return spans.length;
  };
  expect(await sentOf('always_on')).toBe(200);
  expect(await sentOf('always_off')).toBe(0);
  const some = await sentOf('parentbased_traceidratio', '0.5');
  expect(some).toBeGreaterThan(40);
  expect(some).toBeLessThan(160);
  expect(some % 2).toBe(0);
  expect(lines).toEqual([]);

  expect(await sentOf('jaeger_remote')).toBe(200);
  expect(await sentOf('traceidratio', 'half')).toBe(200);
  expect(lines.map((line) => JSON.parse(line))).toMatchObject([
    { msg: 'no such sampler of traces: each is sent', sampler: 'jaeger_remote' },
    { msg: 'no such sampler of traces: each is sent', sampler: 'traceidratio', argument: 'half' },
  ]);
});
