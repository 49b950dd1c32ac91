/** The page around its views: where to go, what is served, what must be known of it everywhere. */
import type { ComponentChildren } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import type { IndexFacts } from '../api.ts';
import { type Asked, forgetAnswers, useAsk } from './ask.ts';
import { askIndex, type ProblemError, session } from './client.ts';
import { count, counted } from './format.ts';
import { DropZone } from './parts/drop-zone.tsx';
import { Help } from './parts/help.tsx';
import { Icon, type IconName } from './parts/icon.tsx';
import { CommandLine, Empty, Notice, ProblemNotice, Words } from './parts/notice.tsx';
import { TokenForm } from './parts/token-form.tsx';
import { route, type View, views } from './route.ts';
import { useStore } from './store.ts';
import { theme, toggleTheme } from './theme.ts';
import { DuplicatesView } from './views/duplicates.tsx';
import { MapView } from './views/map.tsx';
import { RunsView } from './views/runs.tsx';
import { SearchView } from './views/search.tsx';

const viewNames: Record<View, [string, IconName]> = {
  search: ['Search', 'search'],
  duplicates: ['Duplicates', 'copies'],
  map: ['Map', 'map'],
  runs: ['Runs', 'runs'],
};

/** `problem`: of the token that the address had. */
export function App({ problem }: { problem: ProblemError | undefined }) {
  const isWanted = useStore(session) === 'wanted';
  return isWanted ? (
    <main class="main">
      <TokenForm problem={problem} />
    </main>
  ) : (
    <Page />
  );
}

function Page() {
  const { view } = useStore(route);
  const [isHelp, setHelp] = useState(false);
  const { value: index, problem, retry } = useIndex();
  useKeys(() => setHelp(true));
  useEffect(() => {
    document.title = `${viewNames[view][0]} · lensmill`;
  }, [view]);
  return (
    <>
      {/* No link: the hash is the route's. */}
      <button type="button" class="skip" onClick={() => document.getElementById('main')?.focus()}>
        Skip to the content
      </button>
      <header class="top">
        <a class="brand" href="#/search">
          <img src="./icon.svg" width="24" height="24" alt="" />
          lensmill
        </a>
        <nav class="nav" aria-label="Views">
          {views.map((name) => (
            <a key={name} href={`#/${name}`} aria-current={name === view ? 'page' : undefined}>
              <Icon name={viewNames[name][1]} />
              {viewNames[name][0]}
            </a>
          ))}
        </nav>
        <p class="served">{index && <Served index={index} />}</p>
        <ThemeButton />
        <button type="button" class="icon-button" aria-label="Keys and help" onClick={() => setHelp(true)}>
          <Icon name="help" />
        </button>
      </header>
      <main class="main" id="main" tabIndex={-1}>
        {/* Later ones are told by what was asked for. */}
        {problem && !index && view !== 'runs' && <NoIndex problem={problem} retry={retry} />}
        {index && view !== 'runs' && <IndexNotices index={index} />}
        <ViewOf key={index?.builtAt} view={view} index={index} />
      </main>
      <DropZone />
      {isHelp && <Help onClose={() => setHelp(false)} />}
    </>
  );
}

/** Between two looks at the index: it may be built, or grow, while the page is open. */
const lookMs = 20_000;
let builtAt: string | undefined;

function useIndex(): Asked<IndexFacts> {
  const [look, setLook] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => document.hidden || setLook((n) => n + 1), lookMs);
    return () => clearInterval(timer);
  }, []);
  return useAsk(`index ${look}`, async (signal) => {
    const index = await askIndex(signal);
    // What was answered before is of the index that was there before.
    if (index.builtAt !== builtAt) forgetAnswers();
    builtAt = index.builtAt;
    return index;
  });
}

function ViewOf({ view, index }: { view: View; index: IndexFacts | undefined }): ComponentChildren {
  // Runs are there before any index is.
  if (view === 'runs') return <RunsView output={index?.output ?? './index'} />;
  if (!index) return null;
  switch (view) {
    case 'search':
      return <SearchView index={index} />;
    case 'duplicates':
      return <DuplicatesView index={index} />;
    case 'map':
      return <MapView />;
  }
}

function NoIndex({ problem, retry }: { problem: ProblemError; retry: () => void }) {
  if (problem.code !== 'no-index') return <ProblemNotice problem={problem} retry={retry} />;
  return (
    <Empty icon="search" title="No index yet" level="h1">
      <p>
        <Words text={problem.message} />
      </p>
      <p>Once it is built, it is shown here by itself. The runs are there already.</p>
    </Empty>
  );
}

function Served({ index: { images, output, model } }: { index: IndexFacts }) {
  return (
    <span title={`${output}\n${model.ref}, ${model.precision}, ${model.dimension} dimensions`}>
      {count(images)} images · {model.architecture}
    </span>
  );
}

/** What every result depends on. */
function IndexNotices({ index: { model, unindexed, output } }: { index: IndexFacts }) {
  return (
    <>
      {model.untrained && (
        <Notice tone="warning">
          <b>Untrained weights ({model.ref}).</b> Labels mean nothing, and scores show how alike pixels are,
          at best.
        </Notice>
      )}
      {unindexed.length > 0 && (
        <Notice>
          {counted(unindexed.length, 'finished run is', 'finished runs are')} not in the index yet (
          {unindexed.slice(0, 3).join(', ')}
          {unindexed.length > 3 && ' …'}). To add {unindexed.length === 1 ? 'it' : 'them'}, type{' '}
          <CommandLine text={`lensmill build-index ${output}`} />
        </Notice>
      )}
    </>
  );
}

function ThemeButton() {
  const isDark = useStore(theme) === 'dark';
  return (
    <button
      type="button"
      class="icon-button"
      aria-label={isDark ? 'Light colours' : 'Dark colours'}
      onClick={toggleTheme}
    >
      <Icon name={isDark ? 'sun' : 'moon'} />
    </button>
  );
}

/** Keys that work everywhere but in a field. */
function useKeys(onHelp: () => void): void {
  useEffect(() => {
    const gone = new AbortController();
    addEventListener(
      'keydown',
      (event) => {
        const { target, key } = event;
        const isTyping = target instanceof HTMLElement && target.matches('input, select, textarea, dialog *');
        if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
        if (key === '?') onHelp();
        else if (key === '/') focusFilters();
        else return;
        event.preventDefault();
      },
      { signal: gone.signal },
    );
    return () => gone.abort();
  }, []);
}

function focusFilters(): void {
  const first = document.querySelector<HTMLElement>('[data-first-filter]');
  // On a small screen they are folded away.
  if (first && !first.checkVisibility()) document.querySelector<HTMLElement>('.filters-toggle')?.click();
  requestAnimationFrame(() => first?.focus());
}
