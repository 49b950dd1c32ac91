/**
 * Everything has a host of its own, and hosts of workers come and go while a run is under way: told to stop, lost, cut off
 * past their lease and back, behind a line that is narrow and loses packets; then Redis's cable is pulled, then the store's.
 * The workers' device is the one that stands for a GPU, so that the machine's cores do not tell how long that takes.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Host, Line } from './netns.ts';
import { lan, openNetwork } from './network.ts';
import { observe } from './observer.ts';
import type { Pool } from './pool.ts';
import type { Scenario } from './scenario.ts';
import { mustExit, usualShape } from './usual.ts';
import type { WorkerProcess } from './worker-process.ts';

const sizes = {
  full: { count: 2_400, rounds: 3, awayMs: 20_000 },
  short: { count: 280, rounds: 1, awayMs: 4_000 },
};
const workerHosts = 6;
const atWork = 4;
const batchMs = 800;
/** A lock of ten seconds and a look for stalled shards every five: by then they are another worker's. */
const cutMs = 16_000;
const narrow: Line = { kbitPerSecond: 256, longestWaitMs: 100 };

export const hosts: Scenario = {
  name: 'hosts',
  title: 'workers on hosts of their own join, leave and are cut off in the middle of a run, and it is whole',
  async play(stage) {
    const { count, rounds, awayMs } = sizes[stage.scale];
    const network = await openNetwork({ folder: `${stage.folder}/redis`, workers: workerHosts });
    stage.atEnd(() => network.close());
    const { net, redis, store, producer } = network;
    const archive = await stage.archive({ count, brokenEvery: 31, ...usualShape, model: 'null' });
    const source = await store.place.upload(archive.folder);
    const pool = await stage.openPool({
      place: store.place,
      redis: redis.server,
      model: 'null',
      batch: usualShape.batch,
      readTimeout: '5s',
      env: { LENSMILL_DEVICE: `sleep:${batchMs}` },
    });
    const crew = new Map<Host, WorkerProcess>();
    const free = [...network.workers];
    const join = (): void => {
      const host = free.shift();
      if (host) crew.set(host, workOn(pool, host, stage.folder));
    };
    for (let n = 0; n < atWork; n++) join();
    const enqueued = await pool.enqueue(source, 'r', { ...usualShape, prefix: producer.prefix });
    mustExit(enqueued, [0], 'enqueue');
    const observer = observe(store.place, 'r', 1_000);

    const recoveries: Record<'worker' | 'redis' | 'store', number[]> = { worker: [], redis: [], store: [] };
    for (let round = 0; round < rounds; round++) {
      await partsMore(pool, 4);
      const [cut, drained, killed, slow] = shuffled([...crew.keys()], stage.random);
      if (!cut || !drained || !killed || !slow) throw new Error(`${crew.size} of ${atWork} workers are left`);
      const zombie = memberOn(cut);
      stage.say(`round ${round + 1}: one cut off, one stopped, one lost, one behind a narrow line; two join`);
      net.narrow(slow, lan, narrow);
      net.pull(cut, lan);
      const cutAt = performance.now();
      await leave(drained, 'SIGTERM');
      join();
      await leave(killed, 'SIGKILL');
      join();
      await sleep(cutAt + cutMs - performance.now());
      net.plug(cut, lan);
      recoveries.worker.push(await seconds(nextShard(zombie)));
      net.widen(slow, lan);

      for (const [name, host] of [
        ['redis', redis.host],
        ['store', store.host],
      ] as const) {
        stage.say(`${name} is out of reach`);
        net.pull(host, lan);
        await sleep(awayMs);
        net.plug(host, lan);
        recoveries[name].push(await seconds(partsMore(pool, 1)));
      }
      if (!zombie.isRunning()) throw new Error(`the worker that was cut off ended: ${await zombie.ended}`);
    }
    await pool.untilDone('r', 240_000);
    const lost = pool.logLines('lease lost').length;
    if (lost === 0) throw new Error('no worker that was cut off had a shard');
    const findings = await stage.audit(pool, 'r', archive, { observer });
    const away = awayMs / 1000;
    return {
      done: `Redis, store, producer and ${atWork} workers on ${workerHosts + 3} hosts; ${rounds} × (a worker cut off for ${cutMs / 1000} s, one drained, one lost with its machine, one at ${narrow.kbitPerSecond} kbit/s, two that join, Redis away for ${away} s, the store for ${away} s)`,
      shown: `at work again after the cable was back: the worker ${spread(recoveries.worker)}, the pool without Redis ${spread(recoveries.redis)}, without the store ${spread(recoveries.store)}; ${lost} shards dropped by workers whose lease was over; ${findings.summary}`,
    };

    function memberOn(host: Host): WorkerProcess {
      const worker = crew.get(host);
      if (!worker) throw new Error(`nobody works on ${host.name}: this is a bug`);
      return worker;
    }

    /** Its host is free for another. */
    async function leave(host: Host, signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
      const worker = memberOn(host);
      crew.delete(host);
      free.push(host);
      worker.kill(signal, signal === 'SIGTERM' ? 'supervisor' : 'machine');
      const how = await worker.ended;
      if (signal === 'SIGTERM' && how !== 'exit code 0') throw new Error(`a drained worker ends with ${how}`);
    }
  },
};

/** Nothing of this machine's is shared but the program: a host has a cache of its own. */
function workOn(pool: Pool, { name, prefix }: Host, folder: string): WorkerProcess {
  return pool.work({ prefix, env: { LENSMILL_CACHE: join(folder, name) } });
}

async function partsMore(pool: Pool, count: number): Promise<void> {
  const keys = await Array.fromAsync(pool.store.list('runs/r/parts/'));
  await pool.untilParts('r', keys.length + count, 60_000);
}

async function nextShard(worker: WorkerProcess): Promise<void> {
  const before = worker.log.filter(({ msg }) => msg === 'shard done').length;
  await worker.logged('shard done', before + 1);
}

async function seconds(wait: Promise<void>): Promise<number> {
  const started = performance.now();
  await wait;
  return (performance.now() - started) / 1000;
}

function spread(all: readonly number[]): string {
  const [least, most] = [Math.min(...all), Math.max(...all)].map((one) => one.toFixed(1));
  return least === most ? `${least} s` : `${least} to ${most} s`;
}

function shuffled<T>(all: readonly T[], random: () => number): T[] {
  return all
    .map((one) => ({ one, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ one }) => one);
}
