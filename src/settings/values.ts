/** How the values of settings are written: numbers, sizes, durations, lists. */
import { z } from 'zod';
import { messageOf } from '../errors.ts';
import { parseRedisAddress } from '../redis/address.ts';

export const text = z.string().min(1);
export const count = z.coerce.number().int().min(1);
export const countOrZero = z.coerce.number().int().min(0);
export const shareOfOne = z.coerce.number().min(0).max(1);
export const flagValue = z.union([z.boolean(), z.stringbool()]);
export const list = z.union(
  [z.array(text), text.transform((one) => one.split(',').map((part) => part.trim()))],
  {
    error: 'expected one or several, with commas between them',
  },
);

const byteUnits = { '': 1, B: 1, KB: 1e3, MB: 1e6, GB: 1e9 } as const;
export const byteSize = z.union([z.number(), text]).transform((value, context) => {
  const match = /^([0-9.]+)\s*(|B|KB|MB|GB)$/i.exec(String(value));
  if (match)
    return Math.round(Number(match[1]) * byteUnits[match[2]?.toUpperCase() as keyof typeof byteUnits]);
  context.addIssue({ code: 'custom', message: 'expected a size such as 500KB or 64MB' });
  return z.NEVER;
});

/** A worker has 160 to 200 MB before it has a model. */
export const leastMemoryBytes = 256e6;

const secondUnits = { ms: 1, s: 1e3, m: 60e3 } as const;
export const durationMs = z.union([z.number().min(0), text]).transform((value, context) => {
  if (typeof value === 'number') return value;
  const match = /^([0-9.]+)\s*(ms|s|m)$/.exec(value);
  if (match) return Number(match[1]) * secondUnits[match[2] as keyof typeof secondUnits];
  context.addIssue({ code: 'custom', message: 'expected a duration such as 500ms, 30s or 2m' });
  return z.NEVER;
});

export const redisUrl = text.superRefine((value, context) => {
  try {
    parseRedisAddress(value);
  } catch (error) {
    context.addIssue({ code: 'custom', message: messageOf(error) });
  }
});
