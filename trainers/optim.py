"""Optimizer and learning-rate curve of a training: torch's own, with the project's choices."""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from trainers.config import TrainConfig
from trainers.schedule import lr_factor

# Of torch's OneCycleLR: share of the training that warms up, peak over first value, first value over last.
_WARM_UP_FRAC: Final = 0.3
_PEAK_OVER_FIRST: Final = 25.0
_FIRST_OVER_LAST: Final = 1e4


def build_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """SGD with Nesterov momentum, AdamW, or Adam with weight decay as L2 regularisation (in the gradient).

    Vectors (biases, batch-norm parameters) are not decayed, as is the field's custom, unless filter_sparsity.decay_all asks for it.

    Fused: one kernel updates all weights, where the default updates them one by one on a CPU and in a dozen kernels on CUDA.
    """
    groups = _parameter_groups(model, config.weight_decay, config.filter_sparsity.decay_all)
    if config.optimizer != "sgd":
        return (AdamW if config.optimizer == "adamw" else Adam)(groups, lr=config.lr, fused=True)
    optimizer = SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
    if config.momentum > 0:
        # As torch's own first step leaves it; fused SGD can't begin with a weight later than with the others, as networks that skip
        # layers at random need it.
        for parameter in (p for group in groups for p in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def learning_rate(config: TrainConfig, batches_done: int, total_batches: int, batches: int = 1) -> float:
    """The learning rate of a step on `batches` of a training's `total_batches` batches, `batches_done` of which came before.

    The curve's value at that progress (torch's OneCycleLR or CosineAnnealingLR down to 0, in closed form: their `step()` costs more
    than the update of a small network's weights), times the factor for a grown batch (`lr_factor`).
    """
    curve = _one_cycle if config.lr_curve == "one_cycle" else _cosine
    return config.lr * curve(batches_done, total_batches) * lr_factor(batches, config.optimizer)


def set_learning_rate(optimizer: Optimizer, value: float) -> None:
    """Of the next step, for all weights."""
    for group in optimizer.param_groups:
        group["lr"] = value


def _one_cycle(done: int, total: int) -> float:
    peak_at = _WARM_UP_FRAC * total - 1
    first = 1 / _PEAK_OVER_FIRST
    if done <= peak_at:
        return _half_cosine(first, 1.0, done / peak_at)
    return _half_cosine(1.0, first / _FIRST_OVER_LAST, (done - peak_at) / (total - 1 - peak_at))


def _cosine(done: int, total: int) -> float:
    return _half_cosine(1.0, 0.0, done / total)


def _half_cosine(start: float, end: float, frac: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * frac)) / 2


def _parameter_groups(model: nn.Module, weight_decay: float, decay_all: bool) -> list[dict[str, Any]]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": weight_decay if decay_all else 0.0},
    ]
