/**
 * A process whose inference thread is to open a session of 1,024 images, for which it needs 617 MB, but gets 580 MB more
 * than it has. Says what batch is left, and how far the last image's embedding is from that of a session of one.
 *
 * The model is a mean: one large tensor, so that what fails is its allocation and no small one of the process's own.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cpu } from '../../src/devices/cpu.ts';
import { openSession } from '../../src/infer.ts';
import { finishGraph, rankClasses } from '../../src/models/graph.ts';
import { dataType, encodeOnnx, startSketch } from '../../src/models/onnx.ts';
import type { InferenceOptions, InferenceReply, InferenceRequest } from '../../workers/inference.ts';
import { makeSlot } from '../../workers/slot.ts';
import { openThread } from '../../workers/thread.ts';
import { paintPixels, relativeError } from './graphs.ts';
import { makeRequest } from './requests.ts';

const [folder = ''] = process.argv.slice(2);
const batch = 1_024;
const { model } = makeRequest('r');
const { crop } = model.preprocessing;

const sketch = startSketch();
const floats = sketch.node('Cast', ['images'], 'floats', { to: dataType.float32 });
const mean = sketch.node('ReduceMean', [floats], 'embedding', { axes: [1, 2], keepdims: 0 });
rankClasses(sketch, mean, 1);
const modelPath = join(folder, 'mean.onnx');
const identity = { ...model, dimension: 3, classes: 3 };
const graph = finishGraph(sketch, { builder: 0, identity, topK: 1, parameters: 0 });
writeFileSync(modelPath, Buffer.concat([...encodeOnnx(graph)]));

const image = paintPixels(1, crop);
const one = await openSession({ modelPath, device: cpu, batch: 1, crop, threads: 1 });
const { embeddings: expected } = await one.run(image);
await one.release();

const slot = makeSlot({ batch, crop, dimension: 3, topK: 1 });
new Uint8Array(slot.pixels).set(image, slot.pixels.byteLength - image.length);
const options: InferenceOptions = { slots: [slot], modelPath, device: cpu, batch, crop, threads: 1 };
const thread = openThread<InferenceRequest, InferenceReply>('inference', options);
// Answered with an error, since nothing is open yet: by then the thread is up and has what it needs to live.
await thread.call({ kind: 'infer', slot: 0 }).catch(() => undefined);

const size = Number(/VmSize:\s+([0-9]+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) * 1024;
execFileSync('prlimit', ['--pid', String(process.pid), `--as=${size + 580e6}`]);

await thread.call({ kind: 'open' });
const reply = await thread.call({ kind: 'infer', slot: 0 });
const embedding = slot.result.embeddings.subarray(-expected.length);
const difference = relativeError(embedding, expected);
process.stdout.write(JSON.stringify({ batch: reply?.batch, notice: reply?.notice, difference }));
await thread.close();
