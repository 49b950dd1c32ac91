/** What `lensmill tune` chooses, where it keeps that, and who goes by it; which devices there are, and why one is not. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { describe, expect, test } from 'vitest';
import { tuneModel } from '../src/cli/tune.ts';
import { cpu } from '../src/devices/cpu.ts';
import { cuda, whyNoGpu } from '../src/devices/cuda.ts';
import { requirePrecision } from '../src/devices/device.ts';
import { describeGpu, describeHardware } from '../src/devices/hardware.ts';
import { parseLdd, runtimeVersion, whyNoProvider } from '../src/devices/libraries.ts';
import { resolveDevice } from '../src/devices/resolve-device.ts';
import { tensorrt } from '../src/devices/tensorrt.ts';
import { resolveModel } from '../src/models/model.ts';
import { resolveSettings } from '../src/settings/resolve.ts';
import { type Arrangement, findArrangement, type Sweep, tuningSpaceOf } from '../src/tune.ts';
import { chooseArrangement, readTuning, tuningPath, tuningSubject, writeTuning } from '../src/tuning.ts';
import { tempFolder } from './helpers/temp.ts';

describe('the choice', () => {
  const space = { batches: [8, 16, 32, 64, 128, 256, 512], sessions: [1, 2] };

  /** `rateOf`: images/s, or undefined where memory is short. Each call is noted. */
  async function sweepOf(rateOf: (arrangement: Arrangement, calls: number) => number | undefined) {
    const asked: string[] = [];
    const sweep = await findArrangement(space, async ({ batch, sessions }) => {
      asked.push(`${batch}×${sessions}`);
      return rateOf({ batch, sessions }, asked.length);
    });
    return { ...sweep, asked };
  }

  /** Rises with the batch and levels off: 64 is within 2 % of the best. */
  const levelling = ({ batch }: Arrangement): number => 3_000 * Math.min(1, 0.5 + batch / 128);

  test('is the smallest batch and the fewest sessions among those that are as fast', async () => {
    const { chosen, asked } = await sweepOf(levelling);
    expect(chosen).toEqual({ batch: 64, sessions: 1, imagesPerSecond: 3_000 });
    expect(asked).not.toContain('512×1');
  });

  test('is two sessions where the second one gains', async () => {
    const { chosen } = await sweepOf(
      ({ batch, sessions }) => levelling({ batch, sessions }) * (1 + sessions / 20),
    );
    expect(chosen).toMatchObject({ batch: 64, sessions: 2 });
  });

  test('goes no further where memory is short, and says where that was', async () => {
    const { chosen, trials, asked } = await sweepOf(({ batch, sessions }) =>
      batch * sessions > 32 ? undefined : batch * sessions,
    );
    expect(chosen).toMatchObject({ batch: 32, sessions: 1 });
    expect(trials).toContainEqual({ batch: 64, sessions: 1, imagesPerSecond: null });
    expect(asked).not.toContain('128×1');
  });

  test('one trial with bad luck does not end the climb', async () => {
    const { chosen } = await sweepOf(({ batch, sessions }, calls) =>
      calls === 3 ? 1 : levelling({ batch, sessions }),
    );
    expect(chosen).toMatchObject({ batch: 64, sessions: 1 });
  });

  test('a machine that slows down does not decide it: the best take turns', async () => {
    // 128 is faster by a tenth, and came when the machine was slower already.
    const { chosen } = await sweepOf(
      ({ batch }, calls) => (batch === 128 ? 1_100 : batch === 64 ? 1_000 : batch) * 0.98 ** calls,
    );
    expect(chosen.batch).toBe(128);
  });

  test('a device that cannot hold the smallest batch is an error that says what to do', async () => {
    await expect(sweepOf(() => undefined)).rejects.toMatchObject({
      code: 'device-failed',
      message: expect.stringMatching(/8 images.*--precision fp16/),
    });
  });

  test('on a CPU no more sessions are tried than there are threads', () => {
    expect(tuningSpaceOf(cpu, 6)).toEqual({ batches: [1, 2, 4, 8, 16, 32], sessions: [1, 2, 4, 6] });
    expect(tuningSpaceOf(cuda(0), 6)).toEqual(space);
  });
});

