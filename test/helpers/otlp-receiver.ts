/** Where traces go: a server that takes OTLP's protobuf over HTTP, and reads it by the numbers of its fields. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';

export interface SentSpan {
  traceId: string;
  spanId: string;
  /** '' of a span that begins a trace. */
  parentId: string;
  name: string;
  /** 1 internal, 4 producer, 5 consumer. */
  kind: number;
  startNs: bigint;
  endNs: bigint;
  attributes: Record<string, unknown>;
  /** 2: an error. */
  status: number;
  /** Of who sent it: `service.name`, `process.pid` … */
  resource: Record<string, unknown>;
}

export interface OtlpReceiver {
  /** For OTEL_EXPORTER_OTLP_ENDPOINT. */
  url: string;
  spans: SentSpan[];
  close(): Promise<void>;
}

export async function startOtlpReceiver(): Promise<OtlpReceiver> {
  const spans: SentSpan[] = [];
  const server = createServer(async (request, response) => {
    const isOurs =
      request.url === '/v1/traces' && request.headers['content-type'] === 'application/x-protobuf';
    const body = await buffer(request);
    if (isOurs) spans.push(...readSpans(body));
    response.writeHead(isOurs ? 200 : 404).end();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo; // it listens at a port
  return {
    url: `http://127.0.0.1:${port}`,
    spans,
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

/** opentelemetry-proto, trace/v1/trace.proto. */
function readSpans(request: Uint8Array): SentSpan[] {
  return messages(request, 1).flatMap((resourceSpans) => {
    const resource = readAttributes(messages(resourceSpans, 1)[0] ?? new Uint8Array(), 1);
    return messages(resourceSpans, 2)
      .flatMap((scopeSpans) => messages(scopeSpans, 2))
      .map((span) => ({
        traceId: hex(messages(span, 1)[0]),
        spanId: hex(messages(span, 2)[0]),
        parentId: hex(messages(span, 4)[0]),
        name: text(messages(span, 5)[0]),
        kind: Number(numbers(span, 6)[0] ?? 0n),
        startNs: numbers(span, 7)[0] ?? 0n,
        endNs: numbers(span, 8)[0] ?? 0n,
        attributes: readAttributes(span, 9),
        status: Number(numbers(messages(span, 15)[0] ?? new Uint8Array(), 3)[0] ?? 0n),
        resource,
      }));
  });
}

function readAttributes(message: Uint8Array, field: number): Record<string, unknown> {
  return Object.fromEntries(
    messages(message, field).map((pair) => {
      const value = messages(pair, 2)[0] ?? new Uint8Array();
      const [string] = messages(value, 1);
      const [double] = numbers(value, 4);
      const [whole] = [...numbers(value, 2), ...numbers(value, 3)];
      const read = string
        ? text(string)
        : double === undefined
          ? whole === undefined
            ? undefined
            : Number(whole)
          : new Float64Array(new BigUint64Array([double]).buffer)[0];
      return [text(messages(pair, 1)[0]), read];
    }),
  );
}

const text = (bytes: Uint8Array = new Uint8Array()): string => Buffer.from(bytes).toString('utf8');
const hex = (bytes: Uint8Array = new Uint8Array()): string => Buffer.from(bytes).toString('hex');
const messages = (message: Uint8Array, field: number): Uint8Array[] =>
  fieldsOf(message).flatMap(([at, value]) => (at === field && typeof value !== 'bigint' ? [value] : []));
const numbers = (message: Uint8Array, field: number): bigint[] =>
  fieldsOf(message).flatMap(([at, value]) => (at === field && typeof value === 'bigint' ? [value] : []));

/** protobuf.dev/programming-guides/encoding: each field's number, and its bytes or its number. */
function fieldsOf(message: Uint8Array): [field: number, value: Uint8Array | bigint][] {
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  const fields: [number, Uint8Array | bigint][] = [];
  let at = 0;
  const varint = (): bigint => {
    for (let value = 0n, shift = 0n; ; shift += 7n) {
      const byte = view.getUint8(at++);
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.length) {
    const tag = Number(varint());
    const field = tag >> 3;
    switch (tag & 7) {
      case 0:
        fields.push([field, varint()]);
        break;
      case 1:
        fields.push([field, view.getBigUint64(at, true)]);
        at += 8;
        break;
      case 2: {
        const length = Number(varint());
        fields.push([field, message.subarray(at, at + length)]);
        at += length;
        break;
      }
      case 5:
        fields.push([field, BigInt(view.getUint32(at, true))]);
        at += 4;
        break;
      default:
        throw new Error(`no wire type ${tag & 7} in protobuf 3`);
    }
  }
  return fields;
}
