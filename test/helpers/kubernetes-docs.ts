/** What docs/kubernetes.md tells people to type, for tests that type it. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { execa } from 'execa';
import type { ISecret } from 'kubernetes-models/v1';
import { type Kubectl, type Manifest, parseManifests } from './kubernetes.ts';

export const root = join(import.meta.dirname, '../..');
export const page = readFileSync(join(root, 'docs/kubernetes.md'), 'utf8');

/** The text of each block in this language. */
export function blocks(language: 'console' | 'yaml'): string[] {
  const found = page.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'));
  return [...found].map(([, text = '']) => text);
}

/** The one block that holds this text. */
export function blockWith(language: 'console' | 'yaml', text: string): string {
  const [block, ...others] = blocks(language).filter((one) => one.includes(text));
  if (block === undefined || others.length > 0)
    throw new Error(
      `${others.length + Number(block !== undefined)} blocks of docs/kubernetes.md hold ${text}`,
    );
  return block;
}

/** Types a block's commands into a shell where `kubectl create` makes nothing, but prints what it would make. */
export async function createdBy(
  kubectl: Kubectl,
  block: string,
  { cwd = root, env = {} }: { cwd?: string; env?: Record<string, string> } = {},
): Promise<Manifest[]> {
  const script = `
    kubectl() {
      if [ "$1" = create ] && [ "$2" != namespace ]; then
        echo ---; "$KUBECTL" "$@" --dry-run=client --output yaml
      elif [ "$1" = apply ]; then
        echo ---; cat
      fi
    }
    ${block.replaceAll(/^\$ /gm, '')}`;
  const { stdout } = await execa('bash', ['-euc', script], { cwd, env: { ...env, KUBECTL: kubectl.path } });
  return parseManifests(stdout.replace(/^---\n/, ''));
}

/** The secrets that are made before all else, by their names. */
export async function documentedSecrets(kubectl: Kubectl): Promise<Map<string, Record<string, string>>> {
  const created = await createdBy(kubectl, blockWith('console', 'generic lensmill-api'));
  const secrets = created.filter((one): one is ISecret => one.kind === 'Secret');
  return new Map(
    secrets.map(({ metadata, data = {} }) => [
      metadata?.name ?? '',
      Object.fromEntries(
        Object.entries(data).map(([key, value]) => [key, Buffer.from(value, 'base64').toString()]),
      ),
    ]),
  );
}

export type Overlay = 'site' | 'elsewhere' | 'old';

/**
 * Writes the overlays of the page below a folder, where their paths lead to this repository's manifests; `site` with these lines
 * more, and over KEDA, so that all that the page changes is there.
 */
export function writeOverlays(folder: string, more = ''): Record<Overlay, string> {
  const manifests = relative(join(folder, 'any'), join(root, 'deploy/kubernetes'));
  const texts: Record<Overlay, string> = {
    site: `${blockWith('yaml', 'tagSuffix')}${more}`.replace('overlays/gpu', 'overlays/keda'),
    elsewhere: blockWith('yaml', 'name: lensmill-out'),
    old: blockWith('yaml', 'nameSuffix'),
  };
  const write = (name: Overlay): string => {
    const path = join(folder, name, 'kustomization.yaml');
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, texts[name].replaceAll('../deploy/kubernetes', manifests));
    return dirname(path);
  };
  return { site: write('site'), elsewhere: write('elsewhere'), old: write('old') };
}

/** Keys of Redis that the page names, in its order, each once. */
export function keysInDocs(): string[] {
  return [...new Set([...page.matchAll(/\{lensmill\}:[\w.:-]+/g)].map(([key]) => key))];
}
