"""From what a worker measured to what the study keeps: objective values, priced by the calibrated cost table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from trainers.config import TrainConfig
from trainers.cost import CostTable, parse_step
from tuner.results.describe import describe_schedule, describe_share, describe_value
from tuner.storage.trials import CompletedTrial

# A trial that took longer or shorter than was predicted by more than this share is flagged.
MAX_OBSERVED_DEVIATION: Final = 0.10
# Our own choices: loading is named where it takes at least this share of the time beyond the prediction, and so many lines of a launch say
# why a trial took longer.
_LEAST_EXPLAINED_FRAC: Final = 0.5
LINES_IN_FULL: Final = 3


class FirstBaseline:
    """The study's full training, the first one of its completed trials that is; None until there is one. `completed` reads them."""

    def __init__(self, completed: Callable[[], Sequence[CompletedTrial]]) -> None:
        self._completed = completed
        self._found: CompletedTrial | None = None

    def __call__(self) -> CompletedTrial | None:
        # Read once: a study may have 100,000 trials, and a completed one changes no more.
        if self._found is None:
            self._found = next((trial for trial in self._completed() if trial.rival == "baseline"), None)
        return self._found


class HeldUp:
    """The trials of one launch that took longer than was predicted: why, of the first few, and how many there were in all."""

    def __init__(self) -> None:
        self._by_loading = self._by_others = 0

    def words(self, stored: Mapping[str, Any]) -> str | None:
        """What its line is to say of a finished trial. stored: its record as it is stored."""
        # A trial that took less than predicted only had fewer neighbours than the baseline: its note says so, that is enough.
        if (warning := wall_time_warning(stored)) is None or _beyond_prediction(stored) < 0:
            return None
        self._by_loading += _loading_explains(stored)
        self._by_others += not _loading_explains(stored)
        count = self._by_loading + self._by_others
        return None if count > LINES_IN_FULL else f"{warning}; further ones are only counted" if count == LINES_IN_FULL else warning

    def summary(self) -> str | None:
        """How many there were, with the reason; None where all have been told."""
        if (count := self._by_loading + self._by_others) <= LINES_IN_FULL:
            return None
        causes = {"other processes": self._by_others, "loading": self._by_loading}
        why = " and ".join(f"{cause} in {times}" for cause, times in causes.items() if times)
        longer = f"{count} trials took over {MAX_OBSERVED_DEVIATION:.0%} longer than was predicted"
        return f"{longer}, probably because of {why}; their relative times are priced step by step and do not depend on it"


@dataclass(frozen=True, slots=True)
class Pricing:
    """How a study's trials are valued.

    reference: the cost table that relative_time is priced with, the same for all trials of the study. tables: by device, to compare with
    what a trial really took. baseline_steps: optimizer steps of the study's full training. baseline: that training, once it is completed.
    held_up: what `line` has said of trials that took longer than was predicted.
    """

    objectives: tuple[str, ...]
    reference: CostTable
    tables: Mapping[str, CostTable]
    baseline_steps: int
    commit: str
    baseline: Callable[[], CompletedTrial | None] = lambda: None
    held_up: HeldUp = field(default_factory=HeldUp)

    def values(self, record: dict[str, Any], *, alone: bool) -> tuple[dict[str, float], dict[str, Any]]:
        """Objective values of a worker's record, and the record as it is stored."""
        counts = {parse_step(name): count for name, count in record["counts"].items()}
        measured = {
            "relative_time": self.reference.relative_time(counts, self.baseline_steps),
            "train_seconds": record["seconds"]["train"],
            **{name: record[name] for name in ("val_accuracy", "val_loss", "peak_memory")},
        }
        table = self.tables.get(record["device"])
        observed = record["seconds"]["train"] / table.seconds(counts) if table is not None else None
        stored = {
            **{name: record[name] for name in ("curve", "counts", "seconds", "seed", "device", "versions", "test_accuracy")},
            "figures": _of_whole_networks(record),
            "commit": self.commit,
            "metrics": measured,
            "observed_over_calibrated": observed,
            "alone": alone,
            "relative_wall_time": relative_wall_time(record, alone=alone, baseline=self.baseline()),
        }
        values = {name: measured[name] for name in self.objectives}
        return values, stored | {"note": self._note(stored)}

    def line(self, number: int, config: TrainConfig, values: Mapping[str, float], stored: Mapping[str, Any]) -> str:
        """A finished trial in one line. stored: the record as it is stored."""
        shown = ", ".join(f"{name} {describe_value(name, value)}" for name, value in values.items())
        words = [f"{config.epochs} epochs, {describe_schedule(config.schedule.to_dict())}", self.held_up.words(stored)]
        return f"trial {number} finished: {shown}; {'; '.join(word for word in words if word)}"

    def _note(self, stored: Mapping[str, Any]) -> str:
        lines = [f"- {name}: {describe_value(name, value)}" for name, value in stored["metrics"].items()]
        lines += [f"- {part} seconds: {seconds:.2f}" for part, seconds in stored["seconds"].items()]
        lines.append("- steps: " + ", ".join(f"{count} x {name}" for name, count in stored["counts"].items()))
        if (warning := timing_warning(stored["observed_over_calibrated"], alone=stored["alone"])) is not None:
            lines.append(f"- {warning}")
        if (warning := wall_time_warning(stored)) is not None:
            lines.append(f"- {warning}")
        return "\n".join(lines)


