"""Who ends weak trials early: a launch and a replay ask the same stopper, after every epoch of every trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tuner.trials import UnmeasuredTrial

__all__ = ["Stopper"]


class Stopper(Protocol):
    """Decides whether a trial goes on. A trial that it stops is PRUNED: a censored observation, never a point of the front."""

    def decide(self, trial: UnmeasuredTrial, epoch: int, curve: Sequence[float], times: Sequence[float]) -> bool:
        """Whether the trial should end now. Asked after its last epoch, too, where the answer changes nothing: so it learns of results.

        epoch: epochs done, from 1. curve: validation accuracy after each of those [epoch], shares in [0, 1].
        times: relative time after each epoch of the whole training [epochs], known beforehand; the last one is the trial's relative_time.
        """
        ...
