/**
 * Archives that lie in a folder or below a prefix, opened: their members stand among the other items, as `ARCHIVE-ID!NAME`.
 *
 * The order of ids is that of bytes, so an archive's members do not always follow it at once: 'x.tar 2.jpg' comes before
 * 'x.tar!a.jpg', a space being less than '!'. Members are therefore merged into the listing. Held in memory is one archive's
 * list, and of those whose names overlap so, theirs.
 *
 * An archive that is damaged, or that may not be read, is one item, which fails: its members cannot be known, and a million
 * other files are not to wait for it.
 */
import { archiveUriOf, type Member } from '../archives/archive.ts';
import { archiveKindOf, archiveKinds, openArchives } from '../archives/archive-kinds.ts';
import { ConfigError, messageOf } from '../errors.ts';
import type { Objects } from '../objects/objects.ts';
import type { Item } from '../types.ts';
import { type RawPath, rawOfText } from '../uri.ts';
import { chooseMembers, explainList, itemOf } from './archive-source.ts';
import { compileGlobs } from './globs.ts';
import { type Globs, type ItemPage, ReadError, type Source } from './source.ts';

const pageSize = 1000;

/**
 * `open` opens the folder or prefix with globs that let archives through, too. `globs` themselves are held against whole ids,
 * such as `a/x.tar!b/c.jpg`; an exclude that matches `a/x.tar` leaves it closed. `objects` is closed with the source.
 */
export function archivesWithin(open: (globs: Globs) => Source, globs: Globs, objects: Objects): Source {
  const wider: Globs = { ...globs, include: [...globs.include, ...archiveGlobs] };
  const outer = open(wider);
  const archives = openArchives(objects);
  const filter = compileGlobs(globs);
  const widerFilter = compileGlobs(wider);

  /** Members behind `after`; or why there are none, as an item. */
  async function openArchive(
    archive: Item,
    { after, signal }: { after?: string | undefined; signal?: AbortSignal | undefined },
  ): Promise<{ run: Run; skipped: number } | { damaged: Item }> {
    const kind = archiveKindOf(archive.id);
    if (!kind) throw new Error(`${archive.id} is no archive: this is a bug`);
    try {
      const listed = await archives.list(kind, archive.uri, signal);
      const { members, skipped } = chooseMembers(listed, `${archive.id}!`, { after, globs: filter });
      return { run: new Run(archive, members), skipped };
    } catch (error) {
      signal?.throwIfAborted();
      const isItsOwn =
        error instanceof ConfigError
          ? error.code === 'bad-archive'
          : error instanceof ReadError && !error.transient;
      if (!isItsOwn) throw explainList(error, archive.uri);
      const isDamaged = error instanceof ConfigError;
      return { damaged: { ...archive, ...(isDamaged && { extra: { damage: messageOf(error) } }) } };
    }
  }

  /** Archives up to `after` that may have members behind it: their ids begin it, and what follows there is not behind '!'. */
  async function reopen(after: string, signal: AbortSignal | undefined): Promise<Run[]> {
    const runs: Run[] = [];
    for (const { index } of after.matchAll(/(?<=.)(?=[\0-!]|$)/gs)) {
      const id = after.slice(0, index);
      if (!archiveKindOf(id) || !widerFilter.isItem(id)) continue;
      const unknown = { id, uri: `${outer.uri}/${id}`, etag: '', size: 0 };
      const archive = (await outer.refresh?.(unknown)) ?? unknown;
      const opened = archive.etag === '' ? undefined : await openArchive(archive, { after, signal });
      if (opened && 'run' in opened) runs.push(opened.run);
    }
    return runs;
  }

  return {
    uri: outer.uri,

    probe: () => outer.probe(),

    async *list({ after, signal } = {}): AsyncGenerator<ItemPage> {
      const merge = new Merge(after === undefined ? [] : await reopen(after, signal));
      let items: Item[] = [];
      let skipped = 0;
      const isFull = (): boolean => items.length + skipped >= pageSize;
      const turn = (): ItemPage => {
        signal?.throwIfAborted();
        const page = { items, skipped };
        items = [];
        skipped = 0;
        return page;
      };
      for await (const page of outer.list({
        ...(after !== undefined && { after }),
        ...(signal && { signal }),
      })) {
        skipped += page.skipped;
        for (const item of page.items) {
          for (const member of merge.before(item.id)) {
            items.push(member);
            if (isFull()) yield turn();
          }
          if (archiveKindOf(item.id)) {
            const opened = await openArchive(item, { signal });
            if ('run' in opened) {
              merge.add(opened.run);
              skipped += opened.skipped;
            } else items.push(opened.damaged);
          } else items.push(item);
          if (isFull()) yield turn();
        }
      }
      for (const member of merge.before(undefined)) {
        items.push(member);
        if (isFull()) yield turn();
      }
      if (items.length + skipped > 0) yield turn();
    },

    async read(item, options) {
      const kind = archiveKindOf(item.at ? archiveUriOf(item) : item.id);
      if (!kind) return outer.read(item, options);
      if (item.at) return archives.read(kind, item, options);
      // Throws where it still may not be read, or is gone.
      await objects.readRange(item.uri, { etag: item.etag, first: 0, count: 1, signal: options.signal });
      const { damage } = item.extra ?? {};
      if (damage !== undefined) throw new ReadError('corrupt', String(damage));
      throw new ReadError('changed', 'it could not be read when it was listed, as it can now: list it anew');
    },

    async refresh(item) {
      if (item.at) return item;
      const now = (await outer.refresh?.(item)) ?? item;
      if (!archiveKindOf(item.id)) return now;
      const { extra: _, ...changed } = now;
      return now.etag === item.etag ? item : changed;
    },

    async close() {
      await outer.close();
      await archives.close();
    },
  };
}

