"""What an image folder holds, from its listing and the headers of some files: enough to choose a side and a batch. Knows no torch."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Final

from PIL import Image

from trainers.config import DEFAULT_VAL_FRAC, DataConfig

# torchvision's IMG_EXTENSIONS, written down again because looking must not import it.
ENDINGS: Final = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# Our own choices: more images change no advice, and a hundred headers are read within a second from a busy disk.
COUNTED_MOST: Final = 20_000
_SIZES_READ: Final = 100


@dataclass(frozen=True, slots=True)
class FolderImages:
    """Of `<folder>/<class>/**/*`.

    images: files with an image's ending; where `more`, the count stopped there. shorter_px: median of the shorter side in pixels of about a
    hundred files, spread over the classes; None where none of them could be read.
    """

    folder: Path
    classes: int
    images: int
    more: bool
    shorter_px: int | None

    def trained_on(self, data: DataConfig) -> int:
        """How many images `data` leaves to train with; at least so many where there are `more`."""
        if data.train_images is not None:
            return data.train_images
        default = max(self.classes, round(DEFAULT_VAL_FRAC * self.images))
        return max(0, self.images - (default if data.val_images is None else data.val_images))


def look_at_images(folder: Path) -> FolderImages | None:
    """None where the folder can't be read or holds no image: what is wrong with it is for others to say."""
    try:
        classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return None
    found = itertools.chain.from_iterable(map(_images, classes))
    images = sum(1 for _ in itertools.islice(found, COUNTED_MOST + 1))
    if not images:
        return None
    sides = [side for path in _some(classes) if (side := _shorter_px(path)) is not None]
    more = images > COUNTED_MOST
    return FolderImages(folder, len(classes), images - more, more, median_low(sides) if sides else None)


def _images(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder, followlinks=True):
        yield from (Path(parent, name) for name in names if name.lower().endswith(ENDINGS))


def _some(classes: list[Path]) -> Iterator[Path]:
    """A few images of every class, or one of every few classes."""
    each = math.ceil(_SIZES_READ / len(classes))
    for folder in classes[:: math.ceil(len(classes) / _SIZES_READ)]:
        yield from itertools.islice(_images(folder), each)


def _shorter_px(path: Path) -> int | None:
    """None for what is no image: the training names it when it comes to it."""
    try:
        with Image.open(path) as image:
            return min(image.size)
    except (OSError, Image.DecompressionBombError):
        return None
