/** What deploy/make-secrets.sh makes, in a temporary folder: that of a machine with docker-compose.yml. */
import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { root } from './compose.ts';
import { tempFolder } from './temp.ts';

export interface MadeSecrets {
  folder: string;
  /** Again, with other arguments. */
  make(...args: string[]): Promise<string>;
}

export async function makeSecrets(...args: string[]): Promise<MadeSecrets> {
  const folder = tempFolder();
  const script = join(folder, 'deploy/make-secrets.sh');
  for (const path of ['deploy/make-secrets.sh', 'deploy/kubernetes/components/redis/users.acl'])
    cpSync(join(root, path), join(folder, path));
  const make = async (...again: string[]): Promise<string> =>
    (await execa(script, again, { cwd: '/', all: true })).all;
  await make(...args);
  return { folder, make };
}
