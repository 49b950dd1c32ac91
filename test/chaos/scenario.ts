/** What a scenario is, and the stage that it plays on. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { uniform } from '../../src/uniform.ts';
import { lensmill, smallModel } from '../helpers/cli.ts';
import type { S3Server } from '../helpers/servers.ts';
import { type Archive, type ArchiveOptions, makeArchive } from './archive.ts';
import { type AuditOptions, auditRun, type Findings, type Reference } from './audit.ts';
import { makeFilePlace } from './place.ts';
import { openPool, type Pool, type PoolOptions } from './pool.ts';

export interface Scenario {
  /** For `--only`. */
  name: string;
  /** A fact that a user cares about. */
  title: string;
  /** `npm test` has no half minute for it. */
  isLong?: true;
  /** Throws where the fact does not hold, and CannotRunHere where this machine cannot tell. */
  play(stage: Stage): Promise<Report>;
}

/** For the table: what was done, in numbers, and what was shown by it. */
export interface Report {
  done: string;
  shown: string;
}

export class CannotRunHere extends Error {
  override name = 'CannotRunHere';
}

export type Scale = 'full' | 'short';

export interface Stage {
  /** 'short' is for `npm test`: the same faults, fewer of them. */
  scale: Scale;
  /** Empty at first, gone afterwards. */
  folder: string;
  random(): number;
  startS3(): Promise<S3Server>;
  /** An archive and its rows without faults; the same options are made once for all scenarios. */
  archive(options: ReferenceOptions): Promise<ReferencedArchive>;
  /** Closed when the scenario is over, however it ends. */
  openPool(options: Omit<PoolOptions, 'folder'>): Promise<Pool>;
  /** As `auditRun`; in the short form without its commands, unless they are asked for. */
  audit(
    pool: Pool,
    run: string,
    archive: { reference: Reference },
    options?: Omit<AuditOptions, 'reference' | 'commands'> & { commands?: boolean },
  ): Promise<Findings>;
  /** What to undo at the end, last first. */
  atEnd(undo: () => unknown): void;
  /** Progress, for somebody who waits. */
  say(text: string): void;
}

/** What scenarios share: archives and their references. */
export interface Theatre {
  scale: Scale;
  play(scenario: Scenario): Promise<Report>;
  close(): void;
}

export interface TheatreOptions {
  scale: Scale;
  seed: number;
  startS3(): Promise<S3Server>;
  say(text: string): void;
}

export interface ReferenceOptions extends ArchiveOptions {
  shardSize: number;
  batch: number;
  /** A small ResNet by default. */
  model?: string;
}

type ReferencedArchive = Archive & { reference: Reference };

export function openTheatre({ scale, seed, startS3, say }: TheatreOptions): Theatre {
  const shared = mkdtempSync(join(tmpdir(), 'lensmill-chaos-'));
  // A process that starts spends most of its first seconds on compiling the same modules: 2.4 → 1.6 s of a core.
  process.env.NODE_COMPILE_CACHE ??= join(shared, 'compiled');
  const archives = new Map<string, Promise<ReferencedArchive>>();
  let pools = 0;

  return {
    scale,
    async play(scenario) {
      const folder = mkdtempSync(join(tmpdir(), `lensmill-chaos-${scenario.name}-`));
      const undoing: (() => unknown)[] = [() => rmSync(folder, { recursive: true, force: true })];
      const stage: Stage = {
        scale,
        folder,
        random: uniform(seed),
        startS3,
        archive(options) {
          const name = JSON.stringify(options);
          let made = archives.get(name);
          if (!made) {
            made = makeReferenced(join(shared, `archive-${archives.size}`), options);
            archives.set(name, made);
          }
          return made;
        },
        async openPool(options) {
          const pool = await openPool({ ...options, folder: join(folder, `pool-${pools++}`) });
          undoing.push(() => pool.close());
          return pool;
        },
        audit: (pool, run, { reference }, options) =>
          auditRun(pool, run, { reference, commands: scale === 'full', ...options }),
        atEnd: (undo) => void undoing.push(undo),
        say: (text) => say(`${scenario.name}: ${text}`),
      };
      try {
        return await scenario.play(stage);
      } finally {
        for (const undo of undoing.reverse()) await undo();
      }
    },
    close: () => rmSync(shared, { recursive: true, force: true }),
  };
}

async function makeReferenced(folder: string, options: ReferenceOptions): Promise<ReferencedArchive> {
  const archive = await makeArchive(join(folder, 'pictures'), options);
  const place = makeFilePlace(join(folder, 'reference'));
  mkdirSync(folder, { recursive: true });
  const run = 'reference';
  const shape = ['--shard-size', String(options.shardSize), '--batch', String(options.batch)];
  // Threads as in the pools: how many share a matrix product decides its last bits.
  const session = ['--threads', '1', '--sessions', '1', '--lanes', '2'];
  const { exitCode, stderr } = await lensmill([
    ...[
      'index',
      archive.folder,
      '--output',
      place.output,
      '--run',
      run,
      '--model',
      options.model ?? smallModel,
    ],
    ...shape,
    ...session,
  ]);
  if (exitCode !== (archive.broken > 0 ? 3 : 0)) throw new Error(`the run without faults failed:\n${stderr}`);
  const store = place.openStore();
  await store.probe();
  return { ...archive, reference: { store, run } };
}
