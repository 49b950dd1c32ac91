"""PyTorch as peers.ts knows it: a DataLoader, torchvision's transforms, its ResNet; images to embeddings.

eager   the network as it is written
tuned   traced, frozen, fused for inference, channels last

Both with a thread a core: left alone, torch takes two virtual cores for one. Prints a line of JSON, {images, seconds,
coreSeconds}, from the network warm to the last embedding; the embeddings go into a file, float32, in the images' order.
"""

import argparse
import json
import os
import resource
import struct
import time

import numpy
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models.resnet import Bottleneck, ResNet

parser = argparse.ArgumentParser()
parser.add_argument("--weights", required=True, help="a .safetensors file of float32")
parser.add_argument("--images", required=True, help="a JSON list of paths")
parser.add_argument("--manner", choices=["eager", "tuned"], required=True)
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--to", required=True)
options = parser.parse_args()
cores = len(os.sched_getaffinity(0))
torch.set_num_threads(cores)


def read_tensors(path):
    with open(path, "rb") as file:
        content = file.read()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        numbers = numpy.frombuffer(content, "<f4", (end - first) // 4, start + first)
        yield name, torch.from_numpy(numbers.reshape(entry["shape"]).copy())


def open_network():
    tensors = dict(read_tensors(options.weights))
    blocks = {tuple(map(int, (name[5], name.split(".")[1]))) for name in tensors if name.startswith("layer")}
    depths = [sum(stage == found for found, _ in blocks) for stage in (1, 2, 3, 4)]
    network = ResNet(Bottleneck, depths, num_classes=len(tensors["fc.bias"]))
    # Norms also count the batches that they were trained on, which nobody needs.
    missing = network.load_state_dict(tensors, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    network.fc = torch.nn.Identity()
    return network.eval()


class Images(Dataset):
    def __init__(self, paths):
        self.paths = paths
        self.prepare = transforms.Compose(
            [
                transforms.Resize(256),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.prepare(Image.open(self.paths[index]).convert("RGB"))


def core_seconds():
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


with open(options.images) as file:
    images = Images(json.load(file))

with torch.inference_mode():
    network = open_network()
    example = torch.rand(options.batch, 3, 224, 224)
    layout = torch.contiguous_format
    if options.manner == "tuned":
        layout = torch.channels_last
        network = network.to(memory_format=layout)
        example = example.contiguous(memory_format=layout)
        network = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(network, example)))
    for _ in range(2):
        network(example)

    started, used = time.perf_counter(), core_seconds()
    loader = DataLoader(images, batch_size=options.batch, num_workers=cores)
    embeddings = [network(batch.contiguous(memory_format=layout)) for batch in loader]
    seconds = time.perf_counter() - started
    # The loader's processes have ended, and are counted.
    work = {"images": len(images), "seconds": seconds, "coreSeconds": core_seconds() - used}

torch.cat(embeddings).numpy().astype("<f4").tofile(options.to)
print(json.dumps(work))
