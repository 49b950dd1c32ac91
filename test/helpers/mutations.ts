/** Damaged pictures by the thousand: small valid files of every format, and what becomes of them in bad hands. */
import sharp, { type Sharp } from 'sharp';
import { uniform } from '../../src/uniform.ts';

/** A valid picture; `name` says what it is, its extension the format. */
export interface Sound {
  name: string;
  bytes: Buffer;
}

const side = 64;

/** Of `seed`'s own colours: soft ones under noise, so that each code of each format has work. */
function picture(seed: number): Sharp {
  const random = uniform(seed);
  const [red, green, blue] = [random(), random(), random()];
  const pixels = Buffer.alloc(side * side * 3);
  for (let at = 0; at < pixels.length; at++) {
    const [x, y] = [Math.floor(at / 3) % side, Math.floor(at / 3 / side)];
    const slope = [x * red, y * green, (x + y) * blue][at % 3] ?? 0;
    pixels[at] = 60 + slope * 2 + random() * 30;
  }
  return sharp(pixels, { raw: { width: side, height: side, channels: 3 } });
}

const encoders: Record<string, (picture: Sharp, next: Sharp) => Sharp | Promise<Sharp>> = {
  'baseline.jpg': (one) => one.jpeg(),
  'progressive.jpg': (one) => one.jpeg({ progressive: true }),
  'cmyk.jpg': (one) => one.toColourspace('cmyk').jpeg(),
  'exif.jpg': (one) => one.withMetadata({ orientation: 6 }).jpeg(),
  '8bit.png': (one) => one.png(),
  '16bit.png': (one) => one.toColourspace('rgb16').linear(0.97, 77).png(),
  'palette.png': (one) => one.png({ palette: true, colours: 16 }),
  'interlaced.png': (one) => one.png({ progressive: true }),
  'lossy.webp': (one) => one.webp(),
  'lossless.webp': (one) => one.webp({ lossless: true }),
  'animated.webp': async (one, next) => (await animation(one, next)).webp(),
  'still.gif': (one) => one.gif(),
  'animated.gif': async (one, next) => (await animation(one, next)).gif(),
  'plain.tif': (one) => one.resize(side / 2).tiff({ compression: 'none' }),
  'lzw.tif': (one) => one.tiff({ compression: 'lzw', predictor: 'horizontal' }),
  'deflate-tiled.tif': (one) =>
    one.tiff({ compression: 'deflate', tile: true, tileWidth: 16, tileHeight: 16 }),
  'jpeg.tif': (one) => one.tiff({ compression: 'jpeg' }),
  'lossy.avif': (one) => one.avif({ effort: 0 }),
};

async function animation(...frames: Sharp[]): Promise<Sharp> {
  return sharp(await Promise.all(frames.map((frame) => frame.png().toBuffer())), {
    join: { animated: true },
  });
}

/** One of each kind, of at most 20 KB. Another seed makes other pictures. */
export async function soundPictures(seed: number): Promise<Sound[]> {
  return Promise.all(
    Object.entries(encoders).map(async ([name, encode], n) => {
      const image = await encode(picture(seed * 100 + n), picture(seed * 100 + n + 50));
      return { name, bytes: await image.toBuffer() };
    }),
  );
}

/**
 * `count` damaged pictures, of each sound one as many, most with one damage, some with up to four. The same for the same
 * seed. Some few are as good as they were: a flipped bit of a comment hurts nobody.
 */
export function* mutate(sound: readonly Sound[], count: number, seed: number): Generator<Sound> {
  const random = uniform(seed);
  const below = (limit: number): number => Math.floor(random() * limit);
  const pick = <T>(of: readonly T[]): T => of[below(of.length)] as T; // none is empty
  for (let n = 0; n < count; n++) {
    const { name, bytes } = sound[n % sound.length] as Sound;
    let damaged: Buffer = Buffer.from(bytes);
    for (let times = random() < 0.6 ? 1 : 1 + below(4); times > 0 && damaged.length > 0; times--) {
      // Half of the damages fall on the first 200 bytes: headers lead further astray than pixels.
      const at = below(random() < 0.5 ? Math.min(200, damaged.length) : damaged.length);
      damaged = pick(damages)(damaged, at, below, pick(sound).bytes);
    }
    yield { name, bytes: damaged };
  }
}

type Damage = (bytes: Buffer, at: number, below: (limit: number) => number, other: Buffer) => Buffer;

const damages: readonly Damage[] = [
  function flipBit(bytes, at, below) {
    bytes[at] = (bytes[at] ?? 0) ^ (1 << below(8));
    return bytes;
  },
  function flipBits(bytes, _at, below) {
    for (let flips = 2 + below(30); flips > 0; flips--) {
      const one = below(bytes.length);
      bytes[one] = (bytes[one] ?? 0) ^ (1 << below(8));
    }
    return bytes;
  },
  /** Lengths, offsets and counts are mostly such numbers. */
  function setNumber(bytes, at, below) {
    const numbers = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x0100_0000];
    const length = 1 << below(3);
    const number = Buffer.alloc(4);
    number.writeUInt32BE(numbers[below(numbers.length)] ?? 0);
    number.copy(bytes, at, 4 - length);
    return bytes;
  },
  function fill(bytes, at, below) {
    return bytes.fill(below(256), at, Math.min(bytes.length, at + 1 + below(64)));
  },
  function cutOff(bytes, at) {
    return bytes.subarray(0, at);
  },
  function leaveOut(bytes, at, below) {
    return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + below(100))]);
  },
  function repeat(bytes, at, below) {
    const piece = bytes.subarray(at, at + 1 + below(200));
    return Buffer.concat([bytes.subarray(0, at), piece, piece, bytes.subarray(at + piece.length)]);
  },
  /** The head of one picture on the body of another, often of another format. */
  function spliceHead(bytes, at, _below, other) {
    return Buffer.concat([other.subarray(0, at), bytes.subarray(at)]);
  },
  function spliceBody(bytes, at, below, other) {
    return Buffer.concat([bytes.subarray(0, at), other.subarray(below(other.length))]);
  },
];
