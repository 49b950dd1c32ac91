/** Numbers, sizes and times as people read them. */
const whole = new Intl.NumberFormat('en');
const short = new Intl.NumberFormat('en', { maximumSignificantDigits: 3 });

export const count = (n: number): string => whole.format(n);

export const counted = (n: number, one: string, many = `${one}s`): string =>
  `${count(n)} ${n === 1 ? one : many}`;

export const score = (cosine: number): string => cosine.toFixed(3);

export const percent = (share: number): string => `${Math.round(share * 100)} %`;

/** Three digits, as far as a rate is known. */
export const rate = (n: number): string => short.format(n);

export function bytes(n: number): string {
  if (n < 1e3) return `${n} B`;
  if (n < 1e6) return `${short.format(n / 1e3)} kB`;
  return n < 1e9 ? `${short.format(n / 1e6)} MB` : `${short.format(n / 1e9)} GB`;
}

export function duration(seconds: number): string {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  if (seconds < 48 * 3_600) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.round(seconds / 86_400)} days`;
}

export const moment = (time: string | Date): string =>
  new Date(time).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' });

/** The time alone where that says which day. */
export function momentToCome(seconds: number): string {
  const then = new Date(Date.now() + seconds * 1_000);
  return seconds < 12 * 3_600 ? then.toLocaleTimeString(undefined, { timeStyle: 'short' }) : moment(then);
}

/** The last name of an id's path. */
export const nameOf = (id: string): string => id.slice(id.lastIndexOf('/') + 1) || id;
