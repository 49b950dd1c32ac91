/** `lensmill get`: one image's bytes, read back from where its run found them, be it a file or a member of an archive. */
import { writeFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { ConfigError, messageOf } from '../errors.ts';
import { readImage } from '../runs/read-image.ts';
import { sourceOptionsOf } from '../settings/options.ts';
import { addCommand, exitCodes } from './command.ts';
import { placeSettings, readSettings } from './option-groups.ts';
import { openForReading } from './output.ts';

export function addGetCommand(program: Command): void {
  addCommand(program, 'get', {
    summary:
      'read an image of a run back from its source, also out of an archive: its bytes to stdout, or to a file',
    arguments: [
      ['<run>', 'id of the run'],
      ['<id>', 'id of the image, as in the rows'],
    ],
    settings: ['output', 'readTimeoutMs', ...readSettings, ...placeSettings],
    options: [['--to <file>', 'a new file (default: stdout)']],
    examples: [
      "lensmill get 20261124-091233-3fa2 'holiday.tar!beach/001.jpg' --to 001.jpg --output ./index",
      'lensmill get 20261124-091233-3fa2 cat.jpg --output s3://indexes/photos | display',
    ],
    async act({ settings, print, interrupted }, [id = '', image = ''], { to }) {
      const store = await openForReading(settings);
      try {
        const { run, content, bytes, sha256 } = await readImage(
          store,
          { run: id, id: image },
          sourceOptionsOf(settings),
          { timeoutMs: settings.readTimeoutMs, signal: interrupted },
        );
        if (typeof to === 'string') {
          await writeNew(to, content);
          print({ run: run.run, id: image, bytes, sha256, to }, `${to}: ${bytes} bytes`);
        } else {
          process.stdout.write(content);
        }
        return exitCodes.done;
      } finally {
        await store.close();
      }
    },
  });
}

async function writeNew(path: string, content: Uint8Array): Promise<void> {
  try {
    await writeFile(path, content, { flag: 'wx' });
  } catch (error) {
    throw new ConfigError('not-writable', `${messageOf(error)}: name a new file`, { cause: error });
  }
}
