/** Pictures that are nearly the same, in groups, to be marked and exported. Nothing is deleted here or anywhere by lensmill. */
import { useEffect, useRef, useState } from 'preact/hooks';
import { usualThreshold } from '../../../search/search-index.ts';
import type { DuplicateGroups, IndexFacts } from '../../api.ts';
import { useAsk } from '../ask.ts';
import { askDuplicates } from '../client.ts';
import { count, counted, score } from '../format.ts';
import { clearMarks, exportMarks, type Mark, markAsSuggested, marks, openMarks, setMark } from '../marks.ts';
import { onCardKey } from '../parts/card-keys.ts';
import { DuplicateGroup } from '../parts/duplicate-group.tsx';
import { GridSkeleton } from '../parts/grid.tsx';
import { Empty, ProblemNotice } from '../parts/notice.tsx';
import { Why } from '../parts/why.tsx';
import { go, route, withParams } from '../route.ts';
import { readSearch } from '../search-state.ts';
import { useStore } from '../store.ts';

const lowestThreshold = 0.8;
const firstGroups = 50;
/** As many as the API gives. */
const mostGroups = 1_000;

export function DuplicatesView({ index }: { index: IndexFacts }) {
  const { params } = useStore(route);
  const threshold = Number(params.get('threshold') ?? usualThreshold);
  const [limit, setLimit] = useState(firstGroups);
  useEffect(() => openMarks(index.output), [index.output]);
  const { value, problem, isLoading, retry } = useAsk(`duplicates ${threshold} ${limit}`, (signal) =>
    askDuplicates(threshold, limit, signal),
  );
  const change = (changes: Record<string, string | null>, replace: boolean): void =>
    go({ view: 'duplicates', params: withParams(params, changes) }, { replace });
  const groups = problem ? [] : (value?.groups ?? []);
  const why = params.get('why');
  const compared = groups.find(({ images }) => images.some(({ key }) => key === why));
  return (
    <>
      <h1>Duplicates</h1>
      <p class="muted lead">
        Mark what to keep and what to remove, then export the marks. lensmill never deletes a picture: what
        becomes of the list is yours to decide.
      </p>
      <Toolbar
        threshold={threshold}
        value={problem ? undefined : value}
        onThreshold={(to) => change({ threshold: to }, true)}
      />
      {problem && <ProblemNotice problem={problem} retry={retry} />}
      {isLoading && !value && <GridSkeleton cards={8} />}
      <Groups groups={groups} isStale={isLoading} onWhy={(key) => change({ why: key }, false)} />
      {value && !problem && groups.length === 0 && !isLoading && (
        <Empty icon="copies" title={`No two pictures are as alike as ${score(threshold)}`}>
          <p>
            {counted(value.images, 'image')} were compared. A lower threshold finds pictures that differ more.
          </p>
        </Empty>
      )}
      {groups.length >= limit && limit < mostGroups && (
        <div class="more">
          <button
            type="button"
            class="button"
            disabled={isLoading}
            onClick={() => setLimit(Math.min(mostGroups, limit * 3))}
          >
            Show more groups
          </button>
        </div>
      )}
      {why && compared && (
        <Why
          hitKey={why}
          params={new URLSearchParams()}
          state={readSearch(new URLSearchParams({ by: compared.keeper }))}
          result={{ hits: compared.images, pictures: [], refused: [], took: { embedMs: 0, searchMs: 0 } }}
          onClose={() => change({ why: null }, false)}
        />
      )}
    </>
  );
}

function Toolbar({
  threshold,
  value,
  onThreshold,
}: {
  threshold: number;
  value: DuplicateGroups | undefined;
  onThreshold: (threshold: string) => void;
}) {
  const [shown, setShown] = useState(threshold);
  useEffect(() => setShown(threshold), [threshold]);
  const marked = [...useStore(marks).values()];
  const removed = marked.filter(({ mark }) => mark === 'remove').length;
  const groups = value?.groups ?? [];
  return (
    <section class="toolbar" aria-label="Threshold and marks">
      <div class="field toolbar-threshold">
        <label for="threshold">
          Cosine, at least: <output>{score(shown)}</output>
        </label>
        <input
          id="threshold"
          type="range"
          min={lowestThreshold}
          max="1"
          step="0.005"
          value={shown}
          onInput={({ currentTarget }) => setShown(Number(currentTarget.value))}
          onChange={({ currentTarget }) => onThreshold(currentTarget.value)}
        />
      </div>
      <p class="toolbar-facts" role="status">
        {value && foundText(value)}
        <br />
        {marked.length > 0
          ? `${count(marked.length - removed)} marked to keep, ${count(removed)} to remove`
          : 'Nothing is marked yet'}
      </p>
      <div class="toolbar-actions">
        <button
          type="button"
          class="button"
          disabled={groups.length === 0}
          onClick={() => markAsSuggested(groups)}
        >
          Mark all as suggested
        </button>
        <button type="button" class="button" disabled={marked.length === 0} onClick={clearMarks}>
          Clear marks
        </button>
        <button
          type="button"
          class="button button-main"
          disabled={marked.length === 0}
          onClick={() => exportMarks('csv')}
        >
          Export CSV
        </button>
        <button
          type="button"
          class="button button-main"
          disabled={marked.length === 0}
          onClick={() => exportMarks('json')}
        >
          Export JSON
        </button>
      </div>
    </section>
  );
}

/** Of all groups there are: of many, the largest are shown. */
function foundText({ images, found, surplus, groups }: DuplicateGroups): string {
  const all = `${counted(found, 'group')} of ${counted(found + surplus.images, 'picture')}`;
  const shown = groups.length < found ? `, the ${count(groups.length)} largest shown` : '';
  return `${all}${shown}; ${count(images)} compared`;
}

/** Arrow keys move through the pictures of all groups; k and r mark the one that has the focus. */
function Groups({
  groups,
  isStale,
  onWhy,
}: {
  groups: DuplicateGroups['groups'];
  isStale: boolean;
  onWhy: (key: string) => void;
}) {
  const list = useRef<HTMLUListElement>(null);
  const marked = useStore(marks);

  function toggle(key: string, mark: Mark): void {
    const group = groups.find(({ images }) => images.some((image) => image.key === key));
    if (group) setMark(group, key, marked.get(key)?.mark === mark ? null : mark);
  }

  function onKeyDown(event: KeyboardEvent): void {
    onCardKey(event, list.current, {
      k: (key) => toggle(key, 'keep'),
      r: (key) => toggle(key, 'remove'),
      w: onWhy,
    });
  }

  return (
    <ul ref={list} class="groups" aria-label="Groups of duplicates" aria-busy={isStale} onKeyDown={onKeyDown}>
      {groups.map((group, at) => (
        <DuplicateGroup
          key={group.images.map(({ key }) => key).join()}
          group={group}
          number={at + 1}
          marked={marked}
          onToggle={toggle}
          onWhy={onWhy}
        />
      ))}
    </ul>
  );
}
