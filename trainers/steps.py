"""One training step on one batch: loss, gradients (in micro-batches where asked for), optimizer; compiled where asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from trainers.config import TrainConfig

# torch.compile's default mode. Its CUDA graphs (`reduce-overhead`) keep gradients and losses in memory that the next replay overwrites,
# which gradient accumulation and the losses of an epoch don't survive.
BACKEND: Final[str | Callable[..., Any]] = "inductor"


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    config: TrainConfig,
    before_update: Callable[[], None] = lambda: None,
) -> Tensor:
    """Forward, backward and optimizer on one batch, in whatever kind of step the network is in. Returns the mean loss, detached.

    before_update: called when the gradients are complete.
    """
    loss = add_gradients(model, images, labels, config)
    before_update()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


def add_gradients(model: nn.Module, images: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    """Adds the gradients of the batch's mean loss to the network's; returns that loss, detached.

    In config.accumulate micro-batches, equal but for the last, which may be smaller; each weighs as many images as it has. Batch norm
    sees the statistics of each micro-batch instead of the batch's, everything else is the same but for rounding.
    """
    if config.accumulate == 1:
        loss = _mean_loss(model, images, labels, config)
        loss.backward()
        return loss.detach()
    micro_images = -(-len(images) // config.accumulate)
    *earlier, last = zip(images.split(micro_images), labels.split(micro_images), strict=True)
    with _ranks_apart(model):
        shares = [_add_share(model, *micro, len(images), config) for micro in earlier]
    return torch.stack([*shares, _add_share(model, *last, len(images), config)]).sum()


def _add_share(model: nn.Module, images: Tensor, labels: Tensor, batch_images: int, config: TrainConfig) -> Tensor:
    """One micro-batch's share of the batch's mean loss, its gradients added."""
    loss = _mean_loss(model, images, labels, config) * (len(images) / batch_images)
    loss.backward()
    return loss.detach()


def _ranks_apart(model: nn.Module) -> AbstractContextManager[Any]:
    """Inside, the gradients of several ranks only add up in each; the next backward pass outside averages all of them."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def _mean_loss(model: nn.Module, images: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    function = _compiled_loss(BACKEND) if config.compile else _loss
    with _autocast(config, images):
        return function(model, images, labels, config.label_smoothing)


def _autocast(config: TrainConfig, images: Tensor) -> AbstractContextManager[Any]:
    # bf16 is for the GPU: on most processors it is slower than fp32, and it would change results without a gain.
    return torch.autocast("cuda", torch.bfloat16) if config.precision == "bf16" and images.is_cuda else nullcontext()


def _loss(model: nn.Module, images: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    return F.cross_entropy(model(images), labels, label_smoothing=label_smoothing)


@functools.lru_cache
def _compiled_loss(backend: str | Callable[..., Any]) -> Callable[..., Tensor]:
    """One for the process, because a graph also serves the next network of the same structure: the next trial compiles nothing."""
    return torch.compile(_loss, dynamic=False, backend=backend)
