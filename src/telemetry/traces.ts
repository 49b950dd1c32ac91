/**
 * The door to OpenTelemetry: what becomes of a shard between the producer that enqueued it and its part, as spans of one trace.
 * Off, and not even loaded, unless OpenTelemetry's own variables name who takes traces:
 *
 *   OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT    where to, as OTLP in protobuf over HTTP
 *   OTEL_EXPORTER_OTLP_HEADERS, _TIMEOUT, _COMPRESSION, _CERTIFICATE …  how; read by the exporter
 *   OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES                        as whom; 'lensmill' by default
 *   OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG                       which of them; all by default
 *   OTEL_SDK_DISABLED=true, OTEL_TRACES_EXPORTER=none                  off all the same
 *
 * Who enqueues starts a trace for each thousand shards at most. Its context is kept with each job, in BullMQ's options and not in
 * what we call the job, and costs Redis 80 bytes a shard that waits.
 */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Attributes, Context, Span } from '@opentelemetry/api';
import type { Sampler } from '@opentelemetry/sdk-trace';
import type { Telemetry } from 'bullmq';
import { messageOf } from '../errors.ts';
import { type Step, type StepMessage, stepChannel } from '../steps.ts';
import { version } from '../version.ts';
import type { Logger } from './log.ts';

interface Tracing {
  /** For BullMQ's queues. */
  telemetry: Telemetry<Context>;
  inSpan<T>(name: string, options: SpanOptions, work: () => Promise<T>): Promise<T>;
  note(attributes: Attributes): void;
  stop(): Promise<void>;
}

export interface SpanOptions {
  attributes: Attributes;
  /** As BullMQ keeps it with a job: the span becomes a child of the one that enqueued it. */
  parent?: string | undefined;
}

/** OpenTelemetry is one for a process. */
let tracing: Tracing | undefined;

/** Sending what is left may take so long; then the process ends without. */
const stopMs = 2_000;
/** That traces cannot be sent is told no more often. */
const complainMs = 300_000;

/** Starts them, where the environment (the process's own: the exporter reads that too) asks for them and they are not on yet. */
export async function startTraces(env: NodeJS.ProcessEnv, log: Logger): Promise<void> {
  const isNamed = env.OTEL_EXPORTER_OTLP_ENDPOINT || env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT;
  if (!isNamed || env.OTEL_SDK_DISABLED?.toLowerCase() === 'true' || env.OTEL_TRACES_EXPORTER === 'none')
    return;
  const protocol = env.OTEL_EXPORTER_OTLP_TRACES_PROTOCOL || env.OTEL_EXPORTER_OTLP_PROTOCOL;
  if (protocol && protocol !== 'http/protobuf')
    log.warn({ protocol }, 'traces are sent as http/protobuf, by whatever protocol was asked for');
  tracing ??= await openTracing(env, log);
}

/** Sends what is left, for two seconds at most. Safe to call twice, and where there are none. */
export async function stopTraces(): Promise<void> {
  const stopped = tracing?.stop();
  tracing = undefined;
  await stopped;
}

/** What a BullMQ queue is to be opened with. */
export const queueTelemetry = (): { telemetry?: Telemetry<Context> } =>
  tracing ? { telemetry: tracing.telemetry } : {};

/** Work as a span, whose children are the steps (steps.ts) and the spans within it; just the work where traces are off. */
export function inSpan<T>(name: string, options: SpanOptions, work: () => Promise<T>): Promise<T> {
  return tracing ? tracing.inSpan(name, options, work) : work();
}

/** Tells something of the span that it is called in. */
export function noteInSpan(attributes: Attributes): void {
  tracing?.note(attributes);
}

/** What went on until a step was reached. */
const ways: Partial<Record<Step, string>> = {
  'shard embedded': 'embed',
  'part encoded': 'encode',
  'part created': 'commit',
  'shard marked done': 'mark done',
  'parts read': 'read parts',
  'success created': 'write success',
};

