/** A picture in a thousand crashes the decoder, and with it the process: it costs its own row. */
import { join } from 'node:path';
import { observe } from './observer.ts';
import { makeFilePlace } from './place.ts';
import type { Scenario } from './scenario.ts';
import { enqueue, usualShape } from './usual.ts';

const sizes = {
  full: { count: 3_000, crashEvery: 1_000 },
  short: { count: 60, crashEvery: 40 },
};

export const decoderCrash: Scenario = {
  name: 'decoder-crash',
  title: 'a picture that crashes the decoder costs one failed row, and no neighbour',
  async play(stage) {
    const archive = await stage.archive({ ...sizes[stage.scale], brokenEvery: 31, ...usualShape });
    const place = makeFilePlace(`${stage.folder}/output`);
    const imports = [join(import.meta.dirname, '../helpers/crashing-decoder.ts')];
    // The staged crash is sharp's; a crash in the native decoder ends the process no otherwise.
    const env = { LENSMILL_DECODER: 'sharp' };
    const pool = await stage.openPool({ place, imports, env, batch: usualShape.batch });
    const crew = pool.keepWorking(2);
    await enqueue(pool, archive.folder, 'r');
    const observer = observe(place, 'r');
    await pool.untilDone('r', stage.scale === 'full' ? 600_000 : 120_000);
    const crashes = pool.logLines('worker crashed; starting another').length + crew.restarts();
    const mustFail = new Map(archive.crashing.map((id) => [id, 'crashed-worker']));
    const findings = await stage.audit(pool, 'r', archive, { observer, mustFail });
    // One to find out, one for a worker that had taken the shard by then.
    const most = 2 * archive.crashing.length;
    if (crashes > most)
      throw new Error(`${archive.crashing.length} such pictures crashed workers ${crashes} times`);
    return {
      done: `${archive.crashing.length} of ${archive.items} pictures end the process with SIGSEGV`,
      shown: `each is one row 'crashed-worker'; workers crashed ${crashes} times; ${findings.summary}`,
    };
  },
};
