/** Every scenario, in the order in which they play. */
import { clocks } from './clocks.ts';
import { decoderCrash } from './decoder-crash.ts';
import { diskFull } from './disk-full.ts';
import { everyStep } from './every-step.ts';
import { freeze } from './freeze.ts';
import { hosts } from './hosts.ts';
import { kills } from './kills.ts';
import { packedKills, packedReplaced } from './packed.ts';
import { partition } from './partition.ts';
import { redisCrashes, redisEmptied } from './redis-loss.ts';
import type { Scenario } from './scenario.ts';
import { storeFaults } from './store-faults.ts';
import { drain, operator, smallBehindLarge } from './two-runs.ts';

export const scenarios: readonly Scenario[] = [
  kills,
  freeze,
  redisCrashes,
  redisEmptied,
  partition,
  hosts,
  storeFaults,
  packedKills,
  packedReplaced,
  diskFull,
  clocks,
  everyStep,
  decoderCrash,
  smallBehindLarge,
  drain,
  operator,
];
