/** What calibration finds: between which numbers each of a network's activations is to be told apart in a byte. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { ConfigError, messageOf } from '../errors.ts';
import { canonicalJson } from './identity.ts';

/** [low, high], low ≤ 0 ≤ high: what lies outside is cut. */
export type Range = readonly [low: number, high: number];

/** Plain JSON values. */
export interface Calibration {
  /** How ranges were chosen, such as 'mse'. */
  method: string;
  /** SHA-256 of the weights, as `ModelIdentity.weights`. */
  weights: string;
  /** Images that were looked at. */
  images: number;
  /** By tensor, as `drawTrunk` names them. */
  ranges: Readonly<Record<string, Range>>;
}

const range: z.ZodType<Range> = z
  .tuple([z.number().max(0), z.number().min(0)])
  .refine(([low, high]) => low < high, 'expected low < high');
const calibration: z.ZodType<Calibration> = z.object({
  method: z.string(),
  weights: z.string(),
  images: z.int().positive(),
  ranges: z.record(z.string(), range),
});

/** What of a calibration decides numbers: the SHA-256 of its ranges, as JSON with sorted keys. */
export function hashCalibration({ ranges }: Calibration): string {
  return createHash('sha256').update(canonicalJson(ranges)).digest('hex');
}

export function encodeCalibration(values: Calibration): Uint8Array {
  return Buffer.from(`${JSON.stringify(values, null, 2)}\n`);
}

/** Throws ConfigError 'bad-calibration' naming `file`. */
export function decodeCalibration(bytes: Uint8Array, file: string): Calibration {
  try {
    return calibration.parse(JSON.parse(Buffer.from(bytes).toString('utf8')));
  } catch (error) {
    const detail =
      error instanceof z.ZodError ? z.prettifyError(error).replaceAll('\n', ' ') : messageOf(error);
    const remedy = 'make one with `lensmill model calibrate`';
    throw new ConfigError('bad-calibration', `${file} is no calibration: ${detail}; ${remedy}`, {
      cause: error,
    });
  }
}

/** Throws ConfigError 'no-calibration-file' and 'bad-calibration'. */
export async function readCalibration(path: string): Promise<Calibration> {
  const bytes = await readFile(path).catch((error: unknown) => {
    throw new ConfigError('no-calibration-file', `no calibration at ${path}: ${messageOf(error)}`);
  });
  return decodeCalibration(bytes, path);
}
