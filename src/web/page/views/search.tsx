/** The archive, and what in it looks like a picture. */
import type { IndexFacts, SearchResult } from '../../api.ts';
import { type Asked, useAsk, usePages } from '../ask.ts';
import { askImages, askLabels, search } from '../client.ts';
import { count, counted } from '../format.ts';
import { FilterBar } from '../parts/filter-bar.tsx';
import { Grid, type GridActions, GridSkeleton } from '../parts/grid.tsx';
import { LabelChips } from '../parts/label-chips.tsx';
import { More } from '../parts/more.tsx';
import { Empty, Notice, ProblemNotice } from '../parts/notice.tsx';
import { QueryBar } from '../parts/query-bar.tsx';
import { Why } from '../parts/why.tsx';
import { route } from '../route.ts';
import {
  addToSearch,
  changeSearch,
  hasFilter,
  hrefBy,
  mostHits,
  picturesOf,
  readSearch,
  type SearchState,
} from '../search-state.ts';
import { useStore } from '../store.ts';

const pageSize = 60;

export function SearchView({ index }: { index: IndexFacts }) {
  const { params } = useStore(route);
  const state = readSearch(params);
  const { by, dropped, filter, minScore, k } = state;
  const files = dropped === null ? [] : (picturesOf(dropped) ?? []);
  const isLost = dropped !== null && files.length === 0;
  const isSearch = by.length > 0 || files.length > 0;

  const found = useAsk(
    isSearch ? `search ${JSON.stringify([by, dropped, filter, minScore, k])}` : null,
    (signal) => search({ keys: by, k, filter, ...(minScore !== undefined && { minScore }) }, files, signal),
  );
  // Without its own choice, or no other label could be chosen beside it.
  const { labels: _, ...others } = filter;
  const counts = useAsk(`labels ${JSON.stringify(others)}`, (signal) => askLabels(others, signal));

  const actions: GridActions = {
    hrefOf: (key) => hrefBy(params, key),
    onWhy: (key) => changeSearch({ why: key }),
    onAdd: addToSearch,
  };
  const why = params.get('why');
  return (
    <>
      <h1 class="unseen">{isSearch ? 'Search results' : 'Browse the archive'}</h1>
      <QueryBar state={state} result={found.isLoading ? undefined : found.value} />
      {isLost && (
        <Notice>
          This view was searched by a picture that was dropped on the page. It was never kept, so drop it
          again to see the same.
        </Notice>
      )}
      <FilterBar params={params} counts={counts.value ?? []} runs={index.runs} isSearch={isSearch} />
      {!isSearch && <LabelChips params={params} counts={counts} />}
      {isSearch ? (
        <Hits found={found} state={state} actions={actions} isFiltered={hasFilter(params)} />
      ) : (
        <Browse state={state} actions={actions} isFiltered={hasFilter(params)} images={index.images} />
      )}
      {why && (
        <Why
          hitKey={why}
          params={params}
          state={state}
          result={isSearch ? found.value : undefined}
          onClose={() => changeSearch({ why: null })}
        />
      )}
    </>
  );
}

interface Listing {
  state: SearchState;
  actions: GridActions;
  isFiltered: boolean;
}

function Hits({ found, state, actions, isFiltered }: Listing & { found: Asked<SearchResult> }) {
  const { value, problem, isLoading, retry } = found;
  const hits = problem ? [] : (value?.hits ?? []);
  const canHaveMore = hits.length >= state.k && state.k < mostHits;
  return (
    <section
      class="results"
      aria-label="Results"
      aria-busy={isLoading}
      data-stale={isLoading && value !== undefined}
    >
      <p class="results-head" role="status">
        {isLoading && !value && 'Searching …'}
        {value &&
          !problem &&
          `${counted(hits.length, 'result')}${hits.length > 1 ? ', the most alike first' : ''}`}
        {value && !problem && <span class="results-took">{tookText(value.took)}</span>}
      </p>
      {problem && <ProblemNotice problem={problem} retry={retry} />}
      {isLoading && !value && <GridSkeleton />}
      {hits.length > 0 && <Grid images={hits} label="Results" why="Why" actions={actions} />}
      {value && !isLoading && !problem && hits.length === 0 && <NothingFound isFiltered={isFiltered} />}
      {canHaveMore && (
        <div class="more">
          <button
            type="button"
            class="button"
            disabled={isLoading}
            onClick={() => changeSearch({ k: String(Math.min(mostHits, state.k * 3)) }, { replace: true })}
          >
            Show more
          </button>
        </div>
      )}
    </section>
  );
}

function tookText({ embedMs, searchMs }: SearchResult['took']): string {
  const searched = `searched in ${Math.max(1, Math.round(searchMs))} ms`;
  return embedMs > 0 ? `embedded in ${Math.max(1, Math.round(embedMs))} ms, ${searched}` : searched;
}

function Browse({ state, actions, isFiltered, images }: Listing & { images: number }) {
  const { filter } = state;
  const pages = usePages(`images ${JSON.stringify(filter)}`, async (after, signal) => {
    const { images: items, next } = await askImages(filter, { after, limit: pageSize }, signal);
    return { items, next };
  });
  const { items, isEnd, isLoading, problem, more } = pages;
  const isFirst = items.length === 0;
  return (
    <section class="results" aria-label="Images" aria-busy={isLoading}>
      <p class="results-head" role="status">
        {isFirst && isLoading && 'Loading …'}
        {!isFirst &&
          (isFiltered
            ? `${count(items.length)}${isEnd ? '' : ' or more'} of ${counted(images, 'image')}`
            : counted(images, 'image'))}
      </p>
      {isFirst && isLoading && <GridSkeleton />}
      {!isFirst && <Grid images={items} label="Images" why="Details" actions={actions} />}
      {problem && <ProblemNotice problem={problem} retry={more} />}
      {isFirst && !isLoading && !problem && <NothingFound isFiltered={isFiltered} />}
      {!isFirst && !isEnd && !problem && <More isLoading={isLoading} more={more} />}
    </section>
  );
}

function NothingFound({ isFiltered }: { isFiltered: boolean }) {
  return (
    <Empty icon="search" title={isFiltered ? 'No image passes these filters' : 'No image'}>
      {isFiltered ? (
        <p>Take a filter away, or widen it.</p>
      ) : (
        <p>The index holds no image that can be shown.</p>
      )}
    </Empty>
  );
}
