import { ReadError, type SourceOptions } from '../sources/source.ts';
import { schemeOf } from '../uri.ts';
import { openFileObjects } from './file.ts';
import type { Objects } from './objects.ts';
import { openS3Objects } from './s3.ts';

/** Objects of every scheme; 'bad-uri' for any other. Whether a list may name files (`allowFiles`) its reader decides. */
export function openObjects({ s3, web }: SourceOptions): Objects {
  const opened = new Map<string, Promise<Objects>>();

  /** The member for a URI, opened when it is first needed. */
  function memberFor(uri: string): Promise<Objects> {
    const scheme = schemeOf(uri).replace('https', 'http');
    const member = opened.get(scheme) ?? open(scheme);
    opened.set(scheme, member);
    return member;
  }

  async function open(scheme: string): Promise<Objects> {
    switch (scheme) {
      case 'file':
        return openFileObjects();
      case 's3':
        return openS3Objects(s3);
      case 'http':
        // Loaded where it is used: undici takes a quarter of a second.
        return (await import('./web.ts')).openWebObjects(web);
      default:
        throw new ReadError(
          'bad-uri',
          `nothing reads '${scheme}://…'; there are: a path, file://, s3://, http://, https://`,
        );
    }
  }

  return {
    stat: async (uri, options) => (await memberFor(uri)).stat(uri, options),
    read: async (uri, options) => (await memberFor(uri)).read(uri, options),
    readRange: async (uri, options) => (await memberFor(uri)).readRange(uri, options),
    async *stream(uri, options) {
      yield* (await memberFor(uri)).stream(uri, options);
    },
    async close() {
      for (const member of opened.values())
        await member.then((objects) => objects.close()).catch(() => undefined);
    },
  };
}
