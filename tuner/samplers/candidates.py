"""Points of a search space to choose from: space-filling ones, and neighbours of good ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.stats import qmc

from studies.domains import Choice, Range, Value
from studies.space import SearchSpace

Floats = NDArray[np.float64]
Point = dict[str, Any]

# How far a neighbour moves a field, as a share of its range. Our own choice, wide enough to leave a local optimum.
_STEP_FRAC: Final = 0.15


class Candidates:
    """Draws points of the fields that are not fixed. Not canonical: meaningless fields hold anything.

    fixed: fields with a given value in every point.
    """

    def __init__(self, space: SearchSpace, fixed: Mapping[str, Value]) -> None:
        self._fixed = {field: value for field, value in fixed.items() if field in space.searched}
        self._domains = {field: domain for field, domain in space.searched.items() if field not in self._fixed}

    def filling(self, count: int, rng: Generator) -> list[Point]:
        """Points of a scrambled Sobol sequence; `count` is a power of two."""
        if not self._domains:
            return [dict(self._fixed)]
        shares = qmc.Sobol(len(self._domains), scramble=True, rng=rng).random_base2(count.bit_length() - 1)
        return self._points(
            {field: from_shares(domain, column) for (field, domain), column in zip(self._domains.items(), shares.T, strict=True)}
        )

    def neighbours(self, points: Sequence[Point], count: int, rng: Generator) -> list[Point]:
        """`count` neighbours, each of a point drawn from `points`, with one to three fields changed."""
        if not self._domains or not points:
            return []
        origins = [points[index] for index in rng.integers(len(points), size=count)]
        changed = self._changed(count, rng)
        columns = {}
        for number, (field, domain) in enumerate(self._domains.items()):
            old = [origin[field] for origin in origins]
            new = from_shares(domain, _moved(domain, old, rng))
            columns[field] = [after if change else before for before, after, change in zip(old, new, changed[:, number], strict=True)]
        return self._points(columns)

    def _changed(self, count: int, rng: Generator) -> NDArray[np.bool_]:
        """Which fields change, shape (count, fields)."""
        order = rng.random((count, len(self._domains))).argsort(axis=1).argsort(axis=1)
        return np.asarray(order < rng.integers(1, 4, size=(count, 1)))

    def _points(self, columns: Mapping[str, Sequence[Value]]) -> list[Point]:
        return [self._fixed | dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def from_shares(domain: Choice | Range, shares: Floats) -> list[Value]:
    """The domain's members at each share in [0, 1), evenly over the logarithm where it says so."""
    members = _members(domain)
    if members is None or _is_log(domain):
        low, high = (float(end) for end in (domain.lowest, domain.highest))
        values = low * (high / low) ** shares if _is_log(domain) else low + (high - low) * shares
        clipped = np.clip(values, low, high).tolist()
        return clipped if members is None else [round(value) for value in clipped]
    return [members[index] for index in np.minimum((shares * len(members)).astype(int), len(members) - 1)]


def to_shares(domain: Choice | Range, values: Sequence[Value]) -> Floats:
    """Shares that `from_shares` takes back to the members."""
    members = _members(domain)
    if members is None or _is_log(domain):
        low, high = (float(end) for end in (domain.lowest, domain.highest))
        numbers = np.asarray(values, dtype=np.float64)
        return np.log(numbers / low) / math.log(high / low) if _is_log(domain) else (numbers - low) / (high - low)
    place = {member: index for index, member in enumerate(members)}
    return np.array([(place[value] + 0.5) / len(members) for value in values])


def _moved(domain: Choice | Range, values: Sequence[Value], rng: Generator) -> Floats:
    """Another share near each value's, or anywhere among names, which have no order."""
    if isinstance(domain, Choice) and isinstance(domain.values[0], str):
        return rng.random(len(values))
    moved = to_shares(domain, values) + rng.normal(0.0, _STEP_FRAC, len(values))
    return np.asarray(np.clip(moved, 0.0, 1.0 - 1e-12))


@lru_cache(maxsize=256)
def _members(domain: Choice | Range) -> tuple[Value, ...] | None:
    return domain.members


def _is_log(domain: Choice | Range) -> bool:
    return isinstance(domain, Range) and domain.log
