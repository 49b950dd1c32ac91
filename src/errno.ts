/** The `code` of a system error ('ENOENT', 'ECONNREFUSED' …), or `undefined` for any other thrown value. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}
