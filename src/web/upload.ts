/** What a search was sent: its query, and pictures where it is a form. */
import type { MultipartFile } from '@fastify/multipart';
import type { FastifyRequest } from 'fastify';
import { errnoOf } from '../errno.ts';
import { messageOf } from '../errors.ts';
import { type SearchAsked, searchQuery } from './api.ts';
import { Refusal } from './problems.ts';

export interface Upload {
  query: SearchAsked;
  pictures: NamedPicture[];
}

export interface NamedPicture {
  name: string;
  content: Uint8Array;
}

export const mostPictures = 8;
const mostQueryBytes = 64 * 1024;
/** Of a name that is told again. */
const longestName = 200;

/** Requests with pictures that are read at once: each may hold `mostPictures` of them in memory. */
const uploadsAtOnce = 4;

/** Of the whole form: its pictures, and what surrounds them. */
const formBytes = (maxBytes: number): number => mostPictures * maxBytes + mostQueryBytes + 64 * 1024;

export interface UploadReader {
  /** Runs `use` while the upload counts as one under way. Throws Refusal. */
  read<T>(request: FastifyRequest, use: (upload: Upload) => Promise<T>): Promise<T>;
}

/** `maxBytes`: of one picture. */
export function openUploadReader(maxBytes: number): UploadReader {
  let underWay = 0;
  return {
    async read(request, use) {
      if (!request.isMultipart()) return use({ query: parseQuery(request.body), pictures: [] });
      if (Number(request.headers['content-length'] ?? 0) > formBytes(maxBytes))
        throw tooLarge('the request', maxBytes);
      if (underWay >= uploadsAtOnce) {
        throw new Refusal(
          503,
          'busy',
          `${underWay} searches by pictures are under way; try again in a second`,
          {
            'retry-after': '1',
          },
        );
      }
      underWay += 1;
      try {
        return await use(await readForm(request, maxBytes));
      } finally {
        underWay -= 1;
      }
    },
  };
}

async function readForm(request: FastifyRequest, maxBytes: number): Promise<Upload> {
  try {
    return await readParts(request, maxBytes);
  } catch (error) {
    // What is no form at all is thrown without a code.
    if (errnoOf(error) !== undefined) throw error;
    throw new Refusal(400, 'bad-request', `body: expected multipart/form-data: ${messageOf(error)}`);
  }
}

async function readParts(request: FastifyRequest, maxBytes: number): Promise<Upload> {
  const pictures: NamedPicture[] = [];
  let query: unknown = {};
  const limits = {
    fileSize: maxBytes,
    files: mostPictures,
    fields: 1,
    fieldSize: mostQueryBytes,
    parts: mostPictures + 1,
  };
  for await (const part of request.parts({ limits })) {
    if (part.type === 'file' && part.fieldname === 'picture') {
      pictures.push(await readPicture(part, pictures.length + 1, maxBytes));
    } else if (part.type === 'field' && part.fieldname === 'query') {
      query = parseJson(part.value);
    } else {
      throw new Refusal(
        400,
        'bad-request',
        `body: expected 'picture' (files) and 'query' (JSON), got '${part.fieldname}'`,
      );
    }
  }
  return { query: parseQuery(query), pictures };
}

async function readPicture(part: MultipartFile, place: number, maxBytes: number): Promise<NamedPicture> {
  const name = part.filename?.slice(0, longestName) || `picture ${place}`;
  try {
    return { name, content: await part.toBuffer() };
  } catch (error) {
    if (errnoOf(error) === 'FST_REQ_FILE_TOO_LARGE') throw tooLarge(name, maxBytes);
    throw error;
  }
}

/** A field that says it is JSON is parsed already. */
function parseJson(value: unknown): unknown {
  if (typeof value !== 'string') return value;
  try {
    return JSON.parse(value);
  } catch {
    throw new Refusal(400, 'bad-request', 'body, query: expected JSON such as {"k": 40}');
  }
}

function parseQuery(value: unknown): SearchAsked {
  const parsed = searchQuery.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new Refusal(400, 'bad-request', `${['body', ...(issue?.path ?? [])].join(', ')}: ${issue?.message}`);
}

function tooLarge(name: string, maxBytes: number): Refusal {
  return new Refusal(
    413,
    'too-large',
    `${name}: larger than the ${(maxBytes / 1e6).toLocaleString('en-US')} MB that a picture may have (--max-upload)`,
    // Whatever of it is still to come is not read.
    { connection: 'close' },
  );
}
