/** A graph of one node, that multiplies rows by rows: what `openProducts` of infer.ts runs. */
import { encodeOnnx, valueInfo } from './onnx.ts';

/** products [M × N] = left [M × dimension] · right [N × dimension]ᵀ, as an ONNX file's bytes. */
export function productsGraph(dimension: number): Uint8Array {
  const proto = {
    irVersion: 8,
    opsetImport: [{ domain: '', version: 17 }],
    graph: {
      name: 'products',
      node: [
        {
          opType: 'Gemm',
          name: 'products',
          input: ['left', 'right'],
          output: ['products'],
          attribute: [{ name: 'transB', type: 2, i: 1 }],
        },
      ],
      input: [
        valueInfo('left', 'float32', ['M', dimension]),
        valueInfo('right', 'float32', ['N', dimension]),
      ],
      output: [valueInfo('products', 'float32', ['M', 'N'])],
    },
  };
  return Buffer.concat([...encodeOnnx({ proto, weights: [] })]);
}
