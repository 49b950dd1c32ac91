/** The most frequent labels of the archive as chips, each with a line as long as its share. */
import type { LabelCounts } from '../../api.ts';
import type { Asked } from '../ask.ts';
import { count } from '../format.ts';
import { go, withParams } from '../route.ts';
import { ProblemNotice } from './notice.tsx';

const shown = 18;

export function LabelChips({ params, counts }: { params: URLSearchParams; counts: Asked<LabelCounts> }) {
  if (counts.problem) return <ProblemNotice problem={counts.problem} retry={counts.retry} />;
  const chosen = params.getAll('label');
  const most = counts.value?.[0]?.count ?? 1;
  const toggle = (label: string): void => {
    const labels = chosen.includes(label) ? chosen.filter((one) => one !== label) : [...chosen, label];
    go({ view: 'search', params: withParams(params, { label: labels }) });
  };
  return (
    <ul class="chips chips-histogram" aria-label="Most frequent labels">
      {(counts.value ?? []).slice(0, shown).map(({ label, name, count: images }) => (
        <li key={label}>
          <button
            type="button"
            class="chip"
            aria-pressed={chosen.includes(String(label))}
            style={{ '--share': images / most }}
            onClick={() => toggle(String(label))}
          >
            {name} <span class="chip-count">{count(images)}</span>
          </button>
        </li>
      ))}
    </ul>
  );
}
