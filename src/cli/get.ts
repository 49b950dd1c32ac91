/** `lensmill get`: one image's bytes, read back from where its run found them, be it a file or a member of an archive. */
import { writeFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { ConfigError, messageOf } from '../errors.ts';
import { fetchItem } from '../fetch.ts';
import { openItemFinder } from '../find-item.ts';
import { sourceOptionsOf } from '../settings.ts';
import { openSource } from '../sources/open-source.ts';
import { addCommand, exitCodes } from './command.ts';
import { placeSettings, readSettings } from './option-groups.ts';
import { openOutput } from './output.ts';

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
      const store = await openOutput(settings);
      try {
        const { run, item } = await openItemFinder(store).find(id, image);
        const source = openSource(run.source, sourceOptionsOf(settings));
        try {
          const options = { maxBytes: run.maxBytes, timeoutMs: settings.readTimeoutMs, signal: interrupted };
          const fetched = await fetchItem(source, item, options);
          if ('error' in fetched) throw new Error(`${image}: ${fetched.error}, ${fetched.message}`);
          const { content, bytes, sha256 } = fetched;
          if (typeof to === 'string') {
            await writeNew(to, content);
            print({ run: run.run, id: image, bytes, sha256, to }, `${to}: ${bytes} bytes`);
          } else {
            process.stdout.write(content);
          }
          return exitCodes.done;
        } finally {
          await source.close();
        }
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
