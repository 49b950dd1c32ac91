/** What a scrape says, by name and labels. */

export type Samples = (name: string, labels?: Readonly<Record<string, string>>) => number | undefined;

/** Of the text format of Prometheus, as prom-client writes it: labels in any order, no timestamps. */
export function readSamples(text: string): Samples {
  const values = new Map<string, number>();
  for (const line of text.split('\n')) {
    const match = /^([a-z_]\w*)(?:\{(.*)\})? (\S+)$/i.exec(line);
    if (!match) continue;
    const [, name = '', labels = '', value] = match;
    const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, label, of]) => [label, of]);
    values.set(keyOf(name, Object.fromEntries(pairs)), Number(value));
  }
  return (name, labels = {}) => values.get(keyOf(name, labels));
}

const keyOf = (name: string, labels: Readonly<Record<string, string>>): string =>
  JSON.stringify([name, Object.entries(labels).sort()]);
