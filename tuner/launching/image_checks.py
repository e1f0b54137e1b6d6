"""Whether a study's images are there, and whether side and batch fit them. Without torch, on the machine that is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from studies.template import fitting_batch, fitting_side
from trainers.config import TrainConfig
from trainers.image_sizes import FolderImages, look_at_images
from tuner.launching.node_checks import Finding, check_data

# Our own choices: below them a search still runs, but most likely not the one that was meant.
_LARGEST_ENLARGEMENT: Final = 1.5
_FEW_STEPS: Final = 10


def check_images(config: TrainConfig) -> list[Finding]:
    """Whether the images can be read; of an image folder also how many and how large they are, which stops no launch."""
    there = check_data(config.data)
    found = look_at_images(Path(config.data.root) / "train") if there.ok and config.data.name == "folder" else None
    return [there] if found is None else [there, *_sizes(config, found)]


def _sizes(config: TrainConfig, found: FolderImages) -> Iterator[Finding]:
    side_px, shorter_px = config.data.full_px, found.shorter_px
    if shorter_px is not None:
        sentence = f"half of the images have at most {shorter_px} px on their shorter side, dataset.side_px is {side_px}"
        enlarged = side_px > _LARGEST_ENLARGEMENT * shorter_px
        way = f": enlarging them costs time and adds nothing, set it to {fitting_side(shorter_px)}"
        yield Finding("image size", not enlarged, sentence + way * enlarged, stops=False)
    images, batch_size = found.trained_on(config.data), config.batch_size
    steps = max(1, images // batch_size)
    # Of more images than were counted all that is known is that they are enough.
    few = steps < _FEW_STEPS and not found.more
    count = f"{'more than ' if found.more else ''}{images:,} images"
    sentence = f"an epoch has {'at least ' if found.more else ''}{steps} step{'s' if steps > 1 else ''}: {count} in batches of {batch_size}"
    way = f", too few for schedules to differ: set training.batch_size to {fitting_batch(images, batch_size)}, and lr lower in proportion"
    yield Finding("steps", not few, sentence + way * few, stops=False)
