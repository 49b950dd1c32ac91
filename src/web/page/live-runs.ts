/** The runs of the output as they change: server-sent events, with what was seen of their speed since the page was opened. */
import { useEffect, useState } from 'preact/hooks';
import type { RunFacts } from '../api.ts';
import { problemFrom } from './ask.ts';
import { askRuns, type ProblemError, runEvents } from './client.ts';
import { createStore, useStore } from './store.ts';

/** Of one run: times in seconds since 1970, and images a second, as uPlot takes them. */
export interface SpeedHistory {
  times: number[];
  rates: number[];
}

/** The latest; undefined before the first answer. Kept while other views are shown. */
const runs = createStore<readonly RunFacts[] | undefined>(undefined);
const histories = new Map<string, SpeedHistory>();
/** Points of a plot: an hour, one a second. */
const maxPoints = 3_600;
const retryMs = 3_000;

export function useLiveRuns(): {
  runs: readonly RunFacts[] | undefined;
  problem: ProblemError | undefined;
  retry: () => void;
} {
  const [problem, setProblem] = useState<ProblemError>();
  const [round, setRound] = useState(0);
  useEffect(() => {
    const gone = new AbortController();
    const events = runEvents();
    let timer: ReturnType<typeof setTimeout> | undefined;
    events.addEventListener('runs', ({ data }) => {
      setProblem(undefined);
      keep(JSON.parse(data) as RunFacts[]); // held to this schema by the server
    });
    events.addEventListener('error', () => {
      // An EventSource does not say why it ended; a plain question does.
      askRuns(gone.signal).then(
        keep,
        (error: unknown) => !gone.signal.aborted && setProblem(problemFrom(error)),
      );
      if (events.readyState === EventSource.CLOSED) timer = setTimeout(() => setRound((n) => n + 1), retryMs);
    });
    return () => {
      clearTimeout(timer);
      gone.abort();
      events.close();
    };
  }, [round]);
  return { runs: useStore(runs), problem, retry: () => setRound((n) => n + 1) };
}

function keep(latest: readonly RunFacts[]): void {
  const time = Date.now() / 1_000;
  for (const { run, state, throughput } of latest) {
    const rate = throughput?.imagesPerSecond;
    if (state !== 'unfinished' || rate === null || rate === undefined) continue;
    const { times, rates } = historyOf(run);
    times.push(time);
    rates.push(rate);
    if (times.length > maxPoints) {
      times.shift();
      rates.shift();
    }
  }
  runs.set(latest);
}

export function historyOf(run: string): SpeedHistory {
  const history = histories.get(run) ?? { times: [], rates: [] };
  histories.set(run, history);
  return history;
}
