"""Images in batches: `TensorSplit` for what fits on the device, `LoaderSplit` for what is decoded as it is used."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from trainers.augment import augment as augmented
from trainers.errors import RunError
from trainers.folders import ImageFiles, Preprocessing, read_image

# Beyond this many workers the storage is the limit (our own choice).
MAX_WORKERS: Final = 16
# What a seed is drawn for, so that the same (seed, epoch) gives unrelated orders, augmentations and crops.
_ORDER, _AUGMENTATION, _SAMPLES = range(3)


Batch = tuple[Tensor, Tensor]


class Split(Protocol):
    """Labelled images. Order and augmentation follow from (seed, epoch) alone: the same in every process and after a resume."""

    def __len__(self) -> int:
        """Number of images."""

    def batches(self, batch_size: int, *, seed: int = 0, epoch: int = 0, augment: tuple[str, ...] = (), training: bool) -> Iterator[Batch]:
        """Normalised images [B, 3, H, W] float32 and labels [B] int64, on the device.

        training: shuffled, augmented, without the last incomplete batch (see `steps_per_epoch`). Otherwise every image once, in order,
        and seed, epoch and augment play no part.
        """


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Optimizer steps in one epoch: the last incomplete batch is dropped, unless there would be none left."""
    return max(1, images // batch_size)


def mixed_seed(*parts: int) -> int:
    """One 32-bit seed from several whole numbers, such that neighbours give unrelated random numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class TensorSplit:
    """Split whose images [N, 3, H, W] uint8 and labels [N] int64 live on the device, augmented there a batch at a time."""

    def __init__(self, images: Tensor, labels: Tensor, preprocessing: Preprocessing) -> None:
        self.images, self.labels = images, labels
        self._normalise = _Normalisation(preprocessing, images.device)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int, *, seed: int = 0, epoch: int = 0, augment: tuple[str, ...] = (), training: bool) -> Iterator[Batch]:
        if not training:
            for start in range(0, len(self), batch_size):
                yield self._normalise(self.images[start : start + batch_size]), self.labels[start : start + batch_size]
            return
        generator = torch.Generator(self.images.device).manual_seed(mixed_seed(seed, epoch, _AUGMENTATION))
        order = _order(len(self), seed, epoch).to(self.images.device)
        for step in range(steps_per_epoch(len(self), batch_size)):
            chosen = order[step * batch_size : (step + 1) * batch_size]
            yield self._normalise(augmented(self.images[chosen], augment, generator)), self.labels[chosen]


class LoaderSplit:
    """Split that worker processes decode as it is used: random resized crops for training with `crop`, else resize and centre crop.

    Workers: as many as torch has threads (those that the training was given), at most MAX_WORKERS; with one thread none, the training
    itself decodes. They are spawned, because a fork of a process with threads or CUDA can deadlock, and stay for the split's life. One
    iteration at a time: RunError when an earlier one goes on after a later one has begun.
    """

    def __init__(self, files: ImageFiles, preprocessing: Preprocessing, device: torch.device) -> None:
        self._device = device
        self._count = len(files.labels)
        self._normalise = _Normalisation(preprocessing, device)
        self._plan = _BatchPlan()
        self._loader = _loader(_FileDataset(files, preprocessing), self._plan, device)
        self._iteration = 0

    def __len__(self) -> int:
        return self._count

    def batches(self, batch_size: int, *, seed: int = 0, epoch: int = 0, augment: tuple[str, ...] = (), training: bool) -> Iterator[Batch]:
        order = _order(self._count, seed, epoch) if training else torch.arange(self._count)
        samples = self._samples(order, mixed_seed(seed, epoch, _SAMPLES) if training and "crop" in augment else None)
        count = steps_per_epoch(self._count, batch_size) if training else math.ceil(self._count / batch_size)
        self._plan.batches = [samples[start : start + batch_size] for start in range(0, count * batch_size, batch_size)]
        names = tuple(name for name in augment if name != "crop") if training else ()
        generator = torch.Generator(self._device).manual_seed(mixed_seed(seed, epoch, _AUGMENTATION))
        self._iteration += 1
        iteration = self._iteration
        for images, labels in self._loader:
            on_device = augmented(images.to(self._device, non_blocking=True), names, generator)
            yield self._normalise(on_device), labels.to(self._device, non_blocking=True)
            if iteration != self._iteration:
                raise RunError("two iterations over the same image files ran at once, end the first before the second")

    @staticmethod
    def _samples(order: Tensor, crop_seed: int | None) -> list[_Sample]:
        positions = order.tolist()
        if crop_seed is None:
            return [_Sample(position, None) for position in positions]
        # A seed an image, so that crops depend neither on the number of workers nor on which of them decodes what.
        seeds = torch.randint(2**32, (len(positions),), generator=torch.Generator().manual_seed(crop_seed)).tolist()
        return [_Sample(position, seed) for position, seed in zip(positions, seeds, strict=True)]


class _Sample(NamedTuple):
    position: int
    crop_seed: int | None


class _BatchPlan(Sampler[list[_Sample]]):
    """The batches of the coming iteration: a loader keeps its workers only while it keeps its sampler."""

    def __init__(self) -> None:
        self.batches: list[list[_Sample]] = []

    def __iter__(self) -> Iterator[list[_Sample]]:
        return iter(self.batches)


class _FileDataset(Dataset[tuple[Tensor, int]]):
    """Image files by sample. A class of the module, because spawned workers unpickle it."""

    def __init__(self, files: ImageFiles, preprocessing: Preprocessing) -> None:
        self._files, self._preprocessing = files, preprocessing

    def __getitem__(self, sample: _Sample) -> tuple[Tensor, int]:
        image = read_image(self._files.path(sample.position), self._preprocessing, sample.crop_seed)
        return image, int(self._files.labels[sample.position])


class _Normalisation:
    """uint8 images -> float32 ones of zero mean and unit deviation a channel."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self._mean = 255 * torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self._std = 255 * torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().sub_(self._mean).div_(self._std)


def _loader(dataset: _FileDataset, plan: _BatchPlan, device: torch.device) -> DataLoader[Any]:
    threads = torch.get_num_threads()
    workers = min(threads, MAX_WORKERS) if threads > 1 else 0
    return DataLoader(
        dataset,
        batch_sampler=plan,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,
        pin_memory=device.type == "cuda",
        # Else every iteration draws a seed from torch's global generator, which belongs to the training.
        generator=torch.Generator(),
    )


def _order(count: int, seed: int, epoch: int) -> Tensor:
    """Always drawn on the CPU, so that the order is the same on every device."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(mixed_seed(seed, epoch, _ORDER)))
