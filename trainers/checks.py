"""Rules that single fields of schedules and training configurations must obey; each breach is one InputError sentence."""

from __future__ import annotations

import math
from typing import Final

from trainers.errors import InputError, nearest_name
from trainers.wording import shown

# JSON readers and Optuna's tables keep numbers as floats, which are exact for whole numbers up to here.
MAX_WHOLE: Final = 2**53


def check_name(what: str, value: object, names: tuple[str, ...]) -> None:
    """`value` must be one of `names`."""
    if not isinstance(value, str) or value not in names:
        nearest = nearest_name(value if isinstance(value, str) else shown(value), names)
        raise InputError(f"{what} is {shown(value)}, it must be one of {', '.join(names)}{nearest}")


def check_integer(what: str, value: object, *, lowest: int, highest: int = MAX_WHOLE) -> None:
    """`value` must be a whole number in [lowest, highest]. A bool is an int to Python, but `epochs: yes` in a file is a mistake."""
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        above = isinstance(value, int) and value > highest
        end = f" and at most {highest}" if above or highest != MAX_WHOLE else ""
        raise InputError(f"{what} is {shown(value)}, it must be a whole number of at least {lowest}{end}")


def check_number(what: str, value: object, *, above: float | None = None, low: float = 0.0, high: float = math.inf) -> None:
    """`value` must be a finite number in [low, high], or above `above` where that is given."""
    number = _finite(value)
    if number is None or not low <= number <= high or (above is not None and number <= above):
        rule = f"above {above:g}" if above is not None else f"of at least {low:g}"
        rule += f" and at most {high:g}" if high < math.inf else ""
        raise InputError(f"{what} is {shown(value)}, it must be a finite number {rule}")


def check_flag(what: str, value: object) -> None:
    """`value` must be true or false."""
    if not isinstance(value, bool):
        raise InputError(f"{what} is {shown(value)}, it must be true or false")


def _finite(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond the largest float
        return None
