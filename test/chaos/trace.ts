/** Reads the trace that step-hook.ts writes, as it grows. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { type TraceLine, traceOf } from './step-hook.ts';

/** Each call gives all lines so far, and reads only those that are new. */
export function openTrace(folder: string): () => TraceLine[] {
  const lines: TraceLine[] = [];
  let offset = 0;
  return () => {
    const grown = readFrom(traceOf(folder), offset);
    // A line that is being written is for the next call.
    const whole = grown.subarray(0, grown.lastIndexOf('\n') + 1);
    offset += whole.length;
    for (const line of whole.toString().split('\n'))
      if (line !== '') lines.push(JSON.parse(line) as TraceLine); // the hook's own
    return lines;
  };
}

/** Empty where there is no such file yet. */
function readFrom(path: string, offset: number): Buffer {
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch {
    return Buffer.alloc(0);
  }
  try {
    const bytes = Buffer.alloc(fstatSync(file).size - offset);
    return bytes.subarray(0, readSync(file, bytes, 0, bytes.length, offset));
  } finally {
    closeSync(file);
  }
}
