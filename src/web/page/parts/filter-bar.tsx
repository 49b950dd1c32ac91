/** Filters of a search: what is set here stands in the URL. On a small screen they open with a button. */
import { useEffect, useRef, useState } from 'preact/hooks';
import type { LabelCounts } from '../../api.ts';
import { bytes, score } from '../format.ts';
import { go, withParams } from '../route.ts';
import { hasFilter, withoutFilter } from '../search-state.ts';
import { Icon } from './icon.tsx';
import { LabelPicker } from './label-picker.tsx';

/** Until then, each letter would be a question to the server. */
const typingMs = 250;

export function FilterBar({
  params,
  counts,
  runs,
  isSearch,
}: {
  params: URLSearchParams;
  counts: LabelCounts;
  runs: readonly string[];
  /** There is a score to filter by. */
  isSearch: boolean;
}) {
  const [isOpen, setOpen] = useState(false);
  const change = (changes: Record<string, string | string[] | null>, replace = false): void =>
    go({ view: 'search', params: withParams(params, { ...changes, k: null }) }, { replace });
  const field = (name: string) => ({
    value: params.get(name) ?? '',
    onValue: (value: string) => change({ [name]: value || null }, true),
  });
  const kilobytes = (name: string) => ({
    value: params.has(name) ? String(Number(params.get(name)) / 1_000) : '',
    onValue: (value: string) => change({ [name]: value && String(Math.round(Number(value) * 1_000)) }, true),
  });
  return (
    <section class="filters" aria-label="Filters" data-open={isOpen}>
      <button
        type="button"
        class="button filters-toggle"
        aria-expanded={isOpen}
        onClick={() => setOpen((open) => !open)}
      >
        <Icon name="filter" />
        <span class="only-narrow">Filters</span>
        <span class="only-wide">{isOpen ? 'Fewer' : 'More'}</span>
      </button>
      <div class="filters-main">
        <LabelPicker
          counts={counts}
          onPick={(label) => change({ label: [...new Set([...params.getAll('label'), String(label)])] })}
        />
        <TypedField label="Path begins with" placeholder="2024/summer/" {...field('prefix')} />
        <div class="field">
          <label for="filter-run">Run</label>
          <select
            id="filter-run"
            value={params.get('run') ?? ''}
            onChange={({ currentTarget }) => change({ run: currentTarget.value || null })}
          >
            <option value="">All runs</option>
            {runs.map((run) => (
              <option key={run} value={run}>
                {run}
              </option>
            ))}
          </select>
        </div>
        {isSearch && <ScoreField {...field('minScore')} />}
      </div>
      <div class="filters-more">
        <TypedField label="Shorter side, at least" unit="px" type="number" {...field('minSide')} />
        <TypedField label="File, at least" unit="kB" type="number" {...kilobytes('minBytes')} />
        <TypedField label="File, at most" unit="kB" type="number" {...kilobytes('maxBytes')} />
        <TypedField label="Run since" type="date" {...field('since')} />
        <TypedField label="Run before" type="date" {...field('before')} />
      </div>
      {hasFilter(params) && <SetFilters params={params} counts={counts} />}
    </section>
  );
}

function SetFilters({ params, counts }: { params: URLSearchParams; counts: LabelCounts }) {
  const without = (name: string, value: string): void => {
    const left = params.getAll(name).filter((one) => one !== value);
    go({ view: 'search', params: withParams(params, { [name]: left }) });
  };
  const said: Record<string, (value: string) => string> = {
    label: (value) => counts.find(({ label }) => String(label) === value)?.name ?? `label ${value}`,
    prefix: (value) => `path ${value}…`,
    run: (value) => `run ${value}`,
    minScore: (value) => `score ≥ ${score(Number(value))}`,
    minSide: (value) => `side ≥ ${value} px`,
    minBytes: (value) => `file ≥ ${bytes(Number(value))}`,
    maxBytes: (value) => `file ≤ ${bytes(Number(value))}`,
    since: (value) => `run since ${value}`,
    before: (value) => `run before ${value}`,
  };
  return (
    <ul class="chips" aria-label="Filters that are set">
      {[...params].flatMap(([name, value]) => {
        const text = said[name]?.(value);
        if (text === undefined) return [];
        return (
          <li key={`${name} ${value}`}>
            <button type="button" class="chip chip-set" onClick={() => without(name, value)}>
              {text}
              <span class="unseen">: remove this filter</span>
              <Icon name="close" />
            </button>
          </li>
        );
      })}
      <li>
        <button
          type="button"
          class="link-button"
          onClick={() => go({ view: 'search', params: withoutFilter(params) })}
        >
          Clear all
        </button>
      </li>
    </ul>
  );
}

/** Tells its value when the typing pauses. */
function TypedField({
  label,
  value,
  onValue,
  type = 'text',
  unit,
  placeholder,
}: {
  label: string;
  value: string;
  onValue: (value: string) => void;
  type?: 'text' | 'number' | 'date';
  unit?: string;
  placeholder?: string;
}) {
  const [text, setText] = useState(value);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const id = `filter-${label.replaceAll(/\W+/g, '-').toLowerCase()}`;
  useEffect(() => {
    clearTimeout(timer.current);
    setText(value);
  }, [value]);
  return (
    <div class="field">
      <label for={id}>
        {label}
        {unit && <span class="field-unit"> ({unit})</span>}
      </label>
      <input
        id={id}
        // preact's types know an input by one type; these three are written alike.
        type={type as 'text'}
        min={type === 'number' ? 0 : undefined}
        placeholder={placeholder}
        autocomplete="off"
        value={text}
        onInput={({ currentTarget }) => {
          const typed = currentTarget.value;
          setText(typed);
          clearTimeout(timer.current);
          timer.current = setTimeout(() => onValue(typed), typingMs);
        }}
      />
    </div>
  );
}

function ScoreField({ value, onValue }: { value: string; onValue: (value: string) => void }) {
  const shown = value === '' ? 0 : Number(value);
  return (
    <div class="field">
      <label for="filter-score">
        Score, at least: <output>{value === '' ? 'any' : score(shown)}</output>
      </label>
      <input
        id="filter-score"
        type="range"
        min="0"
        max="1"
        step="0.01"
        value={shown}
        onChange={({ currentTarget }) => onValue(currentTarget.value === '0' ? '' : currentTarget.value)}
      />
    </div>
  );
}
