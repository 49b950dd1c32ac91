/**
 * A precision certificate, as it stands in the output: how far the numbers of one model agree with those of the same network
 * in fp32, about which images, and whether that was enough. Created once, never changed; several may stand.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import type { Agreement } from './certify.ts';
import { certificateKey, certificatesPrefix } from './layout.ts';
import { identitySchema } from './models/identity.ts';
import { encodeJson, readJson } from './runs/run.ts';
import type { Store } from './stores/store.ts';

const share = z.object({ count: z.number(), share: z.number(), low: z.number(), high: z.number() });

const agreement: z.ZodType<Agreement> = z.object({
  images: z.number(),
  notFinite: z.number(),
  cosine: z.object({
    least: z.number(),
    p1: z.number(),
    median: z.number(),
    mean: z.number(),
    apart: z.number(),
  }),
  top1: share,
  labels: z.object({ k: z.number(), overlap: z.number() }),
  nearest: share,
  recall: z.object({ k: z.number(), share: z.number() }),
});

const certificate = z.object({
  v: z.literal(1),
  lensmill: z.string(),
  createdAt: z.iso.datetime(),
  /** What is certified. */
  candidate: z.object({
    model: identitySchema,
    /** What made its rows; several joined by '+'. */
    device: z.string(),
    /** The run whose stored rows they are; null where they were made to be measured. */
    run: z.string().nullable(),
    /** How they were stored. */
    embedding: z.enum(['float32', 'float16']),
  }),
  /** What it was held against. */
  reference: z.object({ model: identitySchema, device: z.string() }),
  sample: z.object({
    source: z.string(),
    /**
     * Images that no sample of this source has: those that a calibration on it looks at. Null where rows are a run's, of which
     * some may be those.
     */
    heldOut: z.number().nullable(),
    /** Images that were drawn. Those compared are `agreement.images`; the others: */
    drawn: z.number(),
    /** … have the bytes of an earlier one: each would be the other's nearest, whatever the model. */
    twice: z.number(),
    /** … or cannot be had, or failed. */
    unusable: z.array(z.object({ id: z.string(), why: z.string() })),
    /** SHA-256 over a line `id TAB sha256` of each image that was compared, by id. */
    sha256: z.string(),
  }),
  agreement,
  thresholds: z.object({ cosine: z.number(), top1: z.number(), recall: z.number() }),
  /** Where the agreement falls short, a line each. */
  shortfalls: z.array(z.string()),
  /** The images with the least cosines, and the label that each model gives them. */
  worst: z.array(
    z.object({
      id: z.string(),
      uri: z.string(),
      cosine: z.number(),
      label: z.number(),
      referenceLabel: z.number(),
    }),
  ),
  /** Of the models alone, as they took turns; null where only the reference ran. */
  imagesPerSecond: z.object({ candidate: z.number(), reference: z.number() }).nullable(),
});

export type Certificate = z.infer<typeof certificate>;
export type StoredCertificate = Certificate & { key: string };

export function isPassed({ shortfalls }: Pick<Certificate, 'shortfalls'>): boolean {
  return shortfalls.length === 0;
}

/** Its key. */
export async function createCertificate(store: Store, made: Certificate): Promise<string> {
  // Parsed to put the keys in the schema's order.
  const bytes = encodeJson(certificate.parse(made));
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const key = certificateKey(made.candidate.model.fingerprint, made.createdAt, sha256);
  // The key has the content's hash: what stands there is the same.
  await store.create(key, bytes);
  return key;
}

/** Of a model's numbers, oldest first: whatever run they are measured for, they say the same of any other of this model. */
export async function readCertificates(store: Store, fingerprint: string): Promise<StoredCertificate[]> {
  const found: StoredCertificate[] = [];
  for await (const { key } of store.list(certificatesPrefix(fingerprint))) {
    const read = await readJson(store, certificate, key);
    if (read) found.push({ key, ...read });
  }
  return found;
}
