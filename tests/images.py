"""What tests do with the batches of a split."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainers.data import Split

CPU = torch.device("cpu")


def evaluated(split: Split, batch_size: int = 100) -> tuple[Tensor, Tensor]:
    images, labels = zip(*split.batches(batch_size, training=False), strict=True)
    return torch.cat(images), torch.cat(labels)


def trained(split: Split, batch_size: int, **options: Any) -> tuple[Tensor, Tensor]:
    images, labels = zip(*split.batches(batch_size, training=True, **options), strict=True)
    return torch.cat(images), torch.cat(labels)


def fingerprints(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]
