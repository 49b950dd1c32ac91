/**
 * Makes what is published, in out/release: `npm run release`. docs/releasing.md says what becomes of it.
 *
 *   1. lensmill-VERSION.tgz       what `npm pack` makes of this repository, with LanceDB's client in it (`packRelease`)
 *   2. lensmill-VERSION.cdx.json  all that it depends on, with licences and hashes: CycloneDX
 *   3. SHA256SUMS                 of both
 * A licence that is not on the list below ends it before anything is written.
 */
import { createHash } from 'node:crypto';
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';

const root = join(import.meta.dirname, '..');

/** What of a manifest is read here. */
export interface Manifest {
  name: string;
  version: string;
  private?: boolean;
  dependencies: Record<string, string>;
  optionalDependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
  peerDependencies?: Record<string, string>;
  bundleDependencies?: string[];
  overrides?: Record<string, Record<string, string>>;
  scripts?: Record<string, string>;
  allowScripts?: Record<string, boolean>;
}

export interface Packed {
  /** Path of the tarball. */
  file: string;
  /** As `npm pack` lists them: below the package's folder. */
  files: { path: string; size: number }[];
  /** Bytes, compressed and not. */
  size: number;
  unpackedSize: number;
}

const lancedb = '@lancedb/lancedb';

/**
 * LanceDB's client wants two clients of embedding services, openai and @huggingface/transformers, which nothing here calls and
 * which bring 357 MB. Here they are overridden, but overrides do not reach those who depend on lensmill, and npm goes by no shrinkwrap
 * where it installs a tarball. So the package brings the client itself, as it is but for these lines of its manifest; its native part
 * is a dependency as before. `npm install` of the tarball on Linux: 1,036 MB without this, 677 MB with it.
 */
