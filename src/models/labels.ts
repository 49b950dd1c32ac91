/** Class names. Results carry indices; a name is looked up only where a person reads it, or types one. */
import { ConfigError } from '../errors.ts';
import imagenet from './labels.json' with { type: 'json' };

/**
 * The names of ImageNet-1k's classes by index, as torchvision lists them (`torchvision.models._meta`); for a network with
 * another number of classes, whose names no file tells, 'class 0', 'class 1' ….
 */
export function labelsOf(classes: number): readonly string[] {
  return classes === imagenet.length
    ? imagenet
    : Array.from({ length: classes }, (_, index) => `class ${index}`);
}

/** ImageNet gives each of these names to two classes, which torchvision tells apart. */
const shared: Readonly<Record<string, readonly string[]>> = {
  crane: ['crane bird', 'crane'],
  maillot: ['maillot', 'maillot tank suit'],
};

/** Names that are listed where none, or too many, fit. */
const suggested = 8;

/**
 * The classes that a text means: an index; a whole name, in any case ('crane' and 'maillot' mean two classes each: an index means
 * one); or a part of one name only. Throws ConfigError 'no-label' that lists what fits or is nearest.
 */
export function findLabels(text: string, classes: number): number[] {
  const names = labelsOf(classes);
  const wanted = text.trim().toLowerCase();
  if (/^[0-9]+$/.test(wanted)) {
    if (Number(wanted) < names.length) return [Number(wanted)];
    throw new ConfigError('no-label', `no class ${wanted}: the model has 0 to ${names.length - 1}`);
  }
  const all = names.map((name, label) => ({ name, label, lower: name.toLowerCase() }));
  const wholes = Object.hasOwn(shared, wanted) ? (shared[wanted] ?? []) : [wanted];
  const whole = all.filter(({ lower }) => wholes.includes(lower));
  if (whole.length > 0) return whole.map(({ label }) => label);
  const parts = wanted === '' ? [] : all.filter(({ lower }) => lower.includes(wanted));
  const [only] = parts;
  if (only && parts.length === 1) return [only.label];
  if (only) {
    const more = parts.length > suggested ? ` … (${parts.length} in all)` : '';
    throw new ConfigError(
      'no-label',
      `'${text}' is in several labels: ${listed(parts)}${more}; give one whole`,
    );
  }
  const near = all
    .map((one) => ({ ...one, edits: editsBetween(wanted, one.lower) }))
    .toSorted((a, b) => a.edits - b.edits);
  throw new ConfigError('no-label', `no label '${text}'; the nearest are ${listed(near)}`);
}

function listed(classes: readonly { name: string; label: number }[]): string {
  return classes
    .slice(0, suggested)
    .map(({ name, label }) => `${name} (${label})`)
    .join(', ');
}

/** Levenshtein's distance: letters to put in, take out or change. */
function editsBetween(a: string, b: string): number {
  let before = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let row = 1; row <= a.length; row++) {
    const edits = [row];
    for (let at = 1; at <= b.length; at++) {
      const change = (before[at - 1] as number) + (a[row - 1] === b[at - 1] ? 0 : 1);
      edits.push(Math.min(change, (before[at] as number) + 1, (edits[at - 1] as number) + 1));
    }
    before = edits;
  }
  return before[b.length] as number; // the last of them
}
