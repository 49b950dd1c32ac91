/** The API's own description, at /api/openapi.json: made from the schemas that requests and answers are held against. */
import swagger, { type SwaggerTransform, type SwaggerTransformObject } from '@fastify/swagger';
import type { FastifyInstance } from 'fastify';
import { jsonSchemaTransform, jsonSchemaTransformObject } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { version } from '../version.ts';
import * as api from './api.ts';

const names = {
  Image: api.image,
  Hit: api.hit,
  SearchResult: api.searchResult,
  IndexFacts: api.indexFacts,
  LabelCounts: api.labelCounts,
  ImagePage: api.imagePage,
  DuplicateGroups: api.duplicateGroups,
  MapPoints: api.mapPoints,
  RunFacts: api.runFacts,
  FailedImages: api.failedImages,
  Problem: api.problem,
};
for (const [id, schema] of Object.entries(names)) z.globalRegistry.add(schema, { id });

/** To be registered before the routes. */
export async function registerOpenApi(app: FastifyInstance): Promise<void> {
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'lensmill',
        description: 'Search, look at and compare the images of one output, and follow its runs.',
        license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
        version,
      },
      // Wherever it is served.
      servers: [{ url: '/' }],
      tags: [
        { name: 'session', description: 'a way in for browsers' },
        { name: 'images', description: 'what the index holds' },
        { name: 'search', description: 'what is alike' },
        { name: 'runs', description: 'how the images came to it' },
      ],
      components: { securitySchemes: { token: { type: 'http', scheme: 'bearer' } } },
      security: [{ token: [] }],
    },
    transform,
    transformObject,
  });
}

/** Without the variants for requests, whose schemas stand where they are used. */
const transformObject: SwaggerTransformObject = (document) => {
  const described = jsonSchemaTransformObject(document);
  const schemas = ('components' in described && described.components?.schemas) || {};
  for (const name of Object.keys(schemas)) if (!(name in names)) delete schemas[name];
  return described;
};

/** A body of which there are several kinds, which the transform of the Zod schemas does not know. */
const transform: SwaggerTransform = (document) => {
  const { schema } = document;
  if (!isBodyByType(schema?.body)) return jsonSchemaTransform(document);
  const { body, ...rest } = schema;
  const transformed = jsonSchemaTransform({ ...document, schema: rest });
  const content = Object.entries(body.content).map(([type, { schema: one }]) => [
    type,
    { schema: z.toJSONSchema(one, { io: 'input', unrepresentable: 'any' }) },
  ]);
  return {
    ...transformed,
    schema: { ...transformed.schema, body: { content: Object.fromEntries(content) } },
  };
};

interface BodyByType {
  content: Record<string, { schema: z.ZodType }>;
}

function isBodyByType(body: unknown): body is BodyByType {
  return typeof body === 'object' && body !== null && 'content' in body;
}
