"""What one field of a search may be: a fixed value, a list of values, or a range. Exact decimals, so that 0.1 + 2 * 0.1 is 0.3."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from studies.sentences import shown, unknown_key
from trainers.checks import check_number
from trainers.errors import InputError

# A name (policy, kernel ...), a whole number (epochs, side_multiple) or a number (the rest).
Value = Any
# Returns a member of the domain as it is kept, or raises InputError with the key given.
Rule = Callable[[str, object], Value]

_RANGE_KEYS = ("low", "high", "log", "step")
# Our own choice: the members of a range with a step are listed at every launch.
_MOST_STEPS: Final = 10_000


class _Listed:
    """A domain whose members are listed."""

    __slots__ = ()

    @property
    def members(self) -> tuple[Value, ...]:
        """All members, in the order of the study file."""
        raise NotImplementedError

    @property
    def canonical(self) -> Value:
        """The one member that stands for all where the field means nothing."""
        return self.members[0]

    @property
    def lowest(self) -> Value:
        """Smallest member of a numeric domain."""
        return min(self.members)

    @property
    def highest(self) -> Value:
        """Largest member of a numeric domain."""
        return max(self.members)

    def contains(self, value: Value) -> bool:
        """Whether `value` is a member."""
        return value in self.members

    def nearest(self, value: float) -> Value:
        """The member of a numeric domain nearest to `value`, the smaller one of two."""
        return min(self.members, key=lambda member: (abs(member - value), member))


@dataclass(frozen=True, slots=True)
class Fixed(_Listed):
    """One value. The field is no parameter of a trial, because there is nothing to choose."""

    value: Value

    @property
    def members(self) -> tuple[Value, ...]:
        """The one value."""
        return (self.value,)

    def to_json(self) -> Value:
        """As a study file writes it."""
        return self.value


@dataclass(frozen=True, slots=True)
class Choice(_Listed):
    """Two or more different values."""

    values: tuple[Value, ...]

    @property
    def members(self) -> tuple[Value, ...]:
        """The values, in the order of the study file."""
        return self.values

    def to_json(self) -> Value:
        """As a study file writes it."""
        return list(self.values)


@dataclass(frozen=True, slots=True)
class Range:
    """All numbers, or every `step`-th one, from `low` to `high`, both included. Whole numbers where `low` is one.

    log: the sampler spreads its choices evenly over the logarithm; only without a step.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def canonical(self) -> Value:
        """The one member that stands for all where the field means nothing."""
        return self.low

    @property
    def lowest(self) -> Value:
        """Smallest member."""
        return self.low

    @property
    def highest(self) -> Value:
        """Largest member."""
        return self.high

    @property
    def is_integer(self) -> bool:
        """Whether the members are whole numbers."""
        return isinstance(self.low, int)

    @property
    def members(self) -> tuple[Value, ...] | None:
        """All members in ascending order, None where they are a continuum."""
        grid = self._grid
        if grid is None:
            return None
        return tuple(self._member(index * grid) for index in range(math.floor((exact(self.high) - exact(self.low)) / grid) + 1))

    def contains(self, value: Value) -> bool:
        """Whether `value` is a member."""
        return isinstance(value, int | float) and self.low <= value <= self.high and self.nearest(value) == value

    def nearest(self, value: float) -> Value:
        """The member nearest to `value`, the smaller one of two."""
        clipped = min(max(value, self.low), self.high)
        grid = self._grid
        if grid is None:
            return float(clipped)
        return self._member(math.ceil((exact(clipped) - exact(self.low)) / grid - Fraction(1, 2)) * grid)

    def to_json(self) -> Value:
        """As a study file writes it."""
        optional = {"log": self.log, "step": self.step}
        return {"low": self.low, "high": self.high} | {name: value for name, value in optional.items() if value}

    @property
    def _grid(self) -> Fraction | None:
        if self.step is not None:
            return exact(self.step)
        return Fraction(1) if self.is_integer else None

    def _member(self, above_low: Fraction) -> Value:
        value = exact(self.low) + above_low
        return int(value) if self.is_integer else float(value)


Domain = Fixed | Choice | Range


def exact(value: float) -> Fraction:
    """The decimal number that was written, not its binary neighbour."""
    return Fraction(str(value))


def parse_domain(key: str, raw: object, rule: Rule) -> Domain:
    """A domain from a fixed value, a list or a mapping of low, high, log, step; InputError where one of them breaks a rule."""
    if isinstance(raw, Mapping):
        return _parse_range(key, raw, rule)
    if isinstance(raw, list | tuple):
        return _parse_choice(key, list(raw), rule)
    return Fixed(rule(key, raw))


def _parse_choice(key: str, raw: list[object], rule: Rule) -> Domain:
    if not raw:
        raise InputError(f"{key} is [], it must list at least one value")
    values = [rule(key, value) for value in raw]
    seen: set[Value] = set()
    for value in values:
        if value in seen:
            raise InputError(f"{key} is {shown(raw)}, it must list {value!r} only once")
        seen.add(value)
    return Choice(tuple(values)) if len(values) > 1 else Fixed(values[0])


def _parse_range(key: str, raw: Mapping[Any, object], rule: Rule) -> Range:
    for name in raw:
        if name not in _RANGE_KEYS:
            raise InputError(unknown_key(key, name, {key: _RANGE_KEYS}))
    for name in ("low", "high"):
        if name not in raw:
            raise InputError(f"{key}.{name} is missing, a range needs low and high")
    low, high = (rule(f"{key}.{name}", raw[name]) for name in ("low", "high"))
    if isinstance(low, str) or isinstance(high, str):
        raise InputError(f"{key} is {shown(dict(raw))}, it must be one name or a list of names, because names have no range")
    if low >= high:
        raise InputError(f"{key}.low is {low!r}, it must be below {key}.high = {high!r}")
    return _with_spacing(key, Range(low, high), raw.get("log", False), raw.get("step"))


def _with_spacing(key: str, plain: Range, log: object, step: object) -> Range:
    if not isinstance(log, bool):
        raise InputError(f"{key}.log is {shown(log)}, it must be true or false")
    if log and plain.low <= 0:
        raise InputError(f"{key}.low is {plain.low!r}, it must be above 0 where log is true")
    if step is None:
        return Range(plain.low, plain.high, log=log)
    if log:
        raise InputError(f"{key}.step is {shown(step)}, it must be left out where log is true")
    return Range(plain.low, plain.high, step=_checked_step(key, plain, step))


def _checked_step(key: str, plain: Range, step: Any) -> float:
    check_number(f"{key}.step", step, above=0)
    if plain.is_integer and not isinstance(step, int):
        raise InputError(f"{key}.step is {step!r}, it must be a whole number like low and high")
    steps = (exact(plain.high) - exact(plain.low)) / exact(step)
    if steps.denominator != 1:
        nearest = float(exact(plain.low) + max(1, round(steps)) * exact(step))
        raise InputError(f"{key}.step is {step!r}, it must divide high - low; the nearest valid high is {nearest:g}")
    if steps > _MOST_STEPS:
        raise InputError(f"{key}.step is {step!r}, it must make at most {_MOST_STEPS} steps from low to high; a range needs none")
    return step if plain.is_integer else float(step)
