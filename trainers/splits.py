"""Images in batches: `TensorSplit` for what fits on the device, `LoaderSplit` for what is decoded as it is used."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from trainers.augment import DRAWS
from trainers.augment import augment as augmented
from trainers.device import IMAGE_FORMAT
from trainers.errors import InputError, RunError
from trainers.folders import ImageFiles, Preprocessing
from trainers.ranks import ALONE, Ranks
from trainers.schedule import Step
from trainers.workers import Batch, Copier, Order, build_loader

Bounds = list[tuple[int, int]]

# What a seed is drawn for, so that the same (seed, epoch) gives unrelated orders, augmentations and crops.
_ORDER, _AUGMENTATION, _CROPS = range(3)


class Split(Protocol):
    """Labelled images. Order and augmentation follow from (seed, epoch) alone: the same in every process and after a resume."""

    def __len__(self) -> int:
        """Number of images."""

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        augment: tuple[str, ...] = (),
        training: bool,
        steps: Sequence[Step] | None = None,
        strengths: Sequence[float] | None = None,
        ranks: Ranks = ALONE,
    ) -> Iterator[Batch]:
        """Normalised images [B, 3, H, W] float32 and labels [B] int64, on the device, in its memory format.

        training: shuffled, augmented, without the last incomplete batch (see `steps_per_epoch`). Otherwise every image once, in order,
        and seed, epoch, augment and steps play no part.
        steps: those of the epoch; a batch for each, of step.batches * batch_size images, which may come at the step's side already. Each
        image is augmented as it is without steps. InputError unless their batches add up to an epoch's.
        strengths: of each batch's augmentation, in [0, 1]; None is 1 for all.
        ranks: gives this rank's equal part of every training batch, as one process alone would make it; otherwise every `ranks.size`-th
        batch.
        """


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Optimizer steps in one epoch: the last incomplete batch is dropped, unless there would be none left."""
    return max(1, images // batch_size)


def mixed_seed(*parts: int) -> int:
    """One 32-bit seed from several whole numbers, such that neighbours give unrelated random numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class TensorSplit:
    """Split whose images [N, 3, H, W] uint8 and labels [N] int64 live on the device, augmented there a batch at a time, at full side."""

    def __init__(self, images: Tensor, labels: Tensor, preprocessing: Preprocessing) -> None:
        self.images, self.labels = images, labels
        self._normalise = _Normalisation(preprocessing, images.device)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        augment: tuple[str, ...] = (),
        training: bool,
        steps: Sequence[Step] | None = None,
        strengths: Sequence[float] | None = None,
        ranks: Ranks = ALONE,
    ) -> Iterator[Batch]:
        if not training:
            for start, end in _evaluation_bounds(len(self), batch_size, ranks):
                yield self._normalise(self.images[start:end]), self.labels[start:end]
            return
        order = _order(len(self), seed, epoch).to(self.images.device)
        draws = _draws(len(self), seed, epoch).to(self.images.device)
        bounds = _training_bounds(len(self), batch_size, steps, ranks)
        for (start, end), strength in zip(bounds, strengths or [1.0] * len(bounds), strict=True):
            chosen = order[start:end]
            yield self._normalise(augmented(self.images[chosen], augment, draws[start:end], strength)), self.labels[chosen]


class LoaderSplit:
    """Split that worker processes decode as it is used: random resized crops for training with `crop`, else resize and centre crop.

    The images of a reduced step are decoded at its side (see `trainers.decoding`), and flipped and cut out there. One iteration at a time:
    RunError when an earlier one goes on after a later one has begun.
    """

    def __init__(self, files: ImageFiles, preprocessing: Preprocessing, device: torch.device) -> None:
        self._count = len(files.labels)
        self._full_px = preprocessing.side_px
        self._normalise = _Normalisation(preprocessing, device)
        self._device = device
        self._copy = Copier(device)
        self._order = Order()
        self._loader = build_loader(files, preprocessing, self._order, device)
        self._iteration = 0

    def __len__(self) -> int:
        return self._count

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        augment: tuple[str, ...] = (),
        training: bool,
        steps: Sequence[Step] | None = None,
        strengths: Sequence[float] | None = None,
        ranks: Ranks = ALONE,
    ) -> Iterator[Batch]:
        """As every split. The workers begin with the call, so that whoever calls early finds the first batch decoded."""
        if training:
            bounds = _training_bounds(len(self), batch_size, steps, ranks)
            strengths = strengths or [1.0] * len(bounds)
            self._set_training_order(bounds, seed, epoch, "crop" in augment, steps, strengths)
        else:
            bounds = _evaluation_bounds(len(self), batch_size, ranks)
            strengths = [1.0] * len(bounds)
            self._order.set(torch.arange(len(self)), None, [(start, end, self._full_px, 1.0) for start, end in bounds])
        self._iteration += 1
        loaded = self._loaded(iter(self._loader), self._iteration)
        names = tuple(name for name in augment if name != "crop") if training else ()
        # Nothing is drawn where nothing is augmented.
        draws = _draws(len(self), seed, epoch).to(self._device) if names else None
        return self._augmented(loaded, bounds, names, draws, strengths)

    def _set_training_order(
        self, bounds: Bounds, seed: int, epoch: int, crop: bool, steps: Sequence[Step] | None, strengths: Sequence[float]
    ) -> None:
        sides = [self._full_px] * len(bounds) if steps is None else [step.side_px for step in steps]
        batches = [(start, end, side_px, strength) for (start, end), side_px, strength in zip(bounds, sides, strengths, strict=True)]
        self._order.set(_order(len(self), seed, epoch), _crop_seeds(len(self), seed, epoch) if crop else None, batches)

    def _loaded(self, batches: Iterator[list[Tensor] | InputError], iteration: int) -> Iterator[Batch]:
        """Decoded images as uint8 [B, 3, H, W] and labels, on the device."""
        while True:
            if iteration != self._iteration:
                raise RunError("two iterations over the same image files ran at once, end the first before the second")
            batch = next(batches, None)
            if batch is None:
                return
            if isinstance(batch, InputError):
                raise batch
            images, labels = self._copy(*batch)
            yield images.permute(0, 3, 1, 2), labels

    def _augmented(
        self, batches: Iterator[Batch], bounds: Bounds, names: tuple[str, ...], draws: Tensor | None, strengths: Sequence[float]
    ) -> Iterator[Batch]:
        for (images, labels), (start, end), strength in zip(batches, bounds, strengths, strict=True):
            yield self._normalise(images if draws is None else augmented(images, names, draws[start:end], strength)), labels


class _Normalisation:
    """uint8 images -> float32 ones of zero mean and unit deviation a channel."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self._mean = 255 * torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self._std = 255 * torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
        # One format whatever the augmentation leaves: another would change a step's time, and have compiled networks compiled anew.

    def __call__(self, images: Tensor) -> Tensor:
        return images.to(torch.float32, memory_format=IMAGE_FORMAT).sub_(self._mean).div_(self._std)


def _training_bounds(images: int, batch_size: int, steps: Sequence[Step] | None, ranks: Ranks) -> Bounds:
    """[start, end) of this rank's part of each training batch in the epoch's order."""
    count = steps_per_epoch(images, batch_size)
    batches = [1] * count if steps is None else [step.batches for step in steps]
    if sum(batches) != count:
        raise InputError(f"the steps take {sum(batches)} batches of {batch_size} images, but an epoch of {images} images has {count}")
    ends = itertools.accumulate(batches, initial=0)
    # One batch may be larger than the whole split.
    return [ranks.part(start, end) for start, end in itertools.pairwise(min(images, end * batch_size) for end in ends)]


def _evaluation_bounds(images: int, batch_size: int, ranks: Ranks) -> Bounds:
    """[start, end) of each batch that this rank evaluates."""
    starts = range(ranks.rank * batch_size, images, ranks.size * batch_size)
    return [(start, min(images, start + batch_size)) for start in starts]


def _order(count: int, seed: int, epoch: int) -> Tensor:
    """Always drawn on the CPU, so that the order is the same on every device."""
    return torch.randperm(count, generator=_generator(seed, epoch, _ORDER))


def _draws(count: int, seed: int, epoch: int) -> Tensor:
    """What augments the epoch's images: [count, DRAWS], a row for each place in its order, whatever the batches."""
    return torch.rand(count, DRAWS, generator=_generator(seed, epoch, _AUGMENTATION))


def _crop_seeds(count: int, seed: int, epoch: int) -> Tensor:
    """A seed for each place in the epoch's order, so that crops depend neither on the workers nor on the batches."""
    return torch.randint(2**32, (count,), generator=_generator(seed, epoch, _CROPS))


def _generator(*parts: int) -> torch.Generator:
    return torch.Generator().manual_seed(mixed_seed(*parts))
