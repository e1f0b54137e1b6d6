"""Periodic weight sampling: a training is judged by an average of the weights that it passes through (PSWA, PWALKS, PSWM).

Tripathi et al. 2019, arXiv 1905.05774; weight_sampling.md beside this file says what of it is published and what is our own choice.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from trainers.methods.method import Method, TrainingParts
from trainers.methods.settings import WeightSampling

Weights = list[Tensor]

# Statistics come from this share of the training images, but from at least and at most so many. Our own choice: a twentieth costs 1.7 % of
# an epoch of full steps, a forward pass being a third of a step.
STATISTICS_FRAC: Final = 0.05
FEWEST_IMAGES: Final = 512
MOST_IMAGES: Final = 8192

_add_to_mean = get_swa_multi_avg_fn()


def weights_of(model: nn.Module) -> Weights:
    """The network's own parameters, detached: what is written into them changes the network."""
    return [parameter.detach() for parameter in model.parameters() if parameter.is_floating_point()]


@torch.no_grad()
def copy_weights(target: Weights, source: Weights) -> None:
    """Writes `source` into `target`, tensor by tensor."""
    if target:
        torch._foreach_copy_(target, source)


class Samples:
    """What is kept of the sampled weights, updated in place.

    PSWA: mean of the samples since `begin_period` was last followed by one. PWALKS: mean of the last K = settings.last samples, all of
    them kept. PSWM: v <- mu v + (1 - mu) sample, from v = the first sample, mu = settings.momentum.
    """

    def __init__(self, settings: WeightSampling) -> None:
        self._settings = settings
        # PWALKS: the samples, oldest first. Otherwise the average alone.
        self._kept: list[Weights] = []
        self.count = 0
        self._period_over = False

    def add(self, weights: Weights) -> None:
        """Takes a sample, which stays the caller's."""
        match self._settings.name:
            case "pwalks":
                self._keep(weights)
            case "pswm" if self._kept:
                get_ema_multi_avg_fn(self._settings.momentum)(self._kept[0], weights, self.count)
                self.count += 1
            case "pswa" if self._kept and not self._period_over:
                _add_to_mean(self._kept[0], weights, self.count)
                self.count += 1
            case _:
                self._kept, self.count = [_copied(weights)], 1
        self._period_over = False

    def begin_period(self) -> None:
        """The next sample is the first of a period; until it comes, the average stays that of the last one."""
        self._period_over = True

    def average(self) -> Weights | None:
        """To be looked at only; None before the first sample."""
        if len(self._kept) <= 1:
            return self._kept[0] if self._kept else None
        mean = _copied(self._kept[0])
        for number, sample in enumerate(self._kept[1:], start=1):
            _add_to_mean(mean, sample, number)
        return mean

    def replace(self, change: Callable[[Weights], Weights]) -> None:
        """Changes everything that is kept."""
        self._kept = [change(weights) for weights in self._kept]

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self._kept, "count": self.count, "period_over": self._period_over}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self._kept = [[tensor.to(device) for tensor in weights] for weights in state["kept"]]
        self.count, self._period_over = state["count"], state["period_over"]

    def _keep(self, weights: Weights) -> None:
        if len(self._kept) < self._settings.last:
            self._kept.append(_copied(weights))
        else:
            oldest = self._kept.pop(0)
            copy_weights(oldest, weights)
            self._kept.append(oldest)
        self.count = len(self._kept)


@torch.no_grad()
def estimate_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Sets the running statistics of every batch norm to their means over the batches (of images), as the network evaluates them.

    As torch.optim.swa_utils.update_bn, but dropout and stochastic depth are off, because evaluation has them off too. Looks at no image
    where the network has no running statistics. Leaves the network in evaluation mode.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    model.eval()
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None  # torch's way to ask for the mean over all batches
    for images in batches:
        model(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()


def statistics_batches(train_images: int, batch_size: int) -> int:
    """How many batches statistics are estimated on: those of STATISTICS_FRAC of the images, rounded up."""
    images = min(max(STATISTICS_FRAC * train_images, FEWEST_IMAGES), MOST_IMAGES)
    return int(-(-images // batch_size))


class WeightSampler(Method):
    """Samples after every `every`-th step, evaluates the average instead of the network, and leaves it as the training's result."""

    def __init__(self, parts: TrainingParts) -> None:
        super().__init__(parts)
        self._settings = parts.config.weight_sampling
        self._samples = Samples(self._settings)
        # Of the network as it was last evaluated; None where that was before the first sample.
        self._evaluated_buffers: list[Tensor] | None = None
        parts.followers.append(self._follow)

    def after_step(self, steps_done: int) -> None:
        if steps_done % self._settings.every == 0:
            self._samples.add(weights_of(self.parts.model))

    def after_epoch(self, epochs_done: int) -> bool:
        if epochs_done % self._settings.period == 0:
            average = self._samples.average()
            if self._settings.write_back and average is not None:
                copy_weights(weights_of(self.parts.model), average)
            self._samples.begin_period()
        return False

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        average = self._samples.average()
        if average is None:
            yield
            return
        model, ranks = self.parts.model, self.parts.ranks
        # As without this method after every epoch.
        ranks.share_buffers(model)
        weights, buffers = weights_of(model), list(model.buffers())
        own_weights, own_buffers = _copied(weights), _copied(buffers)
        copy_weights(weights, average)
        try:
            # Every rank looks at the same images, but GPUs may round differently.
            estimate_statistics(model, self._images())
            ranks.share_buffers(model)
            self._evaluated_buffers = _copied(buffers)
            yield
        finally:
            copy_weights(weights, own_weights)
            copy_weights(buffers, own_buffers)

    def after_training(self) -> None:
        average = self._samples.average()
        if average is not None and self._evaluated_buffers is not None:
            copy_weights(weights_of(self.parts.model), average)
            copy_weights(list(self.parts.model.buffers()), self._evaluated_buffers)

    def figures(self) -> dict[str, float]:
        """samples: how many are in the average."""
        return {"samples": self._samples.count}

    def state_dict(self) -> dict[str, Any]:
        return {"samples": self._samples.state_dict(), "evaluated_buffers": self._evaluated_buffers}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        device, buffers = self.parts.device, state["evaluated_buffers"]
        self._samples.load_state_dict(state["samples"], device)
        self._evaluated_buffers = None if buffers is None else [buffer.to(device) for buffer in buffers]
        return False

    def _images(self) -> Iterator[Tensor]:
        """Training images at full side, without augmentation, as they are evaluated: the same ones every time and in every rank."""
        train, config = self.parts.data.train, self.parts.config
        batches = train.batches(config.batch_size, seed=config.seed, augment=(), training=True)
        return (images for images, _ in itertools.islice(batches, statistics_batches(len(train), config.batch_size)))

    def _follow(self, change: Callable[[nn.Module], None]) -> None:
        def changed(weights: Weights) -> Weights:
            network = copy.deepcopy(self.parts.model)
            copy_weights(weights_of(network), weights)
            change(network)
            return weights_of(network)

        self._samples.replace(changed)


@torch.no_grad()
def _copied(tensors: Weights) -> Weights:
    return [tensor.clone() for tensor in tensors]
