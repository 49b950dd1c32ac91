/** The device that stands for a GPU in measurements. */
import { expect, test } from 'vitest';
import { resolveDevice } from '../src/devices/resolve-device.ts';
import { requireRealDevice, sleeper } from '../src/devices/sleep.ts';
import { openSession } from '../src/infer.ts';
import { buildOnnx, resolveModel } from '../src/models/model.ts';
import { paintPixels } from './helpers/graphs.ts';
import { tempFolder } from './helpers/temp.ts';

test('a batch takes as long as the stand-in was told, and no core; its rows are the null model’s', async () => {
  const model = await resolveModel('null', { cacheDir: tempFolder(), resizeMode: 'exact' });
  const { crop } = model.identity.preprocessing;
  const modelPath = await buildOnnx(model, { topK: 5 });
  const session = await openSession({ modelPath, device: sleeper(400), batch: 2, crop, threads: 1 });
  const pixels = paintPixels(2, crop);
  const [started, cpuBefore] = [performance.now(), process.cpuUsage()];
  const { embeddings } = await session.run(pixels);
  const { user, system } = process.cpuUsage(cpuBefore);
  expect(performance.now() - started).toBeGreaterThanOrEqual(400);
  expect((user + system) / 1000).toBeLessThan(200);
  expect(embeddings[0]).toBe(pixels[0]);
  await session.release();
});

test('it runs the null model alone, and nobody gets it who did not ask for it', () => {
  const { device } = resolveDevice('sleep:500');
  expect(device).toMatchObject({ kind: 'sleep', name: 'sleep:500', leastRunMs: 500 });
  expect(() => requireRealDevice(device, 'null')).not.toThrow();
  const refusal = expect.objectContaining({ code: 'wrong-device' });
  expect(() => requireRealDevice(device, 'random:0')).toThrow(refusal);
  expect(() => requireRealDevice(device, undefined)).toThrow(refusal);
  expect(() => requireRealDevice(resolveDevice('cpu').device, 'random:0')).not.toThrow();
  expect(resolveDevice('auto').device.kind).not.toBe('sleep');
});
