/** The dashboard and the alerts against what real processes tell a real Prometheus. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { startPrivateRedis } from '../src/redis/server.ts';
import { serveTable, workerTable } from '../src/telemetry/metric-table.ts';
import { type CliProcess, lensmill, logged } from './helpers/cli.ts';
import { deployed, type Prometheus, promtool, startPrometheus } from './helpers/prometheus.ts';
import { tempFolder } from './helpers/temp.ts';
import { makeTinyArchive } from './helpers/tiny-archive.ts';

interface Query {
  /** Where it stands, for who reads a failure. */
  place: string;
  expr: string;
}

interface Rule {
  alert: string;
  expr: string;
  labels: Record<string, string>;
  annotations: Record<string, string>;
}

const images = 30;
const { groups }: { groups: { rules: Rule[] }[] } = parse(
  await readFile(join(deployed, 'prometheus/alerts.yml'), 'utf8'),
);
const rules = groups.flatMap((group) => group.rules);
const dashboard = JSON.parse(await readFile(join(deployed, 'grafana/dashboards/lensmill.json'), 'utf8'));
const panels: {
  id: number;
  title: string;
  gridPos: { x: number; y: number; w: number; h: number };
  targets?: { expr: string }[];
}[] = dashboard.panels;

const alerts: Query[] = rules.map(({ alert, expr }) => ({ place: alert, expr }));
const shown: Query[] = panels.flatMap(({ title, targets = [] }) =>
  targets.map(({ expr }) => ({ place: title, expr: withoutVariables(expr) })),
);
const told: Query[] = [
  ...(await readFile(join(deployed, '../docs/metrics.md'), 'utf8')).matchAll(/```promql\n(.*)\n```/g),
].map(([, expr = '']) => ({ place: 'docs/metrics.md', expr }));
const variables: Query[] = dashboard.templating.list.flatMap(
  ({ name, definition }: { name: string; definition?: string }) =>
    definition ? [{ place: name, expr: /\((.*),/.exec(definition)?.[1] ?? definition }] : [],
);

let prometheus: Prometheus;
const scraped: Record<string, string> = {};
let logs = '';
const closing: (() => Promise<unknown>)[] = [];
const startedAt = Date.now() / 1_000;

/** A run is done from beginning to end while it is watched. */
beforeAll(async () => {
  const redis = await startPrivateRedis();
  closing.push(() => redis.close());
  const env = { REDIS_URL: redis.url, LENSMILL_OUTPUT: tempFolder(), LENSMILL_METRICS_PORT: '0' };
  const archive = await makeTinyArchive(images);
  await writeFile(join(archive, 'broken.jpg'), 'no picture');
  const work = lensmill(['work', '--device', 'sleep:250', '--batch', '1'], env);
  const serve = lensmill(['serve', '--port', '0', '--json'], env);
  for (const process of [work, serve]) {
    closing.push(async () => {
      process.kill('SIGTERM');
      await process;
    });
  }
  for (const { stderr } of [work, serve]) stderr?.on('data', (chunk) => (logs += chunk));
  const page = written(serve.stdout, /"url":"([^"#]*)/);
  const [worker, api] = await Promise.all(
    [work, serve].map(({ stderr }) =>
      written(stderr, /"url":"([^"]*)","msg":"health and metrics are served"/),
    ),
  );
  if (worker === undefined || api === undefined) throw new Error('no address');
  prometheus = await startPrometheus({
    'lensmill-work': new URL(worker).host,
    'lensmill-serve': new URL(api).host,
  });
  closing.push(() => prometheus.close());

  await anything('lensmill_worker_ready == 1');
  const plan = ['--model', 'null', '--shard-size', '1', '--reuse', 'off'];
  const [{ exitCode }] = await Promise.all([
    lensmill(['enqueue', archive, ...plan], env),
    logged(work, 'run done'),
  ]);
  expect(exitCode).toBe(0);
  await anything(`sum(lensmill_images_total{status="ok"}) == ${images}`);
  // The second of its kind is an increase.
  for (const request of [1, 2]) {
    await fetch(`${await page}api/runs`);
    await anything(`lensmill_http_request_seconds_count >= ${request}`);
  }
  for (const [name, url] of Object.entries({ worker, api }))
    scraped[name] = await (await fetch(`${url}/metrics`)).text();
}, 120_000);

afterAll(async () => {
  for (const close of closing.reverse()) await close();
});

/** Resolves when a query gives something. */
async function anything(query: string): Promise<void> {
  while ((await prometheus.get<{ result: unknown[] }>('query', { query })).result.length === 0)
    await new Promise((resolve) => setTimeout(resolve, 200));
}

/** Resolves with what a group of the pattern matched, once a process has written that. */
function written(stream: CliProcess['stdout' | 'stderr'], pattern: RegExp): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  let text = '';
  stream?.on('data', (chunk) => {
    text += chunk;
    const [, found] = pattern.exec(text) ?? [];
    if (found !== undefined) resolve(found);
  });
  stream?.on('end', () => reject(new Error(`ended before ${pattern}:\n${text}`)));
  return promise;
}

/** As Grafana fills them in. */
function withoutVariables(expr: string): string {
  return expr.replaceAll('$__rate_interval', '10s').replaceAll('$instance', '.*');
}

/** What an expression reads: every name of a metric, with its matchers. */
function selectorsOf(expr: string): string[] {
  return [...expr.matchAll(/\b(?:lensmill|process)_\w+(?:\{[^}]*\})?|\bup\{[^}]*\}/g)].map(
    ([selector]) => selector,
  );
}

