import { resolveSettings, s3OptionsOf } from '../../src/settings.ts';

/** The program's own defaults, with no endpoint named. */
export const s3Defaults = s3OptionsOf(resolveSettings({}, {}, {}).values);
