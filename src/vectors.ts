/** Embeddings as directions. */

export function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

/** Gives a vector length 1, in place. False, and nothing is done, where it has no direction: zeros, or not finite. */
export function toUnit(vector: Float32Array): boolean {
  const length = Math.sqrt(dot(vector, vector));
  if (!(length > 0 && length < Number.POSITIVE_INFINITY)) return false;
  for (let i = 0; i < vector.length; i++) vector[i] = (vector[i] as number) / length;
  return true;
}
