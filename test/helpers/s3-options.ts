import { s3OptionsOf } from '../../src/settings/options.ts';
import { resolveSettings } from '../../src/settings/resolve.ts';

/** The program's own defaults, with no endpoint named. */
export const s3Defaults = s3OptionsOf(resolveSettings({}, {}, {}).values);
