/** `lensmill doctor`: says of every part that a run needs whether it is there and fit, and what to do where it is not. */
import type { Command } from 'commander';
import pc from 'picocolors';
import { describeDecoder } from '../decode.ts';
import { describeHardware } from '../devices/hardware.ts';
import { resolveDevice } from '../devices/resolve-device.ts';
import { ConfigError, messageOf } from '../errors.ts';
import { openSession } from '../infer.ts';
import { buildOnnx, resolveModel } from '../models/model.ts';
import { presets } from '../models/presets.ts';
import { hubFromEnv } from '../models/pull.ts';
import { loadModel } from '../producer/choose-model.ts';
import { s3OptionsOf } from '../settings/options.ts';
import { shownSetting } from '../settings/resolve.ts';
import { type Settings, settingNames } from '../settings/table.ts';
import { openStore } from '../stores/open-store.ts';
import type { Store } from '../stores/store.ts';
import { version } from '../version.ts';
import { addCommand, type Context, exitCodes } from './command.ts';
import { examineRedis, type Finding } from './doctor-redis.ts';

export function addDoctorCommand(program: Command): void {
  addCommand(program, 'doctor', {
    summary: 'check Redis, the store, the device and the model, and print every setting with its origin',
    settings: settingNames.filter((name) => name !== 'logLevel' && name !== 'json'),
    examples: ['lensmill doctor --output s3://indexes/photos --device cuda', 'lensmill doctor --json'],
    async act(context) {
      const { settings, origins, print } = context;
      const findings = [
        {
          what: 'program',
          verdict: 'good',
          detail: `lensmill ${version}, Node ${process.versions.node}`,
        } as const,
        await examine('redis', () => examineRedis(settings)),
        await examine('store', () => examineStore(settings)),
        await examine('device', () => examineDevice(settings)),
        await examine('model', () => examineModel(context)),
        await examine('decoder', () => examineDecoder(settings)),
      ];
      const values = settingNames.map((name) => ({
        name,
        value: shownSetting(name, settings[name]),
        origin: origins[name],
      }));
      print(
        { findings, settings: values },
        [...findings.map(findingLine), '', ...values.map(settingLine)].join('\n'),
      );
      return findings.some(({ verdict }) => verdict === 'bad') ? exitCodes.config : exitCodes.done;
    },
  });
}

async function examine(what: string, look: () => Promise<Omit<Finding, 'what'>>): Promise<Finding> {
  try {
    return { what, ...(await look()) };
  } catch (error) {
    return { what, verdict: 'bad', detail: messageOf(error) };
  }
}

export async function examineStore(settings: Settings): Promise<Omit<Finding, 'what'>> {
  if (settings.output === undefined) return { verdict: 'warning', detail: 'not looked at: give --output' };
  const store = openStore(settings.output, s3OptionsOf(settings));
  try {
    const refusal = await refusalToWrite(store);
    if (refusal) {
      await store.look();
      const detail = `${store.uri} can be read, which is enough to search, verify, export and serve, and not written: ${refusal.message}`;
      return { verdict: 'warning', detail };
    }
    return store.conditional
      ? { verdict: 'good', detail: `${store.uri} can be written, and creates objects atomically` }
      : {
          verdict: 'warning',
          detail: `${store.uri} can be written, but does not heed If-None-Match: two workers may both store a shard, and one is chosen at the end`,
        };
  } finally {
    await store.close();
  }
}

async function refusalToWrite(store: Store): Promise<ConfigError | undefined> {
  try {
    await store.probe();
    return undefined;
  } catch (error) {
    if (error instanceof ConfigError && ['access-denied', 'not-writable'].includes(error.code)) return error;
    throw error;
  }
}

/** A model that costs nothing still needs the device's libraries, its driver and a kernel for each of its nodes. */
async function examineDevice({ device: name, cacheDir }: Settings): Promise<Omit<Finding, 'what'>> {
  const { device, reason } = resolveDevice(name);
  // TensorRT has no kernels that slice bytes, which is what a null model does.
  const ref = device.kind === 'tensorrt' ? 'random:0:1-1-1-1' : 'null';
  const model = await resolveModel(ref, { cacheDir, resizeMode: 'exact', precision: 'fp32' });
  const { crop } = model.identity.preprocessing;
  const modelPath = await buildOnnx(model, { topK: 1 });
  const session = await openSession({ modelPath, device, batch: 1, crop, threads: 1 });
  await session.run(new Uint8Array(crop * crop * 3));
  await session.release();
  return {
    verdict: 'good',
    detail: `${device.name} (${await describeHardware(device)}) runs a small model${reason ? ` (auto: ${reason})` : ''}`,
  };
}

async function examineModel(context: Context): Promise<Omit<Finding, 'what'>> {
  try {
    const hub = { ...hubFromEnv(process.env), offline: true };
    const { precision, calibration } = context.settings;
    // What int8 is calibrated on is not known here; the floats that it is made of are.
    const isUncalibrated = precision === 'int8' && calibration === undefined;
    const { identity } = await loadModel(context, { hub, ...(isUncalibrated && { precision: 'fp32' }) });
    const detail = `${identity.ref}: ${identity.architecture} ${identity.precision}, fingerprint ${identity.fingerprint.slice(0, 12)}`;
    return identity.untrained
      ? { verdict: 'warning', detail: `${detail}; untrained: its labels mean nothing` }
      : { verdict: 'good', detail };
  } catch (error) {
    if (!(error instanceof ConfigError && error.code === 'offline')) throw error;
    return {
      verdict: 'warning',
      detail: `${context.settings.model ?? presets[0].name} is not downloaded yet: lensmill model pull`,
    };
  }
}

async function examineDecoder({ decoder: choice, resize }: Settings): Promise<Omit<Finding, 'what'>> {
  const { decoder, passes, notices } = await describeDecoder(choice, resize);
  const detail = [`${decoder} for JPEGs, resampled by ${passes}`, ...notices].join('; ');
  return { verdict: notices.length > 0 ? 'warning' : 'good', detail };
}

const marks = { good: pc.green('✓'), warning: pc.yellow('!'), bad: pc.red('✗') };

function findingLine({ what, verdict, detail }: Finding): string {
  return `${marks[verdict]} ${what.padEnd(8)} ${detail}`;
}

function settingLine({ name, value, origin }: { name: string; value: unknown; origin: string }): string {
  const text = Array.isArray(value) ? value.join(' ') : value === undefined ? '—' : String(value);
  return `  ${name.padEnd(14)} ${text.padEnd(28)} ${pc.dim(origin)}`;
}