def timing_warning(observed_over_calibrated: float | None, *, alone: bool) -> str | None:
    """What to say of a trial whose real training seconds contradict its price; None where they don't, or where neighbours explain it."""
    if not alone or observed_over_calibrated is None or abs(observed_over_calibrated - 1) <= MAX_OBSERVED_DEVIATION:
        return None
    return f"trained alone it took {observed_over_calibrated:.2f} times its calibrated seconds: look into the timing of this machine"


def relative_wall_time(record: Mapping[str, Any], *, alone: bool, baseline: CompletedTrial | None) -> float | None:
    """Seconds of training and loading of a record over those of the study's full training.

    None where that isn't known, or ran on another device, or only one of the two had neighbours, which slow each other down.
    """
    if baseline is None or (baseline.device, baseline.alone) != (record["device"], alone):
        return None
    return _wall_seconds(record["seconds"]) / _wall_seconds(baseline.seconds)


def wall_time_warning(stored: Mapping[str, Any]) -> str | None:
    """What to say of a trial, given its record as it is stored, whose real time contradicts its relative_time; None where it doesn't.

    Loading is not priced: where the loader is the limit, reduced steps save time that nobody gets.
    """
    observed, predicted = stored["relative_wall_time"], stored["metrics"]["relative_time"]
    if observed is None or abs(observed / predicted - 1) <= MAX_OBSERVED_DEVIATION:
        return None
    if observed < predicted:
        why = "probably other processes slowed the baseline down"
    elif _loading_explains(stored):
        why = f"loading takes {describe_share(_loading_frac(stored))} of it"
    else:
        why = "probably other processes slowed it down"
    return f"its wall time relative to the baseline was {describe_share(observed)}, {describe_share(predicted)} was predicted: {why}"


def _beyond_prediction(stored: Mapping[str, Any]) -> float:
    beyond: float = stored["relative_wall_time"] - stored["metrics"]["relative_time"]
    return beyond


def _loading_explains(stored: Mapping[str, Any]) -> bool:
    """Whether loading, which the price leaves out, may explain a good part of what a trial took beyond its price."""
    observed: float = stored["relative_wall_time"]
    return _loading_frac(stored) * observed >= _LEAST_EXPLAINED_FRAC * _beyond_prediction(stored)


def _loading_frac(stored: Mapping[str, Any]) -> float:
    frac: float = stored["seconds"]["data"] / _wall_seconds(stored["seconds"])
    return frac


def _wall_seconds(seconds: Mapping[str, float]) -> float:
    return seconds["train"] + seconds["data"]


def _of_whole_networks(record: Mapping[str, Any]) -> list[dict[str, float]]:
    """Epoch by epoch, what methods said of the whole network, and of single layers too after the last one.

    A layer and epoch of a deep network are thousands of numbers, which every reading of the study would load: they stay in the result
    beside the checkpoints. A result that an earlier version left there has none.
    """
    *before, last = record.get("figures") or [{}]
    whole = [{name: value for name, value in epoch.items() if name.count(".") == 1} for epoch in before]
    return [*whole, last] if last else []
