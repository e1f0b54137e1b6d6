"""Schedules and measurements in the words and units that tables, pictures and notes show."""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any, Final, NamedTuple

from studies.space import METHOD_FIELDS
from trainers.schedule import Schedule, round_side
from tuner.storage.trials import CompletedTrial, PrunedTrial

SCHEDULE_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Schedule) if field.name != "seed")


class Quantity(NamedTuple):
    """How an objective is shown: its name on screen, its unit, and the factor from the stored value to that unit."""

    label: str
    unit: str = ""
    factor: float = 1.0


_QUANTITIES: Final = {
    "relative_time": Quantity("training time", "% of the baseline's", 100.0),
    "val_accuracy": Quantity("validation accuracy", "%", 100.0),
    "train_seconds": Quantity("training time", "s"),
    "val_loss": Quantity("validation loss"),
    "peak_memory": Quantity("peak memory", "MiB"),
}

_POOLED: Final = {
    "all": "pooled kernels",
    "largest_maps": "pooled kernels in the largest maps",
    "most_saved": "pooled kernels where they save most",
}


def quantity(name: str) -> Quantity:
    return _QUANTITIES.get(name, Quantity(name.replace("_", " ")))


def printable(text: str, kept: str = "\n\t") -> str:
    """`text` as a terminal may show it: characters that steer it, or that nobody sees, are written as escapes (\\x1b), but for `kept`."""
    return "".join(char if char.isprintable() or char in kept else char.encode("unicode_escape").decode() for char in text)


def describe_value(name: str, value: float) -> str:
    """An objective's value as shown in tables: `43.1 %` for a relative time of 0.431, `91.20 %` for an accuracy of 0.912."""
    if name == "relative_time":
        return describe_share(value)
    return f"{percent(value, 2)} %" if name == "val_accuracy" else f"{value * quantity(name).factor:.4g} {quantity(name).unit}".strip()


def describe_share(share: float | None) -> str:
    """A share in percent with one decimal, a dash for None."""
    return "-" if share is None else f"{percent(share)} %"


def percent(share: float, digits: int = 1) -> str:
    """A share in percent, without its unit, rounded as the page's script rounds it: one trial has one figure wherever it is shown."""
    if not math.isfinite(share):
        return str(share)
    return str(Decimal(100 * five_digits(share)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def five_digits(value: float) -> float:
    """Five significant digits, more than any figure here is worth: what the page is given."""
    return float(f"{value:.5g}")


def describe_duration(seconds: float) -> str:
    """Seconds in the unit that people would say them in."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def schedule_of(trial: CompletedTrial | PrunedTrial) -> Schedule:
    """The schedule that a trial trained with, its seed included; parameters that are not of the schedule are left out."""
    return _schedule(trial.params, trial.seed or 0)


def describe_schedule(params: Mapping[str, Any], full_px: int | None = None) -> str:
    """A schedule in a few words, as "every 2nd step at 0.5 side, window 0-80 %, pooled kernels"; other parameters are left out.

    full_px: full side of the images in pixels, with which it can be told from where on a growing side is rounded to the full one.
    """
    schedule = _schedule(params, 0)
    if schedule.canonical().frequency == 0:
        return "full resolution"
    if schedule.preset != "none":
        return f"preset {schedule.preset}" + (", separate batch norm" if schedule.batch_norm == "separate" else "")
    words = [_steps(schedule) + _side(schedule), _window(schedule)]
    words.append(_full_from(schedule, full_px) if schedule.growth == "linear" and full_px else "")
    words.append(_POOLED[schedule.pooled_layers] if schedule.kernel == "pooled" else "")
    words.append("separate batch norm" if schedule.batch_norm == "separate" else "")
    words.append("batches grow" if schedule.batch_growth == "constant_work" else "")
    return ", ".join(word for word in words if word)


def describe_training(params: Mapping[str, Any]) -> str:
    """Epochs, learning rate, weight decay and the methods that join, as far as they are among the parameters (of a trial, or of a study's
    training): "12 epochs, lr 0.2, weight decay 0.0005, pswa"."""
    words = []
    if "epochs" in params:
        words.append(f"{printable(str(params['epochs']))} epochs")
    words += [f"{name.replace('_', ' ')} {params[name]:.3g}" for name in ("lr", "weight_decay") if name in params]
    methods = [getattr(params[key], "name", params[key]) for key in METHOD_FIELDS if key in params]
    return ", ".join([*words, *(printable(str(name)) for name in methods if name != "none")])


def _schedule(params: Mapping[str, Any], seed: int) -> Schedule:
    return Schedule(**{name: params[name] for name in SCHEDULE_FIELDS if name in params}, seed=seed)


def _steps(schedule: Schedule) -> str:
    frequency = Fraction(str(schedule.frequency))
    if frequency == 1:
        return "every step"
    if schedule.policy == "stochastic":
        return f"a random {_percent(frequency)} of steps"
    return f"every {_ordinal(frequency.denominator)} step" if frequency.numerator == 1 else f"{_percent(frequency)} of steps, evenly spread"


def _side(schedule: Schedule) -> str:
    return f", side growing from {schedule.scale:.3g}" if schedule.growth == "linear" else f" at {schedule.scale:.3g} side"


def _window(schedule: Schedule) -> str:
    start, end = _ends(schedule)
    return "" if start == 0 and end == 1 else f"window {_percent(start).removesuffix(' %')}-{_percent(end)}"


def _full_from(schedule: Schedule, full_px: int) -> str:
    """Where in the training the steps of a growing side are full ones already, to a thousandth of the window."""
    scale, (start, end) = Fraction(str(schedule.scale)), _ends(schedule)
    sides = [scale + (1 - scale) * Fraction(part, 1000) for part in range(1001)]
    part = bisect_left(sides, full_px, key=lambda side: round_side(side, full_px, schedule.side_multiple))
    return f"rounded to full from {_percent(start + (end - start) * part / 1000)}"


def _ends(schedule: Schedule) -> tuple[Fraction, Fraction]:
    start = Fraction(str(schedule.window_start))
    return start, min(Fraction(1), start + Fraction(str(schedule.window_length)))


def _percent(share: Fraction) -> str:
    return f"{float(100 * share):.3g} %"


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
