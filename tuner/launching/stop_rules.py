"""When a study has searched enough: its accelerator time is used, or the front has stopped growing.

Trials and the timeout of a launch are counted by the dispatcher; these two are read off the study's trials, whoever trained them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from studies.rules import OBJECTIVES
from studies.spec import StudySpec
from tuner.results.describe import describe_duration
from tuner.results.front import ACCURACY, REFERENCE, TIME, hypervolume
from tuner.storage.trials import CompletedTrial, PrunedTrial, StudyTrials

# A normal distribution's deviation over its median absolute deviation.
_SD_OVER_MAD = 1.4826


class StopRules:
    """The rules that a study file's `budget` sets, of which there may be none."""

    def __init__(self, spec: StudySpec) -> None:
        self._budget = spec.budget
        self._objectives = {name: OBJECTIVES[name] for name in spec.objectives}
        # On a CPU a trial is one accelerator.
        self._accelerators = spec.resources.gpus or 1

    @property
    def any(self) -> bool:
        """Whether there is a rule to ask."""
        return self._budget.accelerator_time is not None or self._budget.patience is not None

    def reason(self, trials: StudyTrials) -> str | None:
        """Why the search should end, None where it should not."""
        return self._time_is_used(trials) or self._grows_no_more(trials)

    def _time_is_used(self, trials: StudyTrials) -> str | None:
        limit_s = self._budget.accelerator_time_s
        if limit_s is None or (used_s := self._accelerators * accelerator_seconds(trials)) < limit_s:
            return None
        return f"its {self._budget.accelerator_time} of accelerator time are used ({describe_duration(used_s)})"

    def _grows_no_more(self, trials: StudyTrials) -> str | None:
        patience = self._budget.patience
        finished: list[CompletedTrial | PrunedTrial] = sorted([*trials.completed, *trials.pruned], key=lambda trial: trial.number)
        if patience is None or len(finished) <= patience:
            return None
        first = finished[-patience].number
        earlier = [trial for trial in trials.completed if trial.number < first]
        gain = (hypervolume(trials.completed, self._objectives) or 0.0) - (hypervolume(earlier, self._objectives) or 0.0)
        if not earlier or gain > (noise := hypervolume_noise(trials.completed)):
            return None
        return f"the last {patience} trials raised the hypervolume by {gain:.4f}, which is within its noise of {noise:.4f}"


def accelerator_seconds(trials: StudyTrials) -> float:
    """Seconds that finished trials have held their device; failed attempts are not counted, because nobody knows how long they took."""
    finished: list[CompletedTrial | PrunedTrial] = [*trials.completed, *trials.pruned]
    return sum(sum(trial.seconds.values()) for trial in finished)


def hypervolume_noise(completed: Sequence[CompletedTrial]) -> float:
    """How much the hypervolume would rise if every point of the front were lucky by one standard deviation of validation accuracy.

    That deviation is estimated from the change over each training's last epoch, when the learning rate has all but ended: half of its
    variance is that of either epoch. Our own choice; it needs no repeats, and is too small where seeds differ more than epochs do.
    """
    changes = [abs(trial.curve[-1] - trial.curve[-2]) for trial in completed if len(trial.curve) > 1]
    times = [trial.values[TIME] for trial in completed if ACCURACY in trial.values]
    if not changes or not times:
        return 0.0
    deviation = _SD_OVER_MAD * median(changes) / math.sqrt(2)
    return deviation * max(0.0, REFERENCE[TIME] - min(times))
