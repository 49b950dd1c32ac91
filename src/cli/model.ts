/** `lensmill model build | calibrate | pull | info`. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { ConfigError } from '../errors.ts';
import { encodeCalibration, hashCalibration } from '../models/calibration.ts';
import { writeWhole } from '../models/files.ts';
import { describeModel, pullModel, writeOnnx, writeSafetensors } from '../models/model.ts';
import { presets } from '../models/presets.ts';
import { calibrateOn } from '../producer/calibrate.ts';
import { loadModel } from '../producer/choose-model.ts';
import { sourceSpecOf } from '../producer/plan-run.ts';
import type { SettingName } from '../settings/table.ts';
import { addCommand, exitCodes } from './command.ts';
import { placeSettings, readSettings, sourceSettings } from './option-groups.ts';
import { reportProgress } from './progress.ts';

export function addModelCommands(program: Command): void {
  const model = program.command('model').description('build, download and describe models');

  addCommand(model, 'info', {
    summary: 'describe a model; without one, list the presets',
    arguments: [['[model]', 'a preset, a .safetensors or .onnx file, or random:SEED']],
    settings: ['model', 'precision', 'calibration', 'resize', 'cacheDir'],
    examples: [
      'lensmill model info',
      'lensmill model info random:0',
      'lensmill model info ./resnet50.safetensors --json',
    ],
    async act(context, [ref = context.settings.model]) {
      if (ref === undefined) {
        context.print(presets, presets.map(presetLine).join('\n'));
        return exitCodes.done;
      }
      const description = describeModel(await loadModel(context, { ref }));
      const { preprocessing, parameters, gmac, ops, accuracy, license, ...identity } = description;
      const lines = [
        `model          ${identity.ref}${identity.untrained ? '  (UNTRAINED: its labels mean nothing)' : ''}`,
        `architecture   ${identity.architecture}, ${parameters.toLocaleString('en-US')} parameters${gmac === null ? '' : `, ${gmac.toFixed(1)} GMAC an image`}`,
        `outputs        embedding of ${identity.dimension}, ${identity.classes} classes`,
        `preprocessing  shorter side to ${preprocessing.resize} (${preprocessing.interpolation}, ${identity.resizeMode}), centre crop ${preprocessing.crop}, mean ${preprocessing.mean.join(' ')}, std ${preprocessing.std.join(' ')}`,
        `precision      ${identity.precision}${identity.calibration === null ? '' : `, by the ranges ${identity.calibration}`}`,
        `graph          ${Object.entries(ops)
          .map(([op, count]) => `${count} ${op}`)
          .join(', ')}`,
        ...(accuracy === null
          ? []
          : [`accuracy       ${accuracy} % top-1 on ImageNet-1k, licence ${license}`]),
        `weights        ${identity.weights}`,
        `fingerprint    ${identity.fingerprint}`,
      ];
      context.print(description, lines.join('\n'));
      return exitCodes.done;
    },
  });

  addCommand(model, 'pull', {
    summary: 'download a preset from the Hugging Face hub, check it, and keep it for use without a network',
    arguments: [['[preset]', `such as ${presets[0].name} (default)`]],
    settings: ['cacheDir'],
    examples: [
      'lensmill model pull',
      'HF_ENDPOINT=https://hub.example lensmill model pull timm/resnet152.a1h_in1k',
    ],
    async act(context, [ref = presets[0].name]) {
      const progress = reportProgress('bytes', context);
      try {
        const { path, sha256, preset } = await pullModel(ref, {
          cacheDir: context.settings.cacheDir,
          signal: context.interrupted,
          onProgress: (done, total = done) => progress.update({ done, total }),
          onNotice: (notice) => context.log.warn(notice),
        });
        progress.close();
        context.print(
          { preset: preset.name, path, sha256 },
          `${preset.name}\n  file    ${path}\n  sha256  ${sha256}`,
        );
        return exitCodes.done;
      } finally {
        progress.close();
      }
    },
  });

  addCommand(model, 'calibrate', {
    summary: 'measure the ranges that int8 is quantised by, on images like those that are to be indexed',
    arguments: calibrateArguments,
    settings: calibrateSettings,
    options: [['--to <file>', 'where they go, as JSON: for --calibration']],
    examples: [
      'lensmill model calibrate random:0 ~/Pictures --to ranges.json',
      'lensmill index ~/Pictures --precision int8 --calibration ranges.json --output ./index',
    ],
    async act(context, [ref = '', ...sources], { to }) {
      if (typeof to !== 'string')
        throw new ConfigError('missing-option', 'say where the calibration goes: --to FILE');
      const floats = await loadModel(context, { ref, precision: 'fp32' });
      const spec = await sourceSpecOf(context.settings, sources);
      const calibration = await calibrateOn(context, floats, spec);
      await writeWhole(to, [encodeCalibration(calibration)]);
      const [file, sha256, { images }] = [resolve(to), hashCalibration(calibration), calibration];
      context.print({ model: ref, images, sha256, file }, `${file}\nof ${images} images, sha256 ${sha256}`);
      return exitCodes.done;
    },
  });

  addCommand(model, 'build', {
    summary: "write a model's ONNX graph (uint8 pixels in; embedding, scores and labels out), or its weights",
    arguments: [['<model>', 'a preset, a .safetensors or .onnx file, or random:SEED']],
    settings: ['precision', 'calibration', 'resize', 'topK', 'cacheDir'],
    options: [
      ['--onnx <file>', 'where the graph goes'],
      ['--safetensors <file>', 'where the weights go, under the names that torchvision and timm use'],
    ],
    examples: [
      'lensmill model build timm/resnet152.tv_in1k --onnx resnet152.onnx',
      'lensmill model build random:0 --safetensors random.safetensors',
      'lensmill model build random:0 --precision int8 --calibration ranges.json --onnx int8.onnx',
    ],
    async act(context, [ref = ''], { onnx, safetensors }) {
      if (typeof onnx !== 'string' && typeof safetensors !== 'string') {
        throw new ConfigError(
          'missing-option',
          'say what to write: --onnx FILE, --safetensors FILE, or both',
        );
      }
      const loaded = await loadModel(context, { ref });
      const files: string[] = [];
      if (typeof onnx === 'string') {
        await writeOnnx(loaded, onnx, { topK: context.settings.topK });
        files.push(resolve(onnx));
      }
      if (typeof safetensors === 'string') {
        await writeSafetensors(loaded, safetensors);
        files.push(resolve(safetensors));
      }
      const { fingerprint } = loaded.identity;
      context.print({ model: ref, fingerprint, files }, [...files, `fingerprint ${fingerprint}`].join('\n'));
      return exitCodes.done;
    },
  });
}

const calibrateArguments: readonly [string, string][] = [
  ['<model>', 'a preset, a .safetensors file, or random:SEED'],
  ['<source...>', 'as for `lensmill index`; the images that are looked at are spread over all of it'],
];
const calibrateSettings: readonly SettingName[] = [
  'calibrationImages',
  'resize',
  ...sourceSettings,
  'threads',
  'reads',
  'maxPixels',
  'maxBytes',
  'readTimeoutMs',
  ...readSettings,
  ...placeSettings,
];

function presetLine({
  name,
  aliases,
  accuracy,
  license,
  preprocessing,
  sha256,
}: (typeof presets)[number]): string {
  const { resize, crop, interpolation } = preprocessing;
  const pinned = sha256 ? '' : ', hash pinned at the first pull';
  return `${name.padEnd(26)} ${aliases[0]?.padEnd(20)} ${accuracy} % top-1, ${license}, ${resize} → ${crop} ${interpolation}${pinned}`;
}
