/** What a graph of ours says of itself, so that an .onnx file is recognised wherever it went. */
import { z } from 'zod';
import { ConfigError } from '../errors.ts';
import type { ModelIdentity } from '../types.ts';
import { identitySchema } from './identity.ts';
import type { ModelProto } from './onnx.ts';

/** Kept as JSON in the file's metadata_props, under 'lensmill'. */
export interface GraphRecord {
  /** `builderVersion` of the graph. */
  builder: number;
  identity: ModelIdentity;
  topK: number;
  /** Before folding. */
  parameters: number;
}

const count = z.int().nonnegative();
const recordSchema: z.ZodType<GraphRecord> = z.object({
  builder: count,
  identity: identitySchema,
  topK: z.int().positive(),
  parameters: count,
});

export function encodeRecord(record: GraphRecord): { key: string; value: string } {
  return { key: 'lensmill', value: JSON.stringify(record) };
}

/** `undefined` for a file from elsewhere. Throws ConfigError 'bad-onnx' naming `file`. */
export function decodeRecord({ metadataProps }: ModelProto, file: string): GraphRecord | undefined {
  const value = metadataProps?.find(({ key }) => key === 'lensmill')?.value;
  if (value === undefined || value === null) return undefined;
  try {
    return recordSchema.parse(JSON.parse(value));
  } catch (error) {
    throw new ConfigError('bad-onnx', `${file}: its 'lensmill' metadata is damaged; build it again`, {
      cause: error,
    });
  }
}