export async function packRelease(to: string): Promise<Packed> {
  const work = await mkdtemp(join(tmpdir(), 'lensmill-release-'));
  try {
    const plain = await npmPack(root, work);
    await execa('tar', ['xzf', plain.file, '-C', work]);
    const staged = join(work, 'package');
    const manifest = await readManifest(staged);
    const bundled = join(staged, 'node_modules', lancedb);
    await cp(join(root, 'node_modules', lancedb), bundled, { recursive: true });
    const client = await readManifest(bundled);
    const unwanted = Object.keys(manifest.overrides?.[lancedb] ?? {});
    const natives = Object.entries(client.optionalDependencies ?? {}).filter(
      ([name]) => !unwanted.includes(name),
    );
    const { devDependencies: _, scripts: __, peerDependencies = {}, ...kept } = client;
    // Its types are nobody's business here, and npm would say of an older @types/node that it is invalid.
    const { '@types/node': ___, ...peers } = peerDependencies;
    await writeManifest(bundled, {
      ...kept,
      peerDependencies: peers,
      optionalDependencies: Object.fromEntries(natives),
    });
    await writeManifest(
      staged,
      publicOf(manifest, { ...client, optionalDependencies: Object.fromEntries(natives) }),
    );
    await mkdir(to, { recursive: true });
    return await npmPack(staged, to);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Without what is for this repository alone; npm looks for what a bundled package needs among our own dependencies. */
function publicOf(
  {
    private: _,
    scripts: __,
    devDependencies: ___,
    overrides: ____,
    allowScripts: _____,
    ...manifest
  }: Manifest,
  client: Manifest,
): Manifest {
  return {
    ...manifest,
    dependencies: { ...client.dependencies, ...manifest.dependencies },
    optionalDependencies: client.optionalDependencies ?? {},
    bundleDependencies: [lancedb],
  };
}

async function npmPack(folder: string, to: string): Promise<Packed> {
  // Its stdout begins with what its scripts print.
  const { stdout } = await execa('npm', ['pack', '--json', '--pack-destination', to], { cwd: folder });
  const [packed] = JSON.parse(stdout.slice(stdout.search(/^\[/m))) as (Packed & { filename: string })[];
  if (!packed) throw new Error(`npm pack made nothing of ${folder}`);
  return { ...packed, file: join(to, packed.filename) };
}

export interface Component {
  name: string;
  version: string;
  licenses?: ({ license: { id?: string; name?: string } } | { expression: string })[];
}
interface Sbom {
  metadata: { component: { name: string } };
  components: Component[];
}

/** All that is installed with lensmill, on whichever platform, as the lock file has it. */
export async function makeSbom(): Promise<Sbom> {
  const { stdout } = await execa(
    'npm',
    ['sbom', '--sbom-format=cyclonedx', '--sbom-type=application', '--omit=dev', '--package-lock-only'],
    { cwd: root },
  );
  const sbom = JSON.parse(stdout) as Sbom; // CycloneDX 1.5
  const { name, overrides } = await readManifest(root);
  // npm takes the folder's.
  sbom.metadata.component.name = name;
  // What stands for them is nothing, and is not shipped.
  const overridden = Object.keys(overrides?.[lancedb] ?? {});
  sbom.components = sbom.components.filter((component) => !overridden.includes(component.name));
  return sbom;
}

const allowed = [
  'MIT',
  'ISC',
  'Apache-2.0',
  'BSD-2-Clause',
  'BSD-3-Clause',
  '0BSD',
  'BlueOak-1.0.0',
  'CC0-1.0',
];

/** Where the lock file has none: it knows nothing of what other platforms install, which is as its siblings here. */
const saidElsewhere: readonly [RegExp, string][] = [
  [/^@lancedb\/lancedb-/, 'Apache-2.0'],
  [/^@msgpackr-extract\//, 'MIT'],
  // In its LICENSE, and in its manifest as npm wanted it in 2013.
  [/^json-bignum$/, 'MIT'],
];

/** libvips is a library of its own, in a package of its own, that whoever likes replaces by another build: what the LGPL asks for. */
const mayBeLgpl = /^@img\/sharp-/;

/** Components whose licence is unknown or not on the list, with what they say. */
export function refusedLicences(components: readonly Component[]): string[] {
  return components.flatMap(({ name, version, licenses }) => {
    const said = licenses?.map((one) =>
      'expression' in one ? one.expression : (one.license.id ?? one.license.name),
    );
    const expression = said?.join(' AND ') ?? saidElsewhere.find(([which]) => which.test(name))?.[1] ?? '';
    const terms = mayBeLgpl.test(name) ? [...allowed, 'LGPL-3.0-or-later'] : allowed;
    return isAllowed(expression, terms) ? [] : [`${name} ${version}: ${expression || 'no licence'}`];
  });
}

/** SPDX expressions as packages have them: AND, or OR, of licences, in parentheses or not. */
function isAllowed(expression: string, terms: readonly string[]): boolean {
  const isTerm = (term: string): boolean => terms.includes(term.trim());
  const bare = expression.replaceAll(/[()]/g, '');
  return bare.includes(' OR ') ? bare.split(' OR ').some(isTerm) : bare.split(' AND ').every(isTerm);
}

async function readManifest(folder: string): Promise<Manifest> {
  return JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'));
}

async function writeManifest(folder: string, manifest: object): Promise<void> {
  await writeFile(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
}

async function release(to: string): Promise<void> {
  const sbom = await makeSbom();
  const refused = refusedLicences(sbom.components);
  if (refused.length > 0) throw new Error(`licences that nobody has looked at:\n  ${refused.join('\n  ')}`);
  const { version } = await readManifest(root);
  await rm(to, { recursive: true, force: true });
  const { file, files, size, unpackedSize } = await packRelease(to);
  const sbomFile = join(to, `lensmill-${version}.cdx.json`);
  await writeFile(sbomFile, `${JSON.stringify(sbom, null, 2)}\n`);
  const sums = [file, sbomFile].map(async (path) => {
    const sha256 = createHash('sha256')
      .update(await readFile(path))
      .digest('hex');
    return `${sha256}  ${path.slice(to.length + 1)}\n`;
  });
  await writeFile(join(to, 'SHA256SUMS'), (await Promise.all(sums)).join(''));
  const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
  console.log(`${file}: ${megabytes(size)}, ${files.length} files, ${megabytes(unpackedSize)} unpacked`);
  console.log(`${sbomFile}: ${sbom.components.length} components`);
}

if (import.meta.main) await release(join(root, 'out/release'));
