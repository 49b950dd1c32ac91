/** Contact sheets of what a command found: `--html FILE`. */
import { resolve } from 'node:path';
import { openThumbnails, type Thumbnails } from '../../workers/thumbnails.ts';
import { type ContactSheet, renderSheet, type SheetCard, type SheetSection } from '../contact-sheet.ts';
import { ConfigError } from '../errors.ts';
import { writeWhole } from '../models/files.ts';
import type { IndexedImage } from '../search/search-index.ts';
import type { Store } from '../stores/store.ts';
import type { Context } from './command.ts';
import { reportProgress } from './progress.ts';

/** What a card is made of: an image of the index, or a picture's own bytes. */
export interface SheetSubject extends Omit<SheetCard, 'picture'> {
  image?: Pick<IndexedImage, 'run' | 'id'>;
  content?: Uint8Array;
}

export interface SheetPlan extends Omit<ContactSheet, 'sections'> {
  sections: { heading?: string; subjects: readonly SheetSubject[] }[];
}

/** An image of the index as a card shows it. */
export function cardOf(image: IndexedImage, names: readonly string[]): SheetSubject {
  const { id, uri, run, width, height, bytes, labels, scores } = image;
  const [label = -1] = labels;
  return {
    image: { run, id },
    name: id,
    uri,
    label: `${names[label] ?? ''} ${(scores[0] ?? 0).toFixed(2)}`,
    details: [`${width}×${height}, ${Math.ceil(bytes / 1000).toLocaleString('en-US')} KB`, run],
  };
}

/** Of the longer side: sharp on a screen with two pixels for one. */
const thumbnailSize = 384;
/** A page of more is slow to open and too large to send; cards beyond have no picture. */
const mostPictures = 500;
const mostBytes = 16e6;
const tooMany = 'one picture too many for this page';

/** Writes the page and gives its absolute path. Throws ConfigError 'unwritable', and the signal's reason. */
export async function writeSheet(
  context: Context,
  store: Store,
  file: string,
  { sections, ...head }: SheetPlan,
): Promise<string> {
  const thumbnails = openThumbnails(store, context.settings);
  const progress = reportProgress('thumbnails', context);
  const total = sections.reduce((sum, { subjects }) => sum + subjects.length, 0);
  let [pictures, bytes, done] = [0, 0, 0];
  try {
    const rendered: SheetSection[] = [];
    for (const { subjects, ...section } of sections) {
      const cards: SheetCard[] = [];
      // Some at a time, so that what is kept of them is bounded in order.
      for (let first = 0; first < subjects.length; first += 16) {
        const some = subjects.slice(first, first + 16);
        const isFull = (): boolean => pictures >= mostPictures || bytes >= mostBytes;
        const made = isFull()
          ? some.map(() => tooMany)
          : await Promise.all(some.map((subject) => pictureOf(thumbnails, subject, context)));
        for (const [at, { image, content, ...card }] of some.entries()) {
          let picture = made[at] ?? tooMany;
          if (isFull()) picture = tooMany;
          if (typeof picture !== 'string') {
            pictures += 1;
            bytes += picture.content.length;
          }
          cards.push({ ...card, picture });
        }
        done += some.length;
        progress.update({ done, total });
      }
      rendered.push({ ...section, cards });
    }
    const path = resolve(file);
    await writeWhole(path, [Buffer.from(renderSheet({ ...head, sections: rendered }))]);
    return path;
  } finally {
    progress.close();
    await thumbnails.close();
  }
}

/** What its user reads where there is none. */
async function pictureOf(
  thumbnails: Thumbnails,
  { image, content }: SheetSubject,
  { settings, interrupted: signal }: Context,
): Promise<SheetCard['picture']> {
  try {
    const made = image
      ? await thumbnails.make(image, thumbnailSize, { signal })
      : await thumbnails.shrink(content ?? new Uint8Array(), {
          size: thumbnailSize,
          maxPixels: settings.maxPixels,
        });
    return 'error' in made ? `${made.error}: ${made.message}` : made;
  } catch (error) {
    signal.throwIfAborted();
    // A source that refuses everything shall not take the result with it.
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
}
