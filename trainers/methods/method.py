"""What a method may do at each point of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from trainers.config import TrainConfig
from trainers.data import TrainingData
from trainers.ranks import Ranks


@dataclass(slots=True, kw_only=True)
class TrainingParts:
    """The parts of a training that a method may look at and change. total_steps: optimizer steps of the whole plan.

    followers: of what is kept of the network beside it, such as averaged weights. Whoever changes the network's layers first calls each
    with a function that makes the same change to a copy of the network as it still is.
    """

    config: TrainConfig
    data: TrainingData
    model: nn.Module
    optimizer: torch.optim.Optimizer
    ranks: Ranks
    steps_per_epoch: int
    total_steps: int
    followers: list[Callable[[Callable[[nn.Module], None]], None]] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


class Method:
    """Joins a training; whatever a method has no use for does nothing.

    All ranks of a training have the same method in the same state: what it draws at random must be equal in all of them.
    """

    def __init__(self, parts: TrainingParts) -> None:
        self.parts = parts

    def before_update(self) -> None:
        """The gradients of a step are complete (averaged over ranks), and the weights not yet changed."""

    def after_step(self, steps_done: int) -> None:
        """The weights have been changed. steps_done: optimizer steps of the training, this one included."""

    def after_epoch(self, epochs_done: int) -> bool:
        """The epoch's steps are done, it is not evaluated yet. True where the network's layers or parameters are others now."""
        return False

    def evaluated(self) -> AbstractContextManager[None]:
        """Inside, the network is what the method wants evaluated."""
        return nullcontext()

    def after_training(self) -> None:
        """Makes the network what the training results in. In rank 0 only: nothing can be shared with the others any more."""

    def figures(self) -> dict[str, float]:
        """What there is to say after the epoch that was evaluated last, by name."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs; made of what `torch.load(weights_only=True)` accepts."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Continues where `state_dict()` was taken, before the network and the optimizer do. True as in `after_epoch`."""
        return False