const archiveGlobs = archiveKinds.flatMap(({ extensions }) =>
  extensions.map((extension) => `**/*${extension}`),
);

/** An archive whose members are on their way into the listing. */
class Run {
  /** The next id, for the order; `undefined` at the end. */
  key: RawPath | undefined;
  readonly #archive: Item;
  readonly #members: readonly Member[];
  #next = 0;

  constructor(archive: Item, members: readonly Member[]) {
    this.#archive = archive;
    this.#members = members;
    this.key = this.#keyOfNext();
  }

  get id(): string {
    return this.#archive.id;
  }

  take(): Item {
    const member = this.#members[this.#next++];
    if (!member) throw new Error(`${this.id} has no further member: this is a bug`);
    this.key = this.#keyOfNext();
    return itemOf(this.#archive.uri, `${this.id}!`, member);
  }

  #keyOfNext(): RawPath | undefined {
    const member = this.#members[this.#next];
    return member && rawOfText(`${this.id}!${member.name}`);
  }
}

/** The members of all archives that are open, in order. */
class Merge {
  /** Not ended; nearly always one. */
  #runs: Run[] = [];

  constructor(runs: Run[]) {
    for (const run of runs) this.add(run);
  }

  add(run: Run): void {
    if (run.key !== undefined) this.#runs.push(run);
  }

  /** Those that come before `id`; `undefined`: all. Throws ConfigError where one has this very id. */
  *before(id: string | undefined): Generator<Item> {
    const end = id === undefined ? undefined : rawOfText(id);
    for (let first = this.#first(); first; first = this.#first()) {
      if (end !== undefined && first.key > end) return;
      if (first.key === end)
        throw new ConfigError(
          'ambiguous-id',
          `'${id}' is a file and a member of ${first.run.id}: exclude one of them`,
        );
      yield first.run.take();
      if (first.run.key === undefined) this.#runs.splice(this.#runs.indexOf(first.run), 1);
    }
  }

  #first(): { run: Run; key: RawPath } | undefined {
    let first: { run: Run; key: RawPath } | undefined;
    for (const run of this.#runs)
      if (run.key !== undefined && (!first || run.key < first.key)) first = { run, key: run.key };
    return first;
  }
}
