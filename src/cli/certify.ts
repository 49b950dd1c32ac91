/** `lensmill certify`: measures what a precision costs, on the user's own images, and keeps the result with the output. */
import type { Command } from 'commander';
import { createCertificate, isPassed } from '../certificate.ts';
import { ConfigError } from '../errors.ts';
import { certificateText } from './certificate.ts';
import { addCommand, exitCodes } from './command.ts';
import { placeSettings, readSettings, sourceSettings, workSettings } from './option-groups.ts';
import { openOutput } from './output.ts';
import { certifyRun, certifySource } from './trial.ts';

export function addCertifyCommand(program: Command): void {
  addCommand(program, 'certify', {
    summary: 'measure on your own images how far a precision, or what a run has stored, agrees with fp32',
    arguments: [['[source...]', 'as for `lensmill index`: what a run by --precision would make of it']],
    settings: [
      'output',
      'model',
      'precision',
      'calibration',
      'calibrationImages',
      'resize',
      'sample',
      'minCosine',
      'minTop1',
      'minRecall',
      ...sourceSettings,
      'maxPixels',
      'maxBytes',
      ...workSettings,
      ...readSettings,
      ...placeSettings,
    ],
    options: [['--run <id>', 'the rows that a finished run of the output has stored']],
    examples: [
      'lensmill certify ~/Pictures --precision int8',
      'lensmill certify s3://photos/2024/ --precision fp16 --output s3://indexes/photos --sample 2048',
      'lensmill certify --run 20261124-091233-3fa2 --output ./index --device cpu',
    ],
    async act(context, sources, { run }) {
      const id = run as string | undefined; // commander's own type
      if ((id === undefined) === (sources.length === 0))
        throw new ConfigError('missing-source', 'give a source, or a run with --run: one of the two');
      const { settings } = context;
      // Without an output, the figures are only told.
      const store =
        id === undefined && settings.output === undefined ? undefined : await openOutput(settings);
      try {
        const made =
          id !== undefined && store
            ? await certifyRun(context, store, id)
            : await certifySource(context, sources, store);
        const key = store && (await createCertificate(store, made));
        const stored = store && key && `${store.uri}/${key}`;
        context.print(
          { passed: isPassed(made), ...(stored && { stored }), ...made },
          certificateText(made, stored),
        );
        return isPassed(made) ? exitCodes.done : exitCodes.failed;
      } finally {
        await store?.close();
      }
    },
  });
}