async function openTracing(env: NodeJS.ProcessEnv, log: Logger): Promise<Tracing> {
  const [
    api,
    { AsyncLocalStorageContextManager },
    core,
    { OTLPTraceExporter },
    resources,
    sdk,
    { BullMQOtel },
  ] = await Promise.all([
    import('@opentelemetry/api'),
    import('@opentelemetry/context-async-hooks'),
    import('@opentelemetry/core'),
    import('@opentelemetry/exporter-trace-otlp-proto'),
    import('@opentelemetry/resources'),
    import('@opentelemetry/sdk-trace'),
    import('bullmq-otel'),
  ]);
  const { context, diag, propagation, trace, SpanKind, SpanStatusCode, DiagLogLevel } = api;
  let toldAt = Number.NEGATIVE_INFINITY;
  const complain = (...said: unknown[]): void => {
    if (performance.now() - toldAt < complainMs) return;
    toldAt = performance.now();
    log.warn({ error: said.map(messageOf).join(' ').slice(0, 300) }, 'traces are not sent');
  };
  const silent = (): void => undefined;
  diag.setLogger(
    { error: complain, warn: complain, info: silent, debug: silent, verbose: silent },
    { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true },
  );
  // Of the process only this: its arguments may hold a token.
  const ours = { 'service.name': 'lensmill', 'service.version': version };
  const place = { 'host.name': hostname(), 'process.pid': process.pid };
  const sampler = samplerOf(env, sdk, log);
  const provider = new sdk.TracerProvider({
    resource: resources
      .resourceFromAttributes({ ...ours, ...place })
      .merge(resources.detectResources({ detectors: [resources.envDetector] })),
    ...(sampler && { sampler }),
    spanProcessors: [new sdk.BatchSpanProcessor({ exporter: new OTLPTraceExporter() })],
  });
  trace.setGlobalTracerProvider(provider);
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  propagation.setGlobalPropagator(new core.W3CTraceContextPropagator());
  const tracer = trace.getTracer('lensmill', version);

  /** When the last step was reached, of the spans that are under way; ms since 1970. */
  const reached = new WeakMap<Span, number>();
  function onStep(message: unknown): void {
    const span = trace.getActiveSpan();
    if (!span) return;
    const { step } = message as StepMessage; // nobody else publishes there
    const now = Date.now();
    const way = ways[step];
    if (way !== undefined) tracer.startSpan(way, { startTime: reached.get(span) ?? now }).end(now);
    reached.set(span, now);
  }
  subscribe(stepChannel, onStep);

  return {
    telemetry: new BullMQOtel({ tracerName: 'lensmill', version }),
    async inSpan(name, { attributes, parent }, work) {
      const outer = context.active();
      const around = parent === undefined ? outer : propagation.extract(outer, readContext(parent));
      const kind = parent === undefined ? SpanKind.INTERNAL : SpanKind.CONSUMER;
      const span = tracer.startSpan(name, { kind, attributes }, around);
      reached.set(span, Date.now());
      try {
        return await context.with(trace.setSpan(around, span), work);
      } catch (error) {
        if (error instanceof Error) span.recordException(error);
        span.setStatus({ code: SpanStatusCode.ERROR, message: messageOf(error) });
        throw error;
      } finally {
        span.end();
      }
    },
    note: (attributes) => trace.getActiveSpan()?.setAttributes(attributes),
    async stop() {
      unsubscribe(stepChannel, onStep);
      const sent = provider.shutdown().then(
        () => true,
        () => false,
      );
      if (!(await Promise.race([sent, sleep(stopMs, false, { ref: false })])))
        complain('the last ones were given up');
      for (const one of [trace, context, propagation, diag]) one.disable();
    },
  };
}

/**
 * Of OpenTelemetry's samplers the one that is asked for, by the names of its specification ("Environment Variable Specification",
 * General SDK Configuration). `undefined`, its default: whatever the parent was; each trace is sent.
 */
function samplerOf(
  { OTEL_TRACES_SAMPLER: name, OTEL_TRACES_SAMPLER_ARG: argument }: NodeJS.ProcessEnv,
  sdk: typeof import('@opentelemetry/sdk-trace'),
  log: Logger,
): Sampler | undefined {
  if (!name) return undefined;
  const [, parentBased, kind] = /^(parentbased_)?(always_on|always_off|traceidratio)$/.exec(name) ?? [];
  const ratio = argument ? Number(argument) : 1;
  if (kind === undefined || !(ratio >= 0 && ratio <= 1)) {
    log.warn({ sampler: name, argument }, 'no such sampler of traces: each is sent');
    return undefined;
  }
  const root = {
    always_on: () => new sdk.AlwaysOnSampler(),
    always_off: () => new sdk.AlwaysOffSampler(),
    traceidratio: () => new sdk.TraceIdRatioBasedSampler(ratio),
  }[kind as 'always_on' | 'always_off' | 'traceidratio']();
  return parentBased ? new sdk.ParentBasedSampler({ root }) : root;
}

/** What BullMQ keeps with a job is JSON; who enqueued it may have been any version. */
function readContext(metadata: string): Record<string, unknown> {
  try {
    return JSON.parse(metadata);
  } catch {
    return {};
  }
}
