"""Points of a space as the accuracy model sees them: what a schedule does to a training, rather than how its fields are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from studies.space import METHOD_FIELDS, Fixed, SearchSpace
from trainers.presets import DRAWN, GROWING, WRITTEN_OUT, PresetName
from trainers.schedule import Schedule, constant_work_batches, round_side

Floats = NDArray[np.float64]

# Batches of the training from which the looks of a preset are read.
_LOOKED_AT: Final = 1000


class Features:
    """Maps points to rows of numbers in about [0, 1].

    Every field of a schedule is multiplied by a gate that falls to 0 with the share of steps that it reduces. So all ways to write full
    resolution are one row, a schedule that hardly reduces anything lies beside it, and fields that mean nothing change nothing. The known
    relative time is a feature too. A preset looks like the schedule that comes nearest to it, with a column of its own beside; so does each
    method that joins a training. Columns that the space fixes are left out.
    pool, times: points of the space, and their relative times, that show each column's range.
    """

    def __init__(self, space: SearchSpace, pool: Sequence[Mapping[str, Any]], times: Floats) -> None:
        self._fixed = {field: domain.value for field, domain in space.items() if isinstance(domain, Fixed)}
        self._full_px = space.full_px
        self._presets = [name for name in space["preset"].members or () if name != "none" and name not in WRITTEN_OUT]
        self._methods = [(field, name) for field in METHOD_FIELDS for name in space[field].members or () if name != "none"]
        raw = self._raw(pool, times)
        self._varies = np.flatnonzero(np.ptp(raw, axis=0) > 0)
        self._low = raw.min(axis=0)[self._varies]
        self._range = np.ptp(raw, axis=0)[self._varies]

    def rows(self, points: Sequence[Mapping[str, Any]], times: Floats) -> Floats:
        """Shape (n, columns). points: may leave out the space's fixed fields. times: their relative times, above 0."""
        return np.asarray((self._raw(points, times)[:, self._varies] - self._low) / self._range)

    def _raw(self, points: Sequence[Mapping[str, Any]], times: Floats) -> Floats:
        points = [self._written(point) for point in points]
        frequency, scale, start = (_numbers(points, field) for field in ("frequency", "scale", "window_start"))
        end = np.minimum(start + _numbers(points, "window_length"), 1.0)
        share = np.where(scale < 1, frequency * np.maximum(end - start, 0.0), 0.0)
        pooled = _are(points, "kernel", "pooled")
        gated = [
            1 - scale,
            frequency,
            start,
            end,
            _are(points, "growth", "linear"),
            _are(points, "batch_norm", "separate"),
            _are(points, "policy", "stochastic") * (frequency < 1),
            pooled,
            pooled * _are(points, "pooled_layers", "largest_maps"),
            pooled * _are(points, "pooled_layers", "most_saved"),
            _are(points, "batch_growth", "constant_work") * self._can_grow(points),
            *(_are(points, "preset", name) for name in self._presets),
        ]
        # Zero weight decay is a value too, and its logarithm none.
        trained = [np.log(np.maximum(_numbers(points, field), 1e-6)) for field in ("epochs", "lr", "weight_decay")]
        methods = [_are(points, field, name) for field, name in self._methods]
        return np.column_stack([np.log(times), *trained, *methods, share, *(np.sqrt(share) * column for column in gated)])

    def _written(self, point: Mapping[str, Any]) -> Mapping[str, Any]:
        """The point without a preset: the fields that come nearest to it in its place."""
        whole = {**self._fixed, **point}
        if whole["preset"] == "none" or whole["frequency"] == 0:
            return whole
        return {**whole, **_looks(whole["preset"], self._full_px, whole["side_multiple"])}

    def _can_grow(self, points: Sequence[Mapping[str, Any]]) -> Floats:
        known: dict[tuple[float, int], bool] = {}
        keys = [(point["scale"], point["side_multiple"]) for point in points]
        for scale, multiple in set(keys):
            known[scale, multiple] = constant_work_batches(round_side(scale, self._full_px, multiple), self._full_px) > 1
        return np.array([known[key] for key in keys], dtype=np.float64)


def _numbers(points: Sequence[Mapping[str, Any]], field: str) -> Floats:
    return np.array([point[field] for point in points], dtype=np.float64)


def _are(points: Sequence[Mapping[str, Any]], field: str, name: str) -> Floats:
    return np.array([point[field] == name for point in points], dtype=np.float64)


@lru_cache(maxsize=256)
def _looks(preset: PresetName, full_px: int, multiple: int) -> Mapping[str, Any]:
    """The schedule of a preset in other fields: those that write it, else the window, share and smallest side of its reduced batches."""
    if preset in WRITTEN_OUT:
        written = Schedule(**WRITTEN_OUT[preset])
        return {field: getattr(written, field) for field in Schedule(preset=preset).meaningless_fields() - {"seed"}}
    batches = Schedule(preset=preset, side_multiple=multiple).batch_by_batch(_LOOKED_AT, full_px)
    places = [place for place, step in enumerate(batches) if step.side_px < full_px]
    sides = [batches[place].side_px for place in places]
    if not places:
        return {"frequency": 0.0}
    window = places[-1] + 1 - places[0]
    return {
        "frequency": len(places) / window,
        "policy": "stochastic" if preset in DRAWN else "deterministic",
        "scale": min(sides) / full_px,
        "kernel": "full",
        "pooled_layers": "all",
        "window_start": places[0] / _LOOKED_AT,
        "window_length": window / _LOOKED_AT,
        "growth": "linear" if sides == sorted(sides) and sides[0] < sides[-1] else "constant",
        "batch_growth": "constant_work" if preset in GROWING else "none",
    }
