/** Given to `node --import`: sharp ends the process, as a bug in its C++ would, on a picture that carries the marker. */
import sharp from 'sharp';
import { crashMarker } from './archive.ts';

interface SharpInside {
  options: { input?: { buffer?: Buffer } };
}

// A constructor, though its type does not say so.
const { prototype } = sharp as unknown as {
  prototype: { toBuffer: (this: SharpInside, ...args: unknown[]) => unknown };
};
const { toBuffer } = prototype;
prototype.toBuffer = function (...args) {
  const { buffer } = this.options.input ?? {};
  if (buffer?.subarray(-crashMarker.length).equals(crashMarker)) process.kill(process.pid, 'SIGSEGV');
  return toBuffer.apply(this, args);
};
