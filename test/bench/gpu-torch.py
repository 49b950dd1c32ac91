"""The same network in PyTorch, on the same card, for gpu.ts: a JSON line for each measurement, weights at random.

torch    pixels as lensmill has them (uint8, N×S×S×3, in pinned memory) to embedding and top-5 in host memory; each batch is
         copied and queued while the one before is computed
forward  the network alone, on a batch that lies on the card: the most that PyTorch can do
"""

import argparse
import json
import time
from contextlib import nullcontext

try:
    import torch
    from torchvision.models.resnet import Bottleneck, ResNet
except ImportError as error:
    print(json.dumps({"missing": str(error)}))
    raise SystemExit(0)


def integers(text):
    return [int(part) for part in text.split(",")]


parser = argparse.ArgumentParser()
parser.add_argument("--device", required=True)
parser.add_argument("--depths", type=integers, required=True)
parser.add_argument("--crop", type=int, required=True)
parser.add_argument("--batches", type=integers, required=True)
parser.add_argument("--seconds", type=float, required=True)
options = parser.parse_args()

device = torch.device(options.device)
is_cuda = device.type == "cuda"
torch.backends.cudnn.benchmark = True
mean = 255 * torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1)
std = 255 * torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1)


def finish():
    if is_cuda:
        torch.cuda.synchronize(device)


def images_per_second(step, batch):
    """`step` queues one batch; the first ones choose cuDNN's kernels and are not counted."""
    for _ in range(3):
        step()
    finish()
    started = time.perf_counter()
    images = 0
    while time.perf_counter() - started < options.seconds:
        step()
        images += batch
    finish()
    return images / (time.perf_counter() - started)


def open_network(precision):
    network = ResNet(Bottleneck, options.depths).eval().to(device, memory_format=torch.channels_last)
    if precision == "half":
        network = network.half()
    trunk = torch.nn.Sequential(*list(network.children())[:-1], torch.nn.Flatten())
    number = torch.float16 if precision == "half" else torch.float32

    def forward(pixels):
        # N×S×S×3 in memory is channels-last already.
        images = ((pixels.permute(0, 3, 1, 2).float() - mean) / std).to(number)
        with torch.autocast(device.type) if precision == "amp" else nullcontext():
            embedding = trunk(images)
            scores, labels = network.fc(embedding).float().softmax(1).topk(5)
        return embedding.float(), scores, labels.int()

    return forward


def measure(forward, batch):
    def pinned(tensor):
        return tensor.pin_memory() if is_cuda else tensor

    shape = (batch, options.crop, options.crop, 3)
    sources = [pinned(torch.randint(0, 256, shape, dtype=torch.uint8)) for _ in range(2)]
    results = [None, None]
    done = [torch.cuda.Event() for _ in range(2)] if is_cuda else []
    turn = 0

    def step():
        nonlocal turn
        here, turn = turn % 2, turn + 1
        # The results of the batch before the last one have come: its memory may be used again.
        if is_cuda:
            done[here].synchronize()
        outputs = forward(sources[here].to(device, non_blocking=True))
        if results[here] is None:
            results[here] = [pinned(torch.empty_like(output, device="cpu")) for output in outputs]
        for host, output in zip(results[here], outputs):
            host.copy_(output, non_blocking=True)
        if is_cuda:
            done[here].record()

    whole = images_per_second(step, batch)
    lying = sources[0].to(device)
    return {"torch": whole, "forward": images_per_second(lambda: forward(lying), batch)}


with torch.inference_mode():
    for precision in ["fp32", "amp", "half"] if is_cuda else ["fp32"]:
        forward = open_network(precision)
        for batch in options.batches:
            try:
                rates = measure(forward, batch)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                rates = {"torch": None, "forward": None}
            for what, rate in rates.items():
                line = {"what": what, "precision": precision, "batch": batch, "imagesPerSecond": rate}
                print(json.dumps(line), flush=True)
