"""Optimizer and learning-rate curve of a training: torch's own, with the project's choices."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from trainers.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """SGD with Nesterov momentum, or AdamW. Vectors (biases, batch-norm parameters) are not decayed, as is the field's custom."""
    groups = _parameter_groups(model, config.weight_decay)
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.lr)
    return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


def build_lr_curve(optimizer: Optimizer, config: TrainConfig, total_steps: int) -> LRScheduler:
    """The learning-rate multiplier over progress: torch's one-cycle (momentum left alone) or a cosine down to 0, one value a step."""
    if config.lr_curve == "one_cycle":
        return OneCycleLR(optimizer, max_lr=config.lr, total_steps=total_steps, cycle_momentum=False)
    return CosineAnnealingLR(optimizer, T_max=total_steps)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
