/**
 * What an autoscaler costs and gains, by its signal: `node test/bench/autoscale.ts [--record] [--days 5] [--seed 1] [--sweep] [--json FILE]
 * [--chart docs/images/autoscale.svg]`. Days of runs that arrive by chance are played on a simulated pool, which KEDA and the
 * HPA scale as they document it (autoscale/scaler.ts).
 *
 *   GPU-hours      of a day, from asking for a node to giving it back
 *   used           share of them in which images were embedded
 *   first shard    from enqueueing a run to its first shard
 *   done           from enqueueing a run to its last part
 *
 * --record takes from a real run on this machine how long a worker takes to start and to stop, and how late the metric is;
 * it also holds the simulation of that run against what it took.
 *
 * Assumed: a GPU embeds 3,000 images/s (docs/scale.md), four times that with a small model, a quarter where reading limits;
 * a node with a GPU and its image takes four minutes to come, is kept for one minute without a worker; a worker needs 20 s
 * until its first shard. The signals: `drain time` is lensmill_backlog_worker_seconds over the seconds in which all shall be
 * done; `queue length` is the shards that wait in Redis, over what one GPU does in these seconds of 512-image shards of the
 * 3,000 images/s.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { type Arrivals, drawRuns, type Kind } from './autoscale/arrivals.ts';
import { drawChart } from './autoscale/chart.ts';
import { type Day, type DayOptions, simulateDay } from './autoscale/day.ts';
import { recordFacts } from './autoscale/record.ts';
import { fixedPool, openScaler, type ScalerOptions } from './autoscale/scaler.ts';
import { drainTimeSignal, queueLengthSignal } from './autoscale/signals.ts';

const usual: Kind = { shardSize: 512, imagesPerSecond: 3_000, weight: 1 };
const arrivals: Arrivals = { runs: 96, medianImages: 1_000_000, sigma: 1.4, kinds: [usual] };
const loads: Record<string, Arrivals> = {
  'all runs alike': arrivals,
  'runs of all kinds': {
    ...arrivals,
    kinds: [
      { ...usual, weight: 4 },
      { ...usual, shardSize: 4_096, weight: 3 },
      { ...usual, shardSize: 128, weight: 1 },
      { ...usual, imagesPerSecond: 12_000, weight: 1 },
      { ...usual, imagesPerSecond: 750, weight: 1 },
    ],
  },
};

/** As deploy/kubernetes has it. */
const drainSeconds = 600;
/** In which all that waits shall be done. */
const wantedSeconds = [300, 600, 1_200];
const maxReplicas = 16;
const scaling = { maxReplicas, pollingSeconds: 15, cooldownSeconds: 120, stabilizationSeconds: 600 };
const pool = {
  nodes: { nodeSeconds: 240, startSeconds: 20, graceSeconds: 25, lingerSeconds: 60 },
  metricSeconds: 15,
  highWater: 10_000,
};

type Policy = Pick<DayOptions, 'scaler' | 'signal' | 'readyNodes'> & Partial<Pick<DayOptions, 'highWater'>>;

function byDrainTime(target: number, changes: Partial<ScalerOptions> = {}): Policy {
  return { scaler: openScaler({ ...scaling, target, ...changes }), signal: drainTimeSignal() };
}

function byQueueLength(seconds: number, highWater = pool.highWater): Policy {
  const target = (seconds * usual.imagesPerSecond) / usual.shardSize;
  return { scaler: openScaler({ ...scaling, target }), signal: queueLengthSignal, highWater };
}

function fixed(replicas: number): Policy {
  return { scaler: fixedPool(replicas), signal: () => 0, readyNodes: replicas };
}

const { values } = parseArgs({
  options: {
    record: { type: 'boolean', default: false },
    days: { type: 'string', default: '5' },
    seed: { type: 'string', default: '1' },
    sweep: { type: 'boolean', default: false },
    json: { type: 'string' },
    chart: { type: 'string' },
  },
});
if (values.record) {
  console.log('recorded on this machine: lensmill work --device sleep:500 --model null, lensmill serve');
  const facts = await recordFacts();
  console.table(
    Object.fromEntries(Object.entries(facts).map(([name, value]) => [name, Number(value.toFixed(2))])),
  );
  // The days go by whole seconds.
  pool.nodes.startSeconds = Math.ceil(facts.startSeconds);
  pool.nodes.graceSeconds = Math.ceil(facts.drainSeconds);
  pool.metricSeconds = Math.max(1, Math.ceil(facts.metricSeconds));
}
const days = Number(values.days);
const seed = Number(values.seed);

