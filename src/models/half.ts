/** float32 ↔ float16, round half to even, as the hardware does it. Node 22 has no Float16Array, which could do the same. */

/** IEEE 754 binary16 bit patterns of `values`. From 65520 on, a value becomes an infinity; NaN stays NaN. */
export function toHalf(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i] as number; // i < length
    const sign = (word >>> 16) & 0x8000;
    const magnitude = word & 0x7fffffff;
    let half: number;
    if (magnitude > 0x7f800000) half = 0x7e00;
    else if (magnitude >= 0x47800000) half = 0x7c00;
    else if (magnitude < 0x38800000) {
      // Below 2⁻¹⁴ the unit is 2⁻²⁴. Adding and taking away 1.5·2⁵² rounds a double to an even integer.
      half = Math.abs(values[i] as number) * 2 ** 24 + 1.5 * 2 ** 52 - 1.5 * 2 ** 52;
    } else {
      // 13 bits go; a carry walks into the exponent, and out of the largest one into infinity, as it should.
      half = (magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13;
    }
    halves[i] = sign | half;
  }
  return halves;
}

/** The exact values of IEEE 754 binary16 bit patterns. */
export function fromHalf(halves: Uint16Array): Float32Array {
  const values = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) {
    const half = halves[i] as number; // i < length
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >>> 10) & 0x1f;
    const fraction = half & 0x3ff;
    if (exponent === 0x1f) values[i] = fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    else if (exponent === 0) values[i] = sign * fraction * 2 ** -24;
    else values[i] = sign * (1024 + fraction) * 2 ** (exponent - 25);
  }
  return values;
}

/** The exact values of bfloat16 bit patterns: the upper halves of float32. */
export function fromBfloat(words: Uint16Array): Float32Array {
  return new Float32Array(Uint32Array.from(words, (word) => word << 16).buffer);
}
