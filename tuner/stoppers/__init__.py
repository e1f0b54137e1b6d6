"""Who ends weak trials early: a launch and a replay ask the same stopper while their trials train."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from tuner.storage.trials import CompletedTrial, UnmeasuredTrial

__all__ = ["Stop", "Stopper"]


@dataclasses.dataclass(frozen=True, slots=True)
class Stop:
    """Why a trial ends early. reason: a plain clause for the log. expected: accuracy that the whole training was expected to reach, a
    share; None where the stopper has no idea."""

    reason: str
    expected: float | None

    def record(self, epoch: int) -> dict[str, Any]:
        """What is kept of it with the trial that was stopped after `epoch` epochs."""
        return {"stopped": {"epoch": epoch, **dataclasses.asdict(self)}}


class Stopper(Protocol):
    """Decides whether a trial goes on. A trial that it stops is PRUNED: a censored observation, never a point of the front."""

    def decide(self, trial: UnmeasuredTrial | CompletedTrial, epoch: int, curve: Sequence[float], times: Sequence[float]) -> Stop | None:
        """Why the trial should end now; None where it should go on.

        It is asked after the last epoch, too, where the answer changes nothing: so it learns of results. It may be asked after some epochs
        only, twice, or too late, and it takes whatever values there are without raising.

        epoch: epochs done, from 1. curve: validation accuracy after each of those [epoch], shares in [0, 1].
        times: relative time after each epoch of the whole training [epochs], known beforehand; the last one is the trial's relative_time.
        """
        ...
