/** Which of the objects below a source's root are items. */
import picomatch from 'picomatch';
import { ConfigError, messageOf } from '../errors.ts';
import type { Globs } from './source.ts';

/** The extensions that pictures usually have; what is inside, the decoder finds out. */
export const DEFAULT_INCLUDE: readonly string[] = [
  '**/*.{jpg,jpeg,jpe,jfif,png,webp,gif,tif,tiff,avif,heic,heif}',
];

export interface GlobFilter {
  /** Some include and no exclude matches the whole id. */
  isItem(id: string): boolean;
  /** An exclude of the form `FOLDER/**` matches the folder, so nothing in it needs to be looked at. */
  isFolderExcluded(folder: string): boolean;
}

/** Throws ConfigError 'bad-glob'. */
export function compileGlobs({ include, exclude }: Globs): GlobFilter {
  const isIncluded = compile(include);
  const isExcluded = compile(exclude);
  return {
    isItem: (id) => isIncluded(id) && !isExcluded(id),
    isFolderExcluded: compile(
      exclude.filter((glob) => glob.endsWith('/**')).map((glob) => glob.slice(0, -3)),
    ),
  };
}

function compile(globs: readonly string[]): (id: string) => boolean {
  const matchers = globs.map((glob) => {
    // picomatch's own matches no '.' or '..' between slashes, which the ids of a list may have.
    if (glob === '**') return () => true;
    try {
      // 's': a newline is a character like any other, in ids too.
      return picomatch(glob, { nocase: true, dot: true, flags: 'is' });
    } catch (error) {
      throw new ConfigError('bad-glob', `'${glob}' is not a glob: ${messageOf(error)}`);
    }
  });
  return (id) => matchers.some((matches) => matches(id));
}
