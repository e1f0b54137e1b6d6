"""Images for tests, and what tests do with the batches of a split."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from trainers.data import Split

CPU = torch.device("cpu")


@functools.cache
def photographs() -> tuple[Image.Image, ...]:
    """Two real photographs of 640 x 427 px, a temple and a flower, which ship inside scikit-learn."""
    return tuple(Image.fromarray(np.ascontiguousarray(pixels)) for pixels in load_sample_images().images)


def evaluated(split: Split, batch_size: int = 100) -> tuple[Tensor, Tensor]:
    images, labels = zip(*split.batches(batch_size, training=False), strict=True)
    return torch.cat(images), torch.cat(labels)


def trained(split: Split, batch_size: int, **options: Any) -> tuple[Tensor, Tensor]:
    images, labels = zip(*split.batches(batch_size, training=True, **options), strict=True)
    return torch.cat(images), torch.cat(labels)


def fingerprints(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]
