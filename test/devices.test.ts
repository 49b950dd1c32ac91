/** What `lensmill work` runs on: `--device` and `--devices`, and the GPUs that CUDA would show. */
import { expect, test } from 'vitest';
import { cpu } from '../src/devices/cpu.ts';
import { cuda } from '../src/devices/cuda.ts';
import { listDevices } from '../src/devices/list-devices.ts';
import { countListed, countShown, whyAllHidden } from '../src/devices/visible-gpus.ts';

/** With so many GPUs and all libraries. */
const machineWith = (gpus: number) => ({
  countGpus: () => gpus,
  resolveDevice: (name: string) => ({ device: name === 'cpu' ? cpu : cuda(Number(name.split(':')[1] ?? 0)) }),
});
const names = (wanted: string[], gpus = 4): string[] =>
  listDevices(wanted, machineWith(gpus)).map(({ name }) => name);

test('a GPU without a number is every one, each with a process of its own', () => {
  expect(names(['cuda'])).toEqual(['cuda:0', 'cuda:1', 'cuda:2', 'cuda:3']);
  expect(names(['auto'], 2)).toEqual(['cuda:0', 'cuda:1']);
  expect(names(['cuda:0', 'cuda:2'])).toEqual(['cuda:0', 'cuda:2']);
});

test('several processes on one device have names that metrics can tell apart', () => {
  expect(listDevices(['cpu:2', 'sleep:20:2', 'cpu'])).toEqual([
    { name: 'cpu/0', device: 'cpu' },
    { name: 'cpu/1', device: 'cpu' },
    { name: 'sleep:20/0', device: 'sleep:20' },
    { name: 'sleep:20/1', device: 'sleep:20' },
    { name: 'cpu/2', device: 'cpu' },
  ]);
  expect(listDevices(['sleep:20'])).toEqual([{ name: 'sleep:20', device: 'sleep:20' }]);
});

test('a GPU that is not visible is an error that says which are', () => {
  expect(() => names(['cuda:4'])).toThrow(/cuda:4: 4 GPUs are visible, cuda:0 to cuda:3/);
  expect(() => names(['cuda:0', 'cuda:1'], 1)).toThrow(/one GPU is visible, cuda:0/);
});

test.each([
  [undefined, 2, 2],
  ['0,1', 2, 2],
  ['1', 2, 1],
  ['GPU-8932f937, GPU-02468ace', 8, 2],
  ['0,2,1', 2, 1], // CUDA stops at the first that is none
  ['0,-1,1', 2, 1],
  ['', 2, 0],
  ['-1', 2, 0],
  ['NoDevFiles', 2, 0],
  ['MIG-GPU-8932f937/1/0,MIG-GPU-8932f937/2/0', 1, 1], // of MIG instances a process gets one
])('CUDA_VISIBLE_DEVICES=%s of %i shows %i', (visible, installed, shown) => {
  expect(countShown(visible, installed)).toBe(shown);
  // A process reads the same of its own environment, without asking the driver.
  if (visible !== undefined) expect(whyAllHidden(visible) !== undefined).toBe(shown === 0);
});

test("the driver's list has a line a GPU, and more for their MIG instances", () => {
  const listing = `GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736-a75d-5afc-978f-d2f1294409fd)
  MIG 1g.5gb      Device  1: (UUID: MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-02468ace-d33d-2b2c-524d-9e3d8d2b8a77)
`;
  expect(countListed(listing)).toBe(2);
  expect(countListed('NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.')).toBe(
    0,
  );
});
