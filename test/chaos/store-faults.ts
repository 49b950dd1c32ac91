/** One request in ten to the store goes wrong, in every way; pictures are read through the same network. */
import { faults, startFaultProxy } from './fault-proxy.ts';
import { observe } from './observer.ts';
import { makeS3Place } from './place.ts';
import type { Scenario } from './scenario.ts';
import { enqueue, usualArchive, usualShape } from './usual.ts';

const rate = 0.1;

export const storeFaults: Scenario = {
  name: 'store-faults',
  title: 'a store that fails one request in ten loses nothing and gets nothing twice',
  async play(stage) {
    const server = await stage.startS3();
    const archive = await usualArchive(stage);
    const proxy = await startFaultProxy(server.endpoint, { rate, random: stage.random });
    stage.atEnd(() => proxy.close());
    const place = await makeS3Place(server, proxy.endpoint);
    const source = await place.upload(archive.folder);
    const pool = await stage.openPool({ place, batch: usualShape.batch, readTimeout: '4s' });
    pool.keepWorking(2);
    await enqueue(pool, source, 'r');
    const observer = observe(place, 'r', 1_000);
    await pool.untilDone('r', stage.scale === 'full' ? 600_000 : 120_000);
    const { requests, counts, lostCommits } = proxy;
    const struck = faults.map((fault) => `${counts()[fault]} ${fault}`).join(', ');
    const done = `faults in 10 % of ${requests()} requests: ${struck}; ${lostCommits()} lost replies to a PUT`;
    if (stage.scale === 'full' && faults.some((fault) => counts()[fault] === 0))
      throw new Error(`not every fault struck: ${struck}`);
    proxy.setRate(0);
    const findings = await stage.audit(pool, 'r', archive, { observer, commands: true });
    return { done, shown: findings.summary };
  },
};