describe('on the device', () => {
  const cacheDir = tempFolder();
  const options = { cacheDir, resizeMode: 'exact', precision: 'fp32' } as const;
  const settings = { batch: 0, sessions: 0, cacheDir };

  test('a small model is tuned, and a worker goes by that unless its user says otherwise', async () => {
    const model = await resolveModel('random:0:1-1-1-1', options);
    const before = await chooseArrangement(cpu, model.identity, { settings, threads: 2 });
    expect(before).toEqual({ batch: cpu.batch, sessions: cpu.sessions, arrangedBy: 'default' });

    const space = { batches: [2], sessions: [1] };
    const tried: number[] = [];
    const sweep = await tuneModel(model, {
      device: cpu,
      topK: 5,
      threads: 2,
      space,
      trialMs: 1,
      onTrial: ({ batch }) => tried.push(batch),
    });
    expect(tried).toEqual([2]);
    expect(sweep.chosen).toMatchObject({ batch: 2, sessions: 1 });
    expect(sweep.chosen.imagesPerSecond).toBeGreaterThan(0);
    const subject = await tuningSubject(cpu, model.identity, 2);
    const tuning = await writeTuning(cacheDir, subject, sweep);

    const choose = (user: object) =>
      chooseArrangement(cpu, model.identity, { settings: { ...settings, ...user }, threads: 2 });
    expect(await choose({})).toEqual({ batch: 2, sessions: 1, arrangedBy: `tuning of ${tuning.tunedAt}` });
    expect(await choose({ batch: 3 })).toEqual({ batch: 3, sessions: 2, arrangedBy: 'settings' });
    expect(await choose({ sessions: 1 })).toEqual({ batch: 8, sessions: 1, arrangedBy: 'settings' });
    // Other weights of the same shape are as fast; another precision is not.
    const other = await resolveModel('random:1:1-1-1-1', options);
    expect(await readTuning(cacheDir, await tuningSubject(cpu, other.identity, 2))).toEqual(tuning);
    const halves = { ...model.identity, precision: 'fp16' } as const;
    expect(await readTuning(cacheDir, await tuningSubject(cpu, halves, 2))).toBeUndefined();
    expect(await readTuning(cacheDir, await tuningSubject(cpu, model.identity, 1))).toBeUndefined();
  });

  test('a tuning that cannot be read is not passed over', async () => {
    const { identity } = await resolveModel('null', options);
    const subject = await tuningSubject(cpu, identity, 2);
    const sweep: Sweep = { chosen: { batch: 4, sessions: 1, imagesPerSecond: 9 }, trials: [] };
    await writeTuning(cacheDir, subject, sweep);
    const path = tuningPath(cacheDir, subject);
    writeFileSync(path, readFileSync(path, 'utf8').slice(0, -9));
    await expect(readTuning(cacheDir, subject)).rejects.toMatchObject({
      code: 'bad-tuning',
      message: expect.stringContaining(path),
    });
  });
});

describe('hardware', () => {
  test('a CPU is named with the cores that this process may use', async () => {
    expect(await describeHardware(cpu)).toMatch(/, \d+ cores$/);
  });

  test('among GPUs that are alike the number says nothing, among others it does', () => {
    const h100 = 'NVIDIA H100 80GB HBM3, 580.95.05';
    expect(describeGpu(`${h100}\n${h100}\n`, 1)).toBe(h100);
    const l4 = 'NVIDIA L4, 580.95.05';
    expect(describeGpu(`${l4}\n${h100}\n`, 1)).toBe(`GPU 1 of ${l4}; ${h100}`);
    expect(describeGpu('', 0)).toBe('an unknown GPU');
  });
});

describe('a device that is not there', () => {
  test("names the libraries that the system's loader misses", () => {
    const printed = [
      '\tlinux-vdso.so.1 (0x00007f6c3c741000)',
      '\tlibcublas.so.13 => not found',
      '\tlibnvinfer.so.10 => not found',
      '\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f6c3c01e000)',
    ].join('\n');
    expect(parseLdd(printed)).toEqual(['libcublas.so.13', 'libnvinfer.so.10']);
    // What is linked with what is there can be used, as far as looking tells.
    expect(whyNoProvider('cuda', process.execPath)).toBeUndefined();
    expect(whyNoProvider('tensorrt', join(tempFolder(), 'none.so'))).toMatch(
      /^ONNX Runtime's TensorRT library/,
    );
  });

  test.skipIf(whyNoGpu() === undefined)(
    'is refused by name where no GPU is (needs a machine without one)',
    () => {
      for (const [name, code] of [
        ['cuda', 'no-cuda'],
        ['cuda:1', 'no-cuda'],
        ['tensorrt:0', 'no-tensorrt'],
      ] as const) {
        expect(() => resolveDevice(name)).toThrow(
          expect.objectContaining({
            code,
            message: `--device ${name}: no NVIDIA GPU is visible; or use --device cpu`,
          }),
        );
      }
      expect(resolveDevice('auto')).toEqual({ device: cpu, reason: 'no NVIDIA GPU is visible' });
    },
  );

  test.skipIf(whyNoGpu() === undefined)(
    'ends the bench with one line that says so (needs a machine without a GPU)',
    async () => {
      const bench = join(import.meta.dirname, 'bench/gpu.ts');
      const { exitCode, stderr, stdout } = await execa(process.execPath, [bench], { reject: false });
      expect(exitCode).toBe(2);
      expect(stderr).toBe('gpu bench: --device cuda:0: no NVIDIA GPU is visible; or use --device cpu');
      expect(stdout).toBe('');
    },
  );

  test('TensorRT is a device of its own, numbered as CUDA is, and takes no bytes', () => {
    expect(resolveSettings({ device: 'tensorrt:1' }, {}, {}).values.device).toBe('tensorrt:1');
    expect(tensorrt(1)).toMatchObject({ name: 'tensorrt:1', provider: { name: 'tensorrt', deviceId: 1 } });
    expect(() => requirePrecision(tensorrt(0), 'int8')).toThrow('int8 is for CPUs');
  });

  test('the version of ONNX Runtime is the one that is installed', () => {
    expect(runtimeVersion).toMatch(/^\d+\.\d+\.\d+$/);
  });
});