/** The labels that it groups or joins by. */
function groupingsOf(expr: string): string[] {
  return [...expr.matchAll(/\b(?:by|on|without|ignoring)\s*\(([^)]*)\)/g)]
    .flatMap(([, labels = '']) => labels.split(','))
    .map((label) => label.trim())
    .filter(Boolean);
}

/** What stands still is there in the last hour, too. */
const seriesOf = (selector: string): Promise<Record<string, string>[]> =>
  prometheus.get('series', { 'match[]': selector, start: String(startedAt) });

describe('every query of the alerts and the dashboard', () => {
  test.each([...alerts, ...shown, ...told, ...variables])('$place: $expr', async ({ expr }) => {
    // In good times nobody is answered with a 5xx.
    const selectors = selectorsOf(expr).map((selector) => selector.replace('status=~"5.."', 'status=~"..."'));
    expect(selectors).not.toHaveLength(0);
    const labels = new Set<string>();
    for (const selector of selectors) {
      const series = await seriesOf(selector);
      expect(series, selector).not.toHaveLength(0);
      for (const name of series.flatMap(Object.keys)) labels.add(name);
    }
    for (const label of groupingsOf(expr)) expect(labels).toContain(label);
  });

  test.each([...shown, ...told])('shows something: $place: $expr', async ({ expr }) => {
    // The last step comes after all that was scraped.
    const end = String(Date.now() / 1_000 + 1);
    const { result } = await prometheus.get<{ result: { values: [number, string][] }[] }>('query_range', {
      query: expr,
      start: String(startedAt),
      end,
      step: '1s',
    });
    expect(result.flatMap(({ values }) => values).some(([, value]) => Number.isFinite(Number(value)))).toBe(
      true,
    );
  });
});

test('Prometheus evaluates all rules, and none complains of a run that went well', async () => {
  const { groups } = await prometheus.get<{
    groups: { rules: { name: string; health: string; lastError?: string; state: string }[] }[];
  }>('rules');
  const evaluated = groups.flatMap((group) => group.rules);
  expect(evaluated).toHaveLength(rules.length);
  for (const rule of evaluated) expect(rule).toMatchObject({ health: 'ok', state: 'inactive' });
});

test('promtool is content with the configuration, the rules and our metrics', async () => {
  const folder = join(deployed, 'prometheus');
  await promtool(['check', 'config', join(folder, 'prometheus.yml')]);
  await promtool(['check', 'rules', join(folder, 'alerts.yml')]);
  for (const text of Object.values(scraped)) {
    // prom-client's defaults for Node have names that it would not give: nodejs_active_handles_total is a gauge.
    const ours = text.split('\n').filter((line) => !/^(# \w+ )?nodejs_/.test(line));
    await promtool(['check', 'metrics'], `${ours.join('\n')}\n`);
  }
});

test('a worker and the API tell what the tables say, and nothing else of ours', () => {
  const families = (text = ''): string[] =>
    [...text.matchAll(/^# TYPE (lensmill_\w+) /gm)].map(([, name = '']) => name);
  const names = (table: Record<string, { name: string }>): string[] =>
    Object.values(table).map(({ name }) => name);
  expect(families(scraped.worker).toSorted()).toEqual(names(workerTable).toSorted());
  expect(families(scraped.api).toSorted()).toEqual(names(serveTable).toSorted());
});

test('what is logged are lines of JSON; those of a shard name it, its run and its worker', () => {
  const lines = logs
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  for (const line of lines)
    expect(line).toMatchObject({ level: expect.any(String), msg: expect.any(String) });
  const shards = lines.filter(({ msg }) => msg === 'shard done');
  expect(shards).toHaveLength(images + 1);
  for (const line of shards)
    expect(line).toMatchObject({ worker: 'sleep:250', run: expect.any(String), shard: expect.any(Number) });
});

test('each alert says what is the matter and where it is told what to do', async () => {
  const page = await readFile(join(deployed, '../docs/operations.md'), 'utf8');
  for (const { alert, labels, annotations } of rules) {
    expect(['critical', 'warning', 'info']).toContain(labels.severity);
    expect(annotations.summary).toMatch(/^[A-Z].*\.$/);
    expect(annotations.description).toMatch(/\.$/);
    expect(annotations.runbook).toBe(`docs/operations.md#${alert.toLowerCase()}`);
  }
  expect([...page.matchAll(/^### (Lensmill\w+)$/gm)].map(([, name]) => name)).toEqual(
    rules.map(({ alert }) => alert),
  );
});

test('each alert fires when it should, and not else', async () => {
  const cases = join(import.meta.dirname, 'prometheus/alerts.yml');
  await promtool(['test', 'rules', cases]);
  const { tests } = parse(await readFile(cases, 'utf8'));
  const asked = tests.flatMap(({ alert_rule_test = [] }: { alert_rule_test?: unknown[] }) => alert_rule_test);
  const shownBy = (isFiring: boolean): Set<string> =>
    new Set(
      asked
        .filter(({ exp_alerts = [] }: { exp_alerts?: unknown[] }) => exp_alerts.length > 0 === isFiring)
        .map(({ alertname }: { alertname: string }) => alertname),
    );
  const names = new Set(rules.map(({ alert }) => alert));
  expect(shownBy(true)).toEqual(names);
  expect(shownBy(false)).toEqual(names);
});

test('the panels of the dashboard stand beside each other', () => {
  expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
  const taken = new Set<string>();
  for (const { title, gridPos } of panels) {
    expect(gridPos.x + gridPos.w).toBeLessThanOrEqual(24);
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++)
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
        expect(taken.has(`${x},${y}`), `${title} overlaps`).toBe(false);
        taken.add(`${x},${y}`);
      }
  }
});
