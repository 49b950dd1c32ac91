/**
 * What the API takes and answers: the OpenAPI document, the server's checks and the page's types are all made from these
 * schemas. Fields are described where their name does not say it all.
 */
import { z } from 'zod';

/** As keys are in an index; anything else is none, and not looked up. */
export const key = z.string().regex(/^[0-9a-f]{32}$/, 'expected 32 hexadecimal digits');

export const image = z.object({
  key: key.describe('names the image in this index; 32 hex digits'),
  id: z.string(),
  uri: z.string(),
  run: z.string(),
  runAt: z.iso.datetime(),
  sha256: z.string(),
  bytes: z.int(),
  width: z.int(),
  height: z.int(),
  format: z.string(),
  labels: z
    .array(z.object({ label: z.int(), name: z.string(), score: z.number() }))
    .describe('predictions, best first'),
});
export const hit = image.extend({ score: z.number().describe('cosine to what was searched for') });

export const filter = z.strictObject({
  labels: z.array(z.int().min(0)).max(1000).optional().describe('one of these is among its labels'),
  prefix: z.string().max(2048).optional().describe('its id starts with this'),
  runs: z.array(z.string().max(200)).max(100).optional(),
  minBytes: z.int().min(0).optional(),
  maxBytes: z.int().min(0).optional(),
  minSide: z.int().min(0).optional().describe('pixels of its shorter side, at least'),
  since: z.iso.datetime().optional().describe('its run was claimed at this time or later'),
  before: z.iso.datetime().optional(),
});

export const searchQuery = z.strictObject({
  keys: z.array(key).max(32).default([]).describe('images of the index to search by'),
  k: z.int().min(1).max(500).default(40),
  minScore: z.number().min(-1).max(1).optional(),
  filter: filter.default({}),
});
export const searchResult = z.object({
  hits: z.array(hit),
  pictures: z
    .array(z.object({ name: z.string(), labels: image.shape.labels }))
    .describe('what the model sees in the pictures that were uploaded'),
  refused: z
    .array(z.object({ name: z.string(), code: z.string(), message: z.string() }))
    .describe('pictures that could not be searched by; where none could, the answer is a problem'),
  took: z.object({ embedMs: z.number(), searchMs: z.number() }),
});

export const indexFacts = z.object({
  output: z.string(),
  images: z.int(),
  kind: z.string(),
  builtAt: z.iso.datetime(),
  runs: z.array(z.string()),
  unindexed: z.array(z.string()).describe('finished runs of this model that the index does not hold yet'),
  model: z.object({
    ref: z.string(),
    architecture: z.string(),
    untrained: z.boolean(),
    precision: z.string(),
    fingerprint: z.string(),
    dimension: z.int(),
  }),
  lensmill: z.string(),
});

export const labelCounts = z.array(z.object({ label: z.int(), name: z.string(), count: z.int() }));

export const imagePage = z.object({
  images: z.array(image),
  next: z.string().nullable().describe('`after` of the next page; null at the end'),
});

export const duplicateGroups = z.object({
  threshold: z.number(),
  images: z.int().describe('that were compared'),
  found: z.int().describe('groups there are; `groups` has the largest of them'),
  surplus: z.object({ images: z.int(), bytes: z.int() }).describe('of all groups, their keepers left out'),
  groups: z.array(
    z.object({
      keeper: z.string().describe('key of the image that is best kept: most pixels, then most bytes'),
      size: z.int().describe('images of the group; `images` has the first 200 of them'),
      images: z
        .array(hit.extend({ isCopy: z.boolean().describe('its bytes are those of the keeper') }))
        .describe('the keeper first; score: cosine to it'),
    }),
  ),
});

export const mapPoints = z.object({
  state: z.enum(['computing', 'done']),
  progress: z.number().min(0).max(1),
  points: z.array(z.object({ key: z.string(), x: z.number(), y: z.number(), label: z.int() })),
});

