/**
 * Zstandard files of several frames, as `pzstd`, `cat a.zst b.zst` and seekable formats make them. Node's decompressor stops
 * silently after a frame that ends within a chunk (https://github.com/nodejs/node/issues/64741), and goes on where the next
 * chunk begins a frame: so chunks are cut where frames end. As in https://www.rfc-editor.org/rfc/rfc8878.html#section-3.
 */

/** The same bytes; no chunk goes beyond the end of a frame. What is no frame stays as it is, for the decompressor to refuse. */
export async function* cutAtFrames(compressed: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let state: State = { field: 'magic', hasChecksum: false };
  let field: number[] = [];
  /** Bytes that need no look. */
  let passing = 0;
  for await (const chunk of compressed) {
    let start = 0;
    for (let at = 0; at < chunk.length; ) {
      if (passing > 0) {
        const step = Math.min(passing, chunk.length - at);
        passing -= step;
        at += step;
      } else {
        field.push(chunk[at++] ?? 0);
        const read = readField(state, field);
        if (!read) continue;
        ({ passing, ...state } = read);
        field = [];
      }
      if (passing > 0 || field.length > 0 || state.field !== 'magic') continue;
      yield chunk.subarray(start, at);
      start = at;
    }
    if (start < chunk.length) yield chunk.subarray(start);
  }
}

interface State {
  /** What comes next. */
  field: 'magic' | 'block';
  hasChecksum: boolean;
}

/** `undefined`: the field is not whole yet. Else how many bytes to pass, and what comes then. */
function readField(state: State, field: number[]): (State & { passing: number }) | undefined {
  return state.field === 'magic' ? readFrameHeader(field) : readBlockHeader(state, field);
}

function readFrameHeader(field: number[]): (State & { passing: number }) | undefined {
  if (field.length < 5) return undefined;
  const view = new DataView(Uint8Array.from(field).buffer);
  const magic = view.getUint32(0, true);
  if ((magic & 0xfffffff0) >>> 0 === 0x184d2a50) {
    if (field.length < 8) return undefined;
    return { field: 'magic', hasChecksum: false, passing: view.getUint32(4, true) };
  }
  if (magic !== 0xfd2fb528) return { field: 'magic', hasChecksum: false, passing: Infinity };
  const descriptor = view.getUint8(4);
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const sizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6] ?? 0;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] ?? 0;
  const passing = (isSingleSegment ? 0 : 1) + dictionaryBytes + sizeBytes;
  return { field: 'block', hasChecksum: (descriptor & 4) !== 0, passing };
}

function readBlockHeader(state: State, field: number[]): (State & { passing: number }) | undefined {
  const [low, middle, high] = field;
  if (low === undefined || middle === undefined || high === undefined) return undefined;
  const isLast = (low & 1) !== 0;
  const isRepeatedByte = ((low >> 1) & 3) === 1;
  const size = (low | (middle << 8) | (high << 16)) >> 3;
  const checksumBytes = isLast && state.hasChecksum ? 4 : 0;
  return {
    ...state,
    field: isLast ? 'magic' : 'block',
    passing: (isRepeatedByte ? 1 : size) + checksumBytes,
  };
}
