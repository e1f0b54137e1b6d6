"""Augmentation of whole batches where they live: pure functions on tensors, without a Python loop over images.

Every function takes images [B, C, H, W] of any dtype on any device and returns new ones of the same shape. Its random numbers come in
as shares in [0, 1), some for each image [B], so that an image is augmented alike in whatever batch and at whatever side it is used. Black
(0) fills what has no pixel, so augment before normalising.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.config import Augmentation
from trainers.errors import check_known

# crop: 4 px on 32, as He et al. 2016 (section 4.2). cutout: 8 px on 32; DeVries and Taylor 2017 took 16 on CIFAR-10 and 8 on CIFAR-100.
CROP_SHIFT_DIVISOR: Final = 8
CUTOUT_SIZE_DIVISOR: Final = 4
# Random numbers an image: where the crop lies (2), whether it is flipped (1), where the cutout lies (2).
DRAWS: Final = 5


def augment(images: Tensor, names: Iterable[str], draws: Tensor, strength: float = 1.0) -> Tensor:
    """Any of `crop` (shifts of up to side // 8), `flip` and `cutout` (a square of side // 4), always in this order.

    draws: float32 [B, DRAWS], uniform in [0, 1). Each augmentation has columns of its own: one more changes nothing about the others.
    strength: in [0, 1], of shifts and squares, whose pixels are multiplied by it and rounded to the nearest; a flip has none.
    """
    wanted = set(names)
    for name in wanted:
        check_known("augment", name, get_args(Augmentation))
    side_px = min(images.shape[-2:])
    down, right, mirror, row, column = draws.unbind(1)
    if "crop" in wanted:
        images = random_crop(images, round(strength * (side_px // CROP_SHIFT_DIVISOR)), down, right)
    if "flip" in wanted:
        images = random_flip(images, mirror)
    if "cutout" in wanted:
        images = cutout(images, round(strength * (side_px // CUTOUT_SIZE_DIVISOR)), row, column)
    return images


def random_crop(images: Tensor, shift_px: int, down: Tensor, right: Tensor) -> Tensor:
    """Shifts each image by -shift_px to shift_px along both axes, zero-padded: He et al. 2016 (arXiv 1512.03385), section 4.2."""
    count, _, height, width = images.shape
    top = _integers(2 * shift_px + 1, down)
    left = _integers(2 * shift_px + 1, right)
    padded = F.pad(images, [shift_px] * 4)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    image = torch.arange(count, device=images.device)[:, None, None]
    # An index around a slice puts the channels last: [B, H, W, C].
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_flip(images: Tensor, mirror: Tensor) -> Tensor:
    """Mirrors each image left to right with probability one half."""
    mirrored = _integers(2, mirror).bool()
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def cutout(images: Tensor, size_px: int, row: Tensor, column: Tensor) -> Tensor:
    """Blackens a square of size_px whose centre lies anywhere in the image, clipped at its border: DeVries and Taylor 2017
    (arXiv 1708.04552), section 3.2. They fill with the mean; black keeps the batch in uint8 (our own choice)."""
    height, width = images.shape[-2:]
    rows = _inside(height, size_px, row)
    columns = _inside(width, size_px, column)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _inside(side_px: int, size_px: int, centre: Tensor) -> Tensor:
    """[B, side_px] bool: the pixels along one axis that a random interval of size_px covers."""
    start = _integers(side_px, centre)[:, None] - size_px // 2
    pixel = torch.arange(side_px, device=centre.device)
    return (pixel >= start) & (pixel < start + size_px)


def _integers(high: int, shares: Tensor) -> Tensor:
    """Whole numbers below `high`: a share below 1 has 24 bits, so the product never rounds up to `high`."""
    return (shares * high).long()
