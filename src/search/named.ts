/** Images of an index as people and programs outside read them: with the names of their labels. */
import type { IndexedImage } from './search-index.ts';

export interface NamedLabel {
  label: number;
  name: string;
  /** Its probability. */
  score: number;
}

export type NamedImage<Image extends IndexedImage> = Omit<Image, 'labels' | 'scores' | 'etag'> & {
  /** Best first. */
  labels: NamedLabel[];
};

/** `names` by class, as `labelsOf` gives them. */
export function nameLabels(
  { labels, scores }: Pick<IndexedImage, 'labels' | 'scores'>,
  names: readonly string[],
): NamedLabel[] {
  return labels.map((label, at) => ({ label, name: names[label] ?? String(label), score: scores[at] ?? 0 }));
}

export function nameImage<Image extends IndexedImage>(
  image: Image,
  names: readonly string[],
): NamedImage<Image> {
  const { labels, scores, etag, ...rest } = image;
  return { ...rest, labels: nameLabels({ labels, scores }, names) };
}
