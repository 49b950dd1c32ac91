/** What a request is answered with when it fails: always a `problem`, with a code for scripts and a sentence for people. */
import { hasZodFastifySchemaValidationErrors } from 'fastify-type-provider-zod';
import { errnoOf } from '../errno.ts';
import { ConfigError, type Failure, type FailureCode, messageOf } from '../errors.ts';
import type { Problem } from './api.ts';

/** A request that is not done, and why. */
export class Refusal extends Error {
  override name = 'Refusal';
  readonly status: number;
  readonly code: string;
  readonly headers: Readonly<Record<string, string>>;

  constructor(status: number, code: string, message: string, headers: Readonly<Record<string, string>> = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.headers = headers;
  }
}

export interface FailedReply {
  problem: Problem;
  headers: Readonly<Record<string, string>>;
}

/** The answer to a request that threw this. What is nobody's fault but ours says no more than that. */
export function problemOf(error: unknown): FailedReply {
  const reply = (status: number, code: string, message: string): FailedReply => ({
    problem: { status, code, message },
    headers: {},
  });
  if (error instanceof Refusal) {
    const { status, code, message, headers } = error;
    return { problem: { status, code, message }, headers };
  }
  if (error instanceof ConfigError) return reply(statuses[error.code] ?? 503, error.code, messageOf(error));
  if (hasZodFastifySchemaValidationErrors(error)) {
    const [first] = error.validation;
    const field = first?.instancePath.slice(1).replaceAll('/', '.');
    const part = error.validationContext === 'querystring' ? 'query' : error.validationContext;
    const where = `${part}${field ? `, ${field}` : ''}`;
    return reply(400, 'bad-request', `${where}: ${first?.message}`);
  }
  const { statusCode, code } = fastifyError(error);
  const own = code === undefined ? undefined : wordings[code];
  if (own) return reply(...own);
  if (statusCode !== undefined && statusCode < 500) return reply(statusCode, 'bad-request', messageOf(error));
  return reply(500, 'internal', 'the server failed at this; its log says why');
}

/** What whoever asked could do; all else waits for the operator, as an index that is not built yet does: 503. */
const statuses: Record<string, number> = {
  'no-image': 404,
  'no-run': 404,
  'not-planned': 409,
  'not-finished': 409,
  'wrong-dimension': 409,
  'no-direction': 422,
};

const wordings: Record<string, readonly [status: number, code: string, message: string]> = {
  FST_ERR_CTP_BODY_TOO_LARGE: [413, 'too-large', 'the request is too large'],
  FST_ERR_CTP_INVALID_MEDIA_TYPE: [
    415,
    'unsupported-media-type',
    'expected application/json, or multipart/form-data with pictures',
  ],
  FST_ERR_CTP_EMPTY_JSON_BODY: [400, 'bad-request', 'body: expected JSON, got nothing'],
  FST_FILES_LIMIT: [413, 'too-many-pictures', 'too many pictures: 8 are taken at once'],
  FST_PARTS_LIMIT: [413, 'too-many-pictures', 'too many parts: 8 pictures and a query are taken at once'],
  FST_FIELDS_LIMIT: [400, 'bad-request', "body: expected one field, 'query'"],
  FST_INVALID_JSON_FIELD_ERROR: [400, 'bad-request', 'body, query: expected JSON'],
  FST_ERR_CTP_INVALID_JSON_BODY: [400, 'bad-request', 'body: expected JSON'],
};

/** Of what Node could not read as a request. */
export function connectionProblem(error: Error): Problem {
  const known = connectionWordings[errnoOf(error) ?? ''];
  const [status, code, message] = known ?? [400, 'bad-request', 'this is no HTTP request'];
  return { status, code, message };
}

const connectionWordings: Record<string, readonly [status: number, code: string, message: string]> = {
  HPE_HEADER_OVERFLOW: [
    431,
    'too-large',
    'the address and the headers are larger than the 16 kB that they may have',
  ],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'timeout', 'the request did not come to its end in time'],
};

function fastifyError(error: unknown): { statusCode?: number; code?: string } {
  if (!(error instanceof Error)) return {};
  return {
    ...('statusCode' in error && typeof error.statusCode === 'number' && { statusCode: error.statusCode }),
    ...('code' in error && typeof error.code === 'string' && { code: error.code }),
  };
}

/** What a picture's failure means for whoever sent it. */
const uploadStatuses: Partial<Record<FailureCode, number>> = {
  'unsupported-format': 415,
  'too-many-bytes': 413,
  'too-many-pixels': 413,
  timeout: 504,
};

/** Of a picture that was sent. */
export function uploadStatus(code: FailureCode): number {
  return uploadStatuses[code] ?? 422;
}

const sourceStatuses: Partial<Record<FailureCode, number>> = {
  'not-found': 410,
  changed: 410,
  'access-denied': 502,
  'not-allowed': 403,
  'read-failed': 502,
  timeout: 504,
};

/** Of a picture that was to be read back from its source. */
export function sourceRefusal({ error, message }: Failure): Refusal {
  return new Refusal(sourceStatuses[error] ?? 422, error, message);
}
