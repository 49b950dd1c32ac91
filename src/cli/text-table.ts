/** Rows for people, in columns that fit the terminal. */

/** A column is not cut below this. */
const leastWidth = 12;
const gap = 2;

/**
 * The heads and then the rows; numbers stand to the right, an empty row is an empty line. On a terminal the column `flexible` is cut,
 * in its middle, so that rows fit; elsewhere nothing is, as a program may read them.
 */
export function columnsOf(
  heads: readonly string[],
  rows: readonly (readonly string[])[],
  { flexible, width = process.stdout.columns }: { flexible: number; width?: number | undefined },
): string[] {
  const all = [heads, ...rows];
  const widths = heads.map((_, at) => Math.max(...all.map((row) => lengthOf(row[at] ?? ''))));
  const wanted = widths.reduce((sum, one) => sum + one, 0) + gap * (heads.length - 1);
  const over = width === undefined ? 0 : wanted - width;
  if (over > 0) widths[flexible] = Math.max(leastWidth, (widths[flexible] ?? 0) - over);
  const isNumber = heads.map((_, at) => rows.every((row) => /^([\d.,×-]+( KB)?)?$/.test(row[at] ?? '')));
  return all.map((row) =>
    row
      .map((cell, at) => {
        const text = cut(cell, widths[at] ?? 0);
        const space = ' '.repeat((widths[at] ?? 0) - lengthOf(text));
        return isNumber[at] ? space + text : text + space;
      })
      .join(' '.repeat(gap))
      .trimEnd(),
  );
}

function cut(text: string, width: number): string {
  const letters = Array.from(text);
  if (letters.length <= width) return text;
  const end = Math.ceil((width - 1) / 2);
  return [...letters.slice(0, width - 1 - end), '…', ...letters.slice(-end)].join('');
}

function lengthOf(text: string): number {
  return Array.from(text).length;
}
