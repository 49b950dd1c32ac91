/** Hosts are cut off from Redis, from the store, from both, longer than a lease; then the network heals. */
import { setTimeout as sleep } from 'node:timers/promises';
import { findSuccess } from '../../src/runs/run.ts';
import { startFaultProxy } from './fault-proxy.ts';
import { openHosts } from './netns.ts';
import { observe } from './observer.ts';
import { makeS3Place } from './place.ts';
import { startRedis } from './redis.ts';
import type { Scenario } from './scenario.ts';
import { enqueue, usualArchive, usualShape } from './usual.ts';

/** A lock of ten seconds and a look for stalled shards every five: by then they are another worker's. */
const cutMs = 20_000;

export const partition: Scenario = {
  name: 'partition',
  title: 'hosts cut off from Redis, the store or both come back, and the run is completed',
  async play(stage) {
    const both = ['redis', 'store'];
    const net = openHosts({ first: both, second: both, third: both });
    stage.atEnd(() => net.close());
    const server = await stage.startS3();
    const archive = await usualArchive(stage);
    // The servers are on loopback; this is their door into the network of the store.
    const door = await startFaultProxy(server.endpoint, {
      rate: 0,
      random: stage.random,
      host: net.addressOf('store'),
    });
    stage.atEnd(() => door.close());
    const redis = await startRedis({ folder: `${stage.folder}/redis`, host: net.addressOf('redis') });
    stage.atEnd(() => redis.close());
    const place = await makeS3Place(server, door.endpoint);
    const pool = await stage.openPool({ place, redis, batch: usualShape.batch, readTimeout: '3s' });
    const hosts = Object.values(net.hosts);
    const crews = hosts.map(({ prefix }) => pool.keepWorking(1, { prefix }));
    await enqueue(pool, archive.folder, 'r');
    const observer = observe(place, 'r', 1_000);
    await pool.untilParts('r', 3, 90_000);

    const cuts = [['redis'], ['store'], both];
    const rounds = stage.scale === 'full' ? 3 : 1;
    for (let round = 0; round < rounds; round++) {
      // Each host has each kind of cut once in three rounds.
      const pulled = hosts.flatMap((host, n) =>
        (cuts[(n + round) % cuts.length] ?? []).map((network) => ({ host, network })),
      );
      for (const { host, network } of pulled) net.pull(host, network);
      stage.say(`round ${round + 1}: three hosts cut off`);
      await sleep(cutMs);
      if (await findSuccess(pool.store, 'r')) throw new Error(`the run was over in round ${round + 1}`);
      for (const { host, network } of pulled) net.plug(host, network);
      await sleep(3_000);
    }
    const healed = performance.now();
    await pool.untilDone('r', 120_000);
    const seconds = ((performance.now() - healed) / 1000).toFixed(0);
    const findings = await stage.audit(pool, 'r', archive, { observer });
    const restarts = crews.reduce((sum, crew) => sum + crew.restarts(), 0);
    return {
      done: `${3 * rounds} partitions of ${cutMs / 1000} s (Redis, store, both) on three hosts`,
      shown: `done ${seconds} s after the last one healed, ${restarts} workers had to be restarted; ${findings.summary}`,
    };
  },
};
