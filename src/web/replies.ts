/** Images of an index as the API shows them. */
import { labelsOf } from '../models/labels.ts';
import type { Hit, IndexedImage, IndexRecord } from '../search/search-index.ts';
import type { HitReply, Image } from './api.ts';

/** Labels with their names, best first. */
export function namedLabels(
  { labels, scores }: { labels: readonly number[]; scores: readonly number[] },
  names: readonly string[],
): Image['labels'] {
  return labels.map((label, at) => ({ label, name: nameOf(label, names), score: scores[at] ?? 0 }));
}

export function nameOf(label: number, names: readonly string[]): string {
  return names[label] ?? `class ${label}`;
}

export const namesOf = ({ model }: IndexRecord): readonly string[] => labelsOf(model.classes);

export function imageReply(found: IndexedImage, names: readonly string[]): Image {
  const { key, id, uri, run, runAt, sha256, bytes, width, height, format } = found;
  const labels = namedLabels(found, names);
  return { key, id, uri, run, runAt, sha256, bytes, width, height, format, labels };
}

export function hitReply(hit: Hit, names: readonly string[]): HitReply {
  return { ...imageReply(hit, names), score: hit.score };
}
