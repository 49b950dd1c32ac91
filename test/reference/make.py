#!/usr/bin/python3
"""Makes test/fixtures/reference/: what torchvision's own ResNets answer for weights that lensmill made.

    apt-get install -y python3-torch python3-torchvision        # Debian 12: torch 1.13, torchvision 0.14
    apt-get download python3-skimage && dpkg -x python3-skimage_*.deb skimage
    /usr/bin/python3 make.py pictures skimage/usr/lib/python3/dist-packages/skimage/data
    npm run -s lensmill -- model build random:0:resnet50 --safetensors /tmp/weights/resnet50.safetensors  # 101, 152 too
    /usr/bin/python3 make.py answers /tmp/weights
    /usr/bin/python3 make.py labels

`answers WEIGHTS PICTURES OUT` does the same for any folder of PNG crops of 224x224, into any file.
"""
import base64, hashlib, json, struct, sys
from pathlib import Path

import numpy
import torch
import torchvision
from PIL import Image
from torchvision import transforms

FIXTURES = Path(__file__).parent.parent / "fixtures" / "reference"
# Released into the public domain or CC0, as skimage/data/_fetchers.py says of each.
PHOTOGRAPHS = ["astronaut.png", "chelsea.png", "coffee.png", "retina.jpg", "rocket.jpg"]
# So many of a picture's numbers are kept: enough to catch any mistake, small enough to commit.
LOGITS, EMBEDDING = slice(None, None, 4), slice(None, None, 8)


def make_pictures(source):
    """Crops as the network sees them; 64 colours keep a lossless file small and are as real to a network as any."""
    crop = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    for name in PHOTOGRAPHS:
        picture = crop(Image.open(Path(source) / name).convert("RGB"))
        picture.quantize(64).save(FIXTURES / (Path(name).stem + ".png"), optimize=True, icc_profile=None)


def read_safetensors(path):
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = torch.from_numpy(numpy.frombuffer(raw[first:last], "<f4").reshape(entry["shape"]).copy())
    return tensors, hashlib.sha256(raw).hexdigest()


def make_answers(weights, pictures=FIXTURES, out=FIXTURES / "answers.json"):
    files = sorted(Path(pictures).glob("*.png"))
    normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    batch = torch.stack([normalise(transforms.functional.to_tensor(Image.open(f).convert("RGB"))) for f in files])
    models = {}
    for name in ["resnet50", "resnet101", "resnet152"]:
        tensors, sha256 = read_safetensors(Path(weights) / f"{name}.safetensors")
        network = getattr(torchvision.models, name)()
        absent, unexpected = network.load_state_dict(tensors, strict=False)
        assert not unexpected and all(key.endswith("num_batches_tracked") for key in absent), (absent, unexpected)
        embeddings = []
        network.avgpool.register_forward_hook(lambda module, given, made: embeddings.append(made.flatten(1)))
        with torch.no_grad():
            logits = network.eval()(batch)
        models[name] = {
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "weights": sha256,
            "answers": [
                {
                    "picture": file.name,
                    "top5": logits[row].topk(5).indices.tolist(),
                    "scores": logits[row].softmax(0).topk(5).values.tolist(),
                    "logits": encode(logits[row][LOGITS]),
                    "embedding": encode(embeddings[0][row][EMBEDDING]),
                }
                for row, file in enumerate(files)
            ],
        }
    made_by = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    record = {"madeBy": made_by, "steps": {"logits": LOGITS.step, "embedding": EMBEDDING.step}, "models": models}
    Path(out).write_text(json.dumps(record, indent=1) + "\n")


def encode(tensor):
    """float32, little-endian, base64."""
    return base64.b64encode(tensor.numpy().astype("<f4").tobytes()).decode()


def print_labels():
    """What test/models.test.ts expects of src/models/labels.json."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES as names

    print(len(names), hashlib.sha256("\n".join(names).encode()).hexdigest())


if __name__ == "__main__":
    {"pictures": make_pictures, "answers": make_answers, "labels": print_labels}[sys.argv[1]](*sys.argv[2:])
