/** The runs of the output, live. */
import { useLiveRuns } from '../live-runs.ts';
import { CommandLine, Empty, ProblemNotice } from '../parts/notice.tsx';
import { RunCard } from '../parts/run-card.tsx';
import { go, route, withParams } from '../route.ts';
import { useStore } from '../store.ts';

/** `output`: as far as it is known; without an index it is not. */
export function RunsView({ output }: { output: string }) {
  const { params } = useStore(route);
  const { runs, problem, retry } = useLiveRuns();
  const isShown = (run: string): boolean => params.get('run') === run;
  return (
    <>
      <h1>Runs</h1>
      {problem && <ProblemNotice problem={problem} retry={retry} />}
      {!runs && !problem && (
        <ul class="runs" aria-hidden="true">
          <li class="run run-skeleton" />
          <li class="run run-skeleton" />
        </ul>
      )}
      {runs?.length === 0 && (
        <Empty icon="runs" title="No run yet">
          <p>To index a folder, an archive, a list or a bucket, type</p>
          <p>
            <CommandLine text={`lensmill index FOLDER --output ${output}`} />
          </p>
        </Empty>
      )}
      <ul class="runs">
        {runs?.toSorted(unfinishedFirst).map((run) => (
          <RunCard
            key={run.run}
            run={run}
            output={output}
            code={isShown(run.run) ? params.get('code') : null}
            onCode={(code) =>
              go(
                { view: 'runs', params: withParams(params, { run: code && run.run, code }) },
                { replace: true },
              )
            }
          />
        ))}
      </ul>
    </>
  );
}

type Told = { state: string; createdAt: string };

const unfinishedFirst = (a: Told, b: Told): number =>
  Number(a.state === 'done') - Number(b.state === 'done') || b.createdAt.localeCompare(a.createdAt);