function play(load: Arrivals, policy: () => Policy): Day[] {
  return Array.from({ length: days }, (_, day) =>
    simulateDay({ ...pool, ...policy(), runs: drawRuns(load, seed + day) }),
  );
}

function rowOf(all: readonly Day[]) {
  const sum = (of: (day: Day) => number): number => all.reduce((total, day) => total + of(day), 0);
  const hours = sum(({ gpuHours }) => gpuHours);
  const minutes = (of: (day: Day) => number[]) => {
    const sorted = all.flatMap(of).sort((a, b) => a - b);
    const mean = sorted.reduce((total, one) => total + one, 0) / sorted.length;
    return { mean: mean / 60, p95: (sorted[Math.floor(0.95 * sorted.length)] ?? 0) / 60 };
  };
  return {
    gpuHours: hours / all.length,
    used: sum(({ busyHours }) => busyHours) / hours,
    firstShard: minutes(({ started }) => started),
    done: minutes(({ done }) => done),
  };
}

function shown({ gpuHours, used, firstShard, done }: ReturnType<typeof rowOf>) {
  const pair = ({ mean, p95 }: { mean: number; p95: number }): string =>
    `${mean.toFixed(1)} / ${p95.toFixed(1)}`;
  return {
    'GPU-hours a day': gpuHours.toFixed(1),
    used: `${(100 * used).toFixed(0)} %`,
    'first shard, min (mean / p95)': pair(firstShard),
    'done, min (mean / p95)': pair(done),
  };
}

const report: Record<string, Record<string, ReturnType<typeof rowOf>>> = {};
for (const [name, load] of Object.entries(loads)) {
  const needed =
    play(load, () => fixed(maxReplicas)).reduce((sum, day) => sum + day.busyHours, 0) / days / 24;
  const few = Math.ceil(needed);
  const policies: Record<string, () => Policy> = {
    [`fixed, ${few} (the mean)`]: () => fixed(few),
    [`fixed, ${2 * few}`]: () => fixed(2 * few),
    [`fixed, ${maxReplicas} (the most)`]: () => fixed(maxReplicas),
  };
  for (const seconds of wantedSeconds) policies[`queue length, ${seconds} s`] = () => byQueueLength(seconds);
  // Of a long run no more than --high-water shards wait at a time, which hides the rest from who counts them.
  policies[`queue length, ${drainSeconds} s, all wait`] = () =>
    byQueueLength(drainSeconds, Number.POSITIVE_INFINITY);
  for (const seconds of wantedSeconds) policies[`drain time, ${seconds} s`] = () => byDrainTime(seconds);
  const rows = Object.fromEntries(
    Object.entries(policies).map(([policy, make]) => [policy, rowOf(play(load, make))]),
  );
  report[name] = rows;
  console.log(
    `${name}: ${load.runs} runs a day, ${(24 * needed).toFixed(1)} GPU-hours of work; mean of ${days} days`,
  );
  console.table(Object.fromEntries(Object.entries(rows).map(([policy, row]) => [policy, shown(row)])));
}

if (values.sweep) {
  const rows: Record<string, ReturnType<typeof rowOf>> = {};
  for (const target of wantedSeconds)
    for (const stabilizationSeconds of [0, 300, 600])
      for (const cooldownSeconds of [120, 300])
        rows[`targetValue ${target}, stabilization ${stabilizationSeconds}, cooldown ${cooldownSeconds}`] =
          rowOf(
            play(loads['runs of all kinds'] ?? arrivals, () =>
              byDrainTime(target, { stabilizationSeconds, cooldownSeconds }),
            ),
          );
  report.sweep = rows;
  console.log('drain time, runs of all kinds, by what the ScaledObject says');
  console.table(Object.fromEntries(Object.entries(rows).map(([name, row]) => [name, shown(row)])));
}

if (values.chart !== undefined) {
  const load = loads['runs of all kinds'] ?? arrivals;
  const courseOf = (policy: () => Policy) =>
    simulateDay({ ...pool, ...policy(), runs: drawRuns(load, seed) }).course;
  const lines = [
    { name: 'fixed, 4', colour: '#9a9a9a', course: courseOf(() => fixed(4)) },
    { name: 'queue length', colour: '#d9822b', course: courseOf(() => byQueueLength(drainSeconds)) },
    { name: 'drain time', colour: '#2b6cb0', course: courseOf(() => byDrainTime(drainSeconds)) },
  ];
  writeFileSync(values.chart, drawChart('A day under three policies', lines));
}
if (values.json !== undefined)
  writeFileSync(values.json, `${JSON.stringify({ days, seed, scaling, pool, report }, null, 2)}\n`);
