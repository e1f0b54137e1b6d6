"""What each kind of step costs, and what a plan therefore costs before it is trained: exact arithmetic on a calibrated table.

Wall time under load says more about the neighbours than about the schedule (arXiv 2209.06018 measured slowdowns of several times), so
steps are timed once, in a quiet window (trainers/calibration.py), and plans are priced. Our own choice. Knows no torch.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final, cast, get_args

from trainers.errors import InputError
from trainers.schedule import Step, StepKernel

# A kind of step is known well enough when its relative cost lies within this share of the figure, with 95 % confidence.
MAX_ERROR_FRAC: Final = 0.03
# Share of the cores that others may use during a calibration. Idle services of an ordinary machine stay below it.
MAX_OTHERS_FRAC: Final = 0.15
_BOOTSTRAPS: Final = 400
_KERNELS: Final = get_args(StepKernel)
_STEP_NAME: Final = re.compile(rf"([1-9][0-9]*)/({'|'.join(_KERNELS)})(?:/([1-9][0-9]*))?")


@dataclass(frozen=True, slots=True)
class StepCost:
    """Cost of one kind of step, however many batches it takes, over a full step of the plain network on one batch, and the ends of its
    95 % interval."""

    relative: float
    low: float
    high: float

    @property
    def error_frac(self) -> float:
        """Half the interval's width, as a share of the cost."""
        return (self.high - self.low) / 2 / self.relative

    @classmethod
    def of(cls, times: Sequence[Sequence[float]], full_times: Sequence[Sequence[float]]) -> StepCost:
        """From the times of one kind and of the full step: those of each build of the network, round by round.

        Disturbance only ever adds time, so the undisturbed cost is the ratio of the means of each one's fastest quarter. Of the
        estimators tried (ratio of medians, median of ratios, quantiles) its figures lay closest together from process to process
        (docs/LOG.md). The interval is a bootstrap over builds: rounds of one build have their memory and their minute in common.
        """
        draw = random.Random(0)
        builds = range(len(times))
        resampled = sorted(_quiet_ratio(times, full_times, draw.choices(builds, k=len(builds))) for _ in range(_BOOTSTRAPS))
        margin = _BOOTSTRAPS // 40
        return cls(_quiet_ratio(times, full_times, builds), resampled[margin], resampled[-1 - margin])


def _quiet_ratio(times: Sequence[Sequence[float]], full_times: Sequence[Sequence[float]], builds: Sequence[int]) -> float:
    quiet, full_quiet = (_quiet_mean([one for build in builds for one in series[build]]) for series in (times, full_times))
    return quiet / full_quiet


def _quiet_mean(times: Sequence[float]) -> float:
    return fmean(sorted(times)[: max(1, len(times) // 4)])


@dataclass(frozen=True, slots=True)
class CostTable:
    """Calibrated costs of the kinds of step of one network on one device.

    conditions: model, sides, batch, precision, device, threads and versions, under which the figures hold. full_ms: median milliseconds of
    a full step (forward, backward, optimizer). others_frac: share of the cores that other processes used meanwhile, None if unknown.
    peak_mib: peak GPU memory of a step of each kind, network and optimizer included; None on a CPU.
    """

    conditions: dict[str, Any]
    full_ms: float
    costs: dict[Step, StepCost]
    rounds: int
    others_frac: float | None
    peak_mib: dict[Step, float] | None = None

    def price(self, counts: Mapping[Step, int]) -> float:
        """Cost of a plan in full steps of the plain network."""
        return sum(count * self.costs[step].relative for step, count in counts.items())

    def seconds(self, counts: Mapping[Step, int]) -> float:
        """Predicted training seconds of a plan on this device, alone."""
        return self.price(counts) * self.full_ms / 1000

    def relative_time(self, counts: Mapping[Step, int], baseline_steps: int) -> float:
        """Cost of a plan over that of `baseline_steps` full steps: exact, equal for equal plans, known before training."""
        return self.price(counts) / baseline_steps

    def reason_to_doubt(self) -> str | None:
        """Why these figures should not be trusted, in words; None if they can be."""
        if self.others_frac is not None and self.others_frac > MAX_OTHERS_FRAC:
            used = f"other processes used {self.others_frac:.0%} of the machine's cores while steps were timed"
            return f"{used} (at most {MAX_OTHERS_FRAC:.0%} may be)"
        step, cost = max(self.costs.items(), key=lambda item: item[1].error_frac)
        if cost.error_frac > MAX_ERROR_FRAC:
            return (
                f"the cost of a {step_name(step)} step is known only to {cost.error_frac:.1%} "
                f"(at most {MAX_ERROR_FRAC:.0%} is asked for) after {self.rounds} rounds"
            )
        return None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; kinds of step become their names."""
        costs = {step_name(step): dataclasses.asdict(cost) for step, cost in sorted(self.costs.items())}
        peaks = None if self.peak_mib is None else {step_name(step): peak for step, peak in sorted(self.peak_mib.items())}
        return {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "costs": costs, "peak_mib": peaks}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CostTable:
        """What `to_dict` gave."""
        costs = {parse_step(name): StepCost(**cost) for name, cost in content["costs"].items()}
        peaks = content.get("peak_mib")
        return cls(**{**content, "costs": costs, "peak_mib": peaks and {parse_step(name): peak for name, peak in peaks.items()}})


def step_name(step: Step) -> str:
    """ "<side>/<kernel>" of one batch, "<side>/<kernel>/<batches>" of several, as cost tables and counts are stored."""
    name = f"{step.side_px}/{step.kernel}"
    return name if step.batches == 1 else f"{name}/{step.batches}"


def parse_step(name: str) -> Step:
    """The step that `step_name` named."""
    match = _STEP_NAME.fullmatch(name)
    if match is None:
        kernels = ", ".join(_KERNELS)
        rule = f"it must be <side in pixels>/<kernel> or <side in pixels>/<kernel>/<batches>, with a kernel of {kernels}"
        raise InputError(f"step kind is '{name}', {rule}")
    side, kernel, batches = match.groups()
    return Step(int(side), cast("StepKernel", kernel), int(batches or 1))
