"""Rules that single fields of schedules and training configurations must obey; each breach is one InputError sentence."""

from __future__ import annotations

import math

from trainers.errors import InputError, nearest_name


def check_name(what: str, value: object, names: tuple[str, ...]) -> None:
    """`value` must be one of `names`."""
    if not isinstance(value, str) or value not in names:
        raise InputError(f"{what} is {value!r}, it must be one of {', '.join(names)}{nearest_name(value, names)}")


def check_integer(what: str, value: object, *, lowest: int) -> None:
    """`value` must be a whole number of at least `lowest`. A bool is an int to Python, but `epochs: yes` in a file is a mistake."""
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise InputError(f"{what} is {value!r}, it must be a whole number of at least {lowest}")


def check_number(what: str, value: object, *, above: float | None = None, low: float = 0.0, high: float = math.inf) -> None:
    """`value` must be a finite number in [low, high], or above `above` where that is given."""
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or not low <= number <= high or (above is not None and number <= above):
        rule = f"above {above:g}" if above is not None else f"of at least {low:g}"
        rule += f" and at most {high:g}" if high < math.inf else ""
        raise InputError(f"{what} is {value!r}, it must be a finite number {rule}")
