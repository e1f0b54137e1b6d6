"""From an image file to pixels: evaluation crops, random resized crops, and both straight at a reduced side.

A reduced image shows the same part of its file as the full one. It is resized once, from the decoded file to the reduced side, where a full
image is resized to the full side and then reduced by the Downsampler. JPEG files are decoded at 1/2, 1/4 or 1/8 of their size (from fewer
coefficients of each 8 x 8 block) where the part still has at least the side's pixels. docs/loader.md says how close both ways come.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop, v2

from trainers.errors import InputError

# Left, top, right, bottom in pixels of the file, or of the file decoded at a reduced size; not always whole.
Box = tuple[float, float, float, float]
# Share of the image's area and aspect ratio of random resized crops: Szegedy et al. 2015 (arXiv 1409.4842), section 6.
CROP_AREA: Final = (0.08, 1.0)
CROP_ASPECT: Final = (3 / 4, 4 / 3)
# What every JPEG decoder offers, smallest first.
JPEG_SCALES: Final = (1 / 8, 1 / 4, 1 / 2)


def read_image(
    path: Path, full_px: int, resize_px: int, *, crop_seed: int | None = None, side_px: int | None = None, strength: float = 1.0
) -> Tensor:
    """One image as uint8 [side_px, side_px, 3]; InputError if the file cannot be decoded.

    full_px: full side. resize_px: what the evaluation crop resizes the shorter side to. crop_seed: of a random resized crop; None gives
    the evaluation crop. side_px: at most the full side, which None stands for. strength: in [0, 1], of that random crop: the smallest area
    is 1 - strength (1 - CROP_AREA[0]) of the image. A full image is bit-equal to what torchvision's transforms
    make of the whole decoded file.
    """
    try:
        with Image.open(path) as image:
            return _cut_out(image, full_px, resize_px, crop_seed, side_px or full_px, strength)
    except OSError as error:
        raise InputError(f"image file '{path}' cannot be decoded: {error}") from error


def decode_smaller(image: Image.Image, box: Box, side_px: int) -> Box:
    """Makes an opened JPEG file decode at the smallest size that leaves `box` at least side_px wide and high; returns the box in it.

    Files of other formats are left as they are.
    """
    shorter = min(box[2] - box[0], box[3] - box[1])
    scale = next((scale for scale in JPEG_SCALES if shorter * scale >= side_px), None)
    # Pillow takes the size that is wanted at least; None where the format has but one.
    if scale is None or image.draft(None, (int(image.width * scale), int(image.height * scale))) is None:
        return box
    left, top, right, bottom = (edge * scale for edge in box)
    return left, top, right, bottom


def _cut_out(image: Image.Image, full_px: int, resize_px: int, crop_seed: int | None, side_px: int, strength: float) -> Tensor:
    if crop_seed is None and side_px == full_px:
        return _pixels(_evaluation_crop(_rgb(image), full_px, resize_px))
    box = _evaluation_box(image.size, full_px, resize_px) if crop_seed is None else _random_box(image, crop_seed, strength)
    # Full images stay what torchvision gives: they are what accuracies are compared on.
    if side_px < full_px:
        box = decode_smaller(image, box, side_px)
    return _resized(_rgb(image), box, side_px)


def _pixels(image: Image.Image) -> Tensor:
    """Pillow's image as uint8 [H, W, 3]."""
    return torch.from_numpy(np.array(image))


def _rgb(image: Image.Image) -> Image.Image:
    """Greyscale files become three equal channels: every network of torchvision takes three."""
    # Pillow's convert copies even where there is nothing to convert.
    return image if image.mode == "RGB" else image.convert("RGB")


def _evaluation_crop(image: Image.Image, full_px: int, resize_px: int) -> Image.Image:
    # Functions, not transform objects: those cost more than decoding a small image does.
    resized = v2.functional.resize(image, [resize_px], antialias=True)
    cropped: Image.Image = v2.functional.center_crop(resized, [full_px])
    return cropped


def _evaluation_box(size: tuple[int, int], full_px: int, resize_px: int) -> Box:
    """The part of a file of this (width, height) that the evaluation crop shows."""
    shorter = min(size)
    edges = []
    for length in size:
        # torchvision's: the longer side is rounded down, the offset to the nearest even.
        resized = int(resize_px * length / shorter)
        start = round((resized - full_px) / 2)
        edges.append((start * length / resized, min(length, (start + full_px) * length / resized)))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _random_box(image: Image.Image, crop_seed: int, strength: float) -> Box:
    """torchvision's random resized crop. It draws from torch's global CPU generator, which belongs to the training."""
    smallest, largest = CROP_AREA
    # At full strength to the last bit what it is without one.
    area = [smallest if strength == 1 else largest - strength * (largest - smallest), largest]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(crop_seed)
        top, left, height, width = RandomResizedCrop.get_params(image, area, list(CROP_ASPECT))
    return left, top, left + width, top + height


def _resized(image: Image.Image, box: Box, side_px: int) -> Tensor:
    """What lies in `box`, to whole pixels, resized to uint8 [side_px, side_px, 3]: antialiased bilinear.

    torch's resize on tensors: on common processors several times as fast as Pillow's, which takes as long as decoding the file. They
    differ by at most one grey level.
    """
    # Edges half a pixel apart from the next round alike, so that a box never loses a pixel of its width.
    left, top, right, bottom = (math.floor(edge + 0.5) for edge in box)
    part = _pixels(image.crop((left, top, right, bottom))).permute(2, 0, 1)
    resized: Tensor = v2.functional.resize_image(part, [side_px, side_px], antialias=True)
    return resized.permute(1, 2, 0)
