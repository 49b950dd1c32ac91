"""What torchvision shows a network of a picture, by Pillow alone: the reference that test/parity.test.ts runs live.

    pixels.py crop < jobs.json > crops     jobs: [{"path", "transforms": [{"resize", "crop", "interpolation"}, ...]}, ...]
                                           crops: crop * crop * 3 bytes RGB for each transform, one after the other
    pixels.py save < jobs.json             jobs: [{"from", "path", "mode", "options"}, ...]: pictures that sharp cannot write
    pixels.py validate FILE...             compares `crop` with torchvision itself, where that is installed
"""

import json
import sys

from PIL import Image, ImageOps

Image.MAX_IMAGE_PIXELS = None
FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}


def load(path):
    """Upright RGB of the first frame, as torchvision's pil_loader, but that the high byte stands for 16-bit grey.

    There `convert("RGB")` would clip at 255, so that nearly all of it is white.
    """
    with Image.open(path) as image:
        if image.format != "TIFF":  # whose plugin turns it while loading, but leaves the tag: it would be turned twice
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            image = image.point(lambda value: value * (1 / 256)).convert("L")
        return image.convert("RGB")


def resize(image, size, interpolation):
    """torchvision's Resize(size): the shorter side becomes `size`, the longer is truncated."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    new_long = int(size * long / short)
    shape = (size, new_long) if width <= height else (new_long, size)
    return image if shape == image.size else image.resize(shape, FILTERS[interpolation])


def center_crop(image, size):
    """torchvision's CenterCrop(size): black around what is smaller, offsets rounded half to even."""
    width, height = image.size
    if width < size or height < size:
        left, top = max(0, (size - width) // 2), max(0, (size - height) // 2)
        right, bottom = max(0, (size - width + 1) // 2), max(0, (size - height + 1) // 2)
        image = ImageOps.expand(image, (left, top, right, bottom))
        width, height = image.size
    top, left = int(round((height - size) / 2.0)), int(round((width - size) / 2.0))
    return image.crop((left, top, left + size, top + size))


def transform(image, resize_to, crop, interpolation):
    return center_crop(resize(image, resize_to, interpolation), crop).tobytes()


def crop(job):
    image = load(job["path"])
    for each in job["transforms"]:
        sys.stdout.buffer.write(transform(image, each["resize"], each["crop"], each["interpolation"]))


def save(job):
    with Image.open(job["from"]) as image:
        options = job.get("options", {})
        if isinstance(options.get("transparency"), list):
            options["transparency"] = tuple(options["transparency"])
        if "exif_orientation" in options:
            exif = Image.Exif()
            exif[0x0112] = options.pop("exif_orientation")
            options["exif"] = exif
        image.convert(job["mode"]).save(job["path"], **options)


def validate(paths):
    import torchvision
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    compared = 0
    for path in paths:
        image = load(path)
        for size in (256, 232, 236, 224, 200):
            for interpolation in FILTERS:
                expected = CenterCrop(224)(Resize(size, InterpolationMode(interpolation))(image)).tobytes()
                if transform(image, size, 224, interpolation) != expected:
                    sys.exit(f"{path} differs at {size}, {interpolation}")
                compared += 1
    print(f"{compared} crops of {len(paths)} pictures equal those of torchvision {torchvision.__version__}")


if __name__ == "__main__":
    command = sys.argv[1]
    if command == "validate":
        validate(sys.argv[2:])
    else:
        for job in json.load(sys.stdin):
            {"crop": crop, "save": save}[command](job)