const stage = z.object({
  busyShare: z.number(),
  imagesPerSecond: z.number().nullable(),
  headroom: z.number().nullable(),
});
export const runFacts = z.object({
  run: z.string(),
  state: z.enum(['planning', 'unfinished', 'done']),
  queueState: z
    .string()
    .nullable()
    .describe('what workers are told of it; null where Redis does not know the run'),
  source: z.string(),
  model: z.string(),
  retryOf: z.string().nullable(),
  createdAt: z.iso.datetime(),
  shards: z.int(),
  committed: z.int().describe('shards whose part stands in the store'),
  items: z.int(),
  done: z.int().describe('images that are done, as far as is known'),
  failed: z.int(),
  mended: z.int().describe('of those, the ones that a finished retry has embedded'),
  failures: z.record(z.string(), z.int()).describe('failed images by reason; of a finished run'),
  throughput: z
    .object({
      imagesPerSecond: z.number().nullable(),
      secondsLeft: z.number().nullable(),
      limit: z.string(),
      verdict: z.string().describe('one sentence: what limits it, by which measure, and the remedy'),
      stages: z.record(z.string(), stage),
    })
    .nullable(),
});
export const runs = z.array(runFacts);

export const failedImages = z.object({
  images: z.array(
    z.object({ id: z.string(), uri: z.string(), error: z.string(), message: z.string(), bytes: z.int() }),
  ),
  next: z.string().nullable(),
});

/** Any answer that is no success. */
export const problem = z.object({
  status: z.int(),
  code: z.string().describe('for scripts, such as no-image'),
  message: z.string().describe('for people: what is wrong, and the way out'),
});

export type Image = z.infer<typeof image>;
export type HitReply = z.infer<typeof hit>;
export type FilterQuery = z.infer<typeof filter>;
export type SearchQuery = z.input<typeof searchQuery>;
export type SearchAsked = z.output<typeof searchQuery>;
export type SearchResult = z.infer<typeof searchResult>;
export type IndexFacts = z.infer<typeof indexFacts>;
export type LabelCounts = z.infer<typeof labelCounts>;
export type ImagePage = z.infer<typeof imagePage>;
export type DuplicateGroups = z.infer<typeof duplicateGroups>;
export type MapPoints = z.infer<typeof mapPoints>;
export type RunFacts = z.infer<typeof runFacts>;
export type FailedImages = z.infer<typeof failedImages>;
export type Problem = z.infer<typeof problem>;

/**
 * The ways in, all below /api, all with a token (`Authorization: Bearer …`, or the cookie that POST /api/session sets for
 * `<img>` and EventSource). Filters in a query string are `label=1&label=2&prefix=…&run=…&minBytes=…`: names as in `filter`, in
 * the singular where it is an array.
 *
 *   POST /api/session                      with a Bearer token: sets the cookie; 204
 *   GET  /api/index                        indexFacts
 *   GET  /api/labels?FILTER                labelCounts
 *   GET  /api/images?after&limit&FILTER    imagePage
 *   GET  /api/images/KEY                   image
 *   GET  /api/images/KEY/neighbours?k&minScore&FILTER     searchResult
 *   GET  /api/images/KEY/thumbnail?size=256               a WebP whose longer side is `size` (64 … 1024)
 *   POST /api/search                       JSON searchQuery, or multipart: pictures as `picture`, searchQuery as `query`
 *   GET  /api/duplicates?threshold&limit&FILTER           duplicateGroups
 *   GET  /api/map?images                   mapPoints; to be asked again while `computing`
 *   GET  /api/runs                         runs
 *   GET  /api/runs/events                  server-sent events: `runs` with runs, whenever something changed
 *   GET  /api/runs/RUN/failures?code&after&limit          failedImages
 *   GET  /api/runs/RUN/thumbnail?id&size   as above, of any image of a run
 *   GET  /api/openapi.json                 without a token
 */
