/** How the values of settings are written: numbers, sizes, durations, lists. */
import { z } from 'zod';
import { ConfigError, messageOf } from '../errors.ts';
import { parseRedisAddress } from '../redis/address.ts';

export const text = z.string().min(1, 'expected a value');

export function number(least: number, most = Number.POSITIVE_INFINITY): z.ZodType<number> {
  return between(z.number, `a number from ${least}`, least, most);
}

export function whole(least: number, most = Number.MAX_SAFE_INTEGER): z.ZodType<number> {
  return between(z.int, `a whole number from ${least}`, least, most);
}

/** As typed, or as YAML has it. JavaScript alone would take a blank text, and YAML's null, for 0. */
function between(
  kind: (error: string) => z.ZodNumber,
  name: string,
  least: number,
  most: number,
): z.ZodType<number> {
  const error = `expected ${name}${most < Number.MAX_SAFE_INTEGER ? ` to ${most}` : ''}`;
  return z
    .union([z.number(), z.string().trim().min(1).transform(Number)], error)
    .pipe(kind(error).min(least, error).max(most, error));
}

export const flagValue = z.union([z.boolean(), z.stringbool()]);
/** A comma within braces is a glob's own: `*.{jpg,png}`. */
export const list = z.union(
  [z.array(text), text.transform((one) => one.split(/,(?![^{]*\})/).map((part) => part.trim()))],
  {
    error: 'expected one or several, with commas between them',
  },
);

const byteUnits = { '': 1, B: 1, KB: 1e3, MB: 1e6, GB: 1e9 } as const;
export const byteSize = z.union([z.number(), text]).transform((value, context) => {
  const [, amount, unit = ''] = /^([0-9.]+)\s*(|B|KB|MB|GB)$/i.exec(String(value)) ?? [];
  const bytes = Math.round(Number(amount) * byteUnits[unit.toUpperCase() as keyof typeof byteUnits]);
  if (Number.isSafeInteger(bytes) && bytes > 0) return bytes;
  context.addIssue({ code: 'custom', message: 'expected a size such as 500KB or 64MB' });
  return z.NEVER;
});

/** A worker has 160 to 200 MB before it has a model. */
export const leastMemoryBytes = 256e6;

const secondUnits = { ms: 1, s: 1e3, m: 60e3 } as const;
/** A timer of Node that is set to more than 24 ends at once, and some are set to a little more than they are told. */
const longestDays = 20;
export const durationMs = z.union([z.number().min(0), text]).transform((value, context) => {
  const [, amount, unit = ''] = /^([0-9.]+)\s*(ms|s|m)$/.exec(String(value)) ?? [];
  const ms =
    typeof value === 'number' ? value : Number(amount) * secondUnits[unit as keyof typeof secondUnits];
  if (ms <= longestDays * 86_400_000) return ms;
  context.addIssue({
    code: 'custom',
    message: `expected a duration such as 500ms, 30s or 2m, of ${longestDays} days at most`,
  });
  return z.NEVER;
});

export const redisUrl = text.superRefine((value, context) => {
  try {
    parseRedisAddress(value);
  } catch (error) {
    context.addIssue({ code: 'custom', message: messageOf(error) });
  }
});

/** The value of an option that is no setting; `undefined` where it was not given. Throws ConfigError 'bad-option'. */
export function readOption<T>(name: string, given: unknown, schema: z.ZodType<T>): T | undefined {
  if (given === undefined) return undefined;
  const parsed = schema.safeParse(given);
  if (parsed.success) return parsed.data;
  throw new ConfigError('bad-option', `${name}: ${parsed.error.issues[0]?.message} (got '${given}')`);
}
