/** A run: how far, how fast, what limits it, when it ends, what failed. */
import type { RunFacts } from '../../api.ts';
import { count, duration, moment, momentToCome, percent, rate } from '../format.ts';
import { historyOf } from '../live-runs.ts';
import { Bars } from './bars.tsx';
import { Failures } from './failures.tsx';
import { CommandLine } from './notice.tsx';
import { SpeedPlot } from './speed-plot.tsx';

const stageNames: Record<string, string> = {
  read: 'Reading',
  decode: 'Decoding',
  device: 'Device',
  write: 'Writing',
  main: 'Main thread',
  lanes: 'Lanes',
  cores: 'Cores',
};

export function RunCard({
  run,
  output,
  code,
  onCode,
}: {
  run: RunFacts;
  output: string;
  /** The reason whose images are shown. */
  code: string | null;
  onCode: (code: string | null) => void;
}) {
  const { state, queueState, source, model, createdAt, retryOf, failed, throughput } = run;
  return (
    <li class="run" data-state={state}>
      <header class="run-head">
        <h2>{run.run}</h2>
        <span class="badge" data-state={stateOf(run)}>
          {stateOf(run)}
        </span>
      </header>
      <p class="run-of muted">
        {source} · {model} · {moment(createdAt)}
        {retryOf && ` · retries ${retryOf}`}
      </p>
      <Progress run={run} />
      <Advice state={state} queueState={queueState} run={run.run} output={output} />
      {throughput && (
        <div class="run-speed">
          {state === 'unfinished' && historyOf(run.run).times.length > 1 && (
            <SpeedPlot history={historyOf(run.run)} />
          )}
          <div class="run-stages">
            <h3>Busy</h3>
            <Bars
              label={`How busy each stage of ${run.run} is`}
              bars={Object.entries(throughput.stages).map(([stage, { busyShare }]) => ({
                name: stageNames[stage] ?? stage,
                share: busyShare,
                text: percent(busyShare),
                marked: limits(throughput.limit, stage),
              }))}
            />
          </div>
          <p class="verdict">
            <b>{state === 'done' ? 'What limited it' : 'What limits it'}:</b> {throughput.verdict}.
          </p>
        </div>
      )}
      {failed > 0 && <Failures run={run} output={output} code={code} onCode={onCode} />}
    </li>
  );
}

const stateOf = ({ state, queueState }: RunFacts): string =>
  state === 'unfinished' && queueState !== 'open'
    ? (queueState ?? 'not queued')
    : state === 'unfinished'
      ? 'running'
      : state;

/** Which bar is the limit's. */
const limitStages: Record<string, string> = {
  reading: 'read',
  decoding: 'cores',
  writing: 'write',
  'main thread': 'main',
};

const limits = (limit: string, stage: string): boolean => (limitStages[limit] ?? limit) === stage;

function Progress({
  run: { run, state, items, done, failed, shards, committed, throughput },
}: {
  run: RunFacts;
}) {
  const share = items > 0 ? done / items : state === 'done' ? 1 : 0;
  const speed = throughput?.imagesPerSecond;
  const secondsLeft = throughput?.secondsLeft;
  const facts: [string, string][] = [
    ['Images', state === 'planning' ? 'being listed' : `${count(done)} of ${count(items)}`],
    ['Failed', count(failed)],
    ['Shards', `${count(committed)} of ${count(shards)}`],
    ...(speed ? [['Speed', `${rate(speed)} images/s`] as [string, string]] : []),
    ...(state === 'unfinished' && secondsLeft
      ? [
          ['Done in', duration(secondsLeft)] as [string, string],
          ['At', momentToCome(secondsLeft)] as [string, string],
        ]
      : []),
  ];
  return (
    <>
      <div
        class="progress"
        role="progressbar"
        aria-label={`Progress of ${run}`}
        aria-valuenow={Math.round(share * 100)}
        aria-valuemin={0}
        aria-valuemax={100}
      >
        <span style={{ width: `${share * 100}%` }} />
      </div>
      <dl class="run-facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </>
  );
}

/** The command that makes a run go on which does not. */
function Advice({
  state,
  queueState,
  run,
  output,
}: Pick<RunFacts, 'state' | 'queueState'> & { run: string; output: string }) {
  if (state === 'done' || queueState === 'open') return null;
  const [why, command] =
    queueState === null
      ? ['No queue knows this run. To go on with what is left:', `lensmill resume ${run} --output ${output}`]
      : [
          `Workers take no shard of it (${queueState}). To go on:`,
          `lensmill resume ${run} --enqueue --output ${output}`,
        ];
  return (
    <p class="advice">
      {why} <CommandLine text={command} />
    </p>
  );
}
