"""Points of a space as the accuracy model sees them: what a schedule does to a training, rather than how its fields are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.space import Fixed, SearchSpace
from trainers.schedule import constant_work_batches, round_side

Floats = NDArray[np.float64]


class Features:
    """Maps points to rows of numbers in about [0, 1].

    Every field of a schedule is multiplied by a gate that falls to 0 with the share of steps that it reduces. So all ways to write full
    resolution are one row, a schedule that hardly reduces anything lies beside it, and fields that mean nothing change nothing. The known
    relative time is a feature too. Columns that the space fixes are left out.
    pool, times: points of the space, and their relative times, that show each column's range.
    """

    def __init__(self, space: SearchSpace, pool: Sequence[Mapping[str, Any]], times: Floats) -> None:
        self._fixed = {field: domain.value for field, domain in space.items() if isinstance(domain, Fixed)}
        self._full_px = space.full_px
        raw = self._raw(pool, times)
        self._varies = np.flatnonzero(np.ptp(raw, axis=0) > 0)
        self._low = raw.min(axis=0)[self._varies]
        self._range = np.ptp(raw, axis=0)[self._varies]

    def rows(self, points: Sequence[Mapping[str, Any]], times: Floats) -> Floats:
        """Shape (n, columns). points: may leave out the space's fixed fields. times: their relative times, above 0."""
        return np.asarray((self._raw(points, times)[:, self._varies] - self._low) / self._range)

    def _raw(self, points: Sequence[Mapping[str, Any]], times: Floats) -> Floats:
        frequency, scale, start = (self._numbers(points, field) for field in ("frequency", "scale", "window_start"))
        end = np.minimum(start + self._numbers(points, "window_length"), 1.0)
        share = np.where(scale < 1, frequency * np.maximum(end - start, 0.0), 0.0)
        pooled = self._are(points, "kernel", "pooled")
        gated = [
            1 - scale,
            frequency,
            start,
            end,
            self._are(points, "growth", "linear"),
            self._are(points, "batch_norm", "separate"),
            self._are(points, "policy", "stochastic") * (frequency < 1),
            pooled,
            pooled * self._are(points, "pooled_layers", "largest_maps"),
            pooled * self._are(points, "pooled_layers", "most_saved"),
            self._are(points, "batch_growth", "constant_work") * self._can_grow(points),
        ]
        # Zero weight decay is a value too, and its logarithm none.
        trained = [np.log(np.maximum(self._numbers(points, field), 1e-6)) for field in ("epochs", "lr", "weight_decay")]
        return np.column_stack([np.log(times), *trained, share, *(np.sqrt(share) * column for column in gated)])

    def _values(self, points: Sequence[Mapping[str, Any]], field: str) -> list[Any]:
        if field in self._fixed:
            return [self._fixed[field]] * len(points)
        return [point[field] for point in points]

    def _numbers(self, points: Sequence[Mapping[str, Any]], field: str) -> Floats:
        return np.array(self._values(points, field), dtype=np.float64)

    def _are(self, points: Sequence[Mapping[str, Any]], field: str, name: str) -> Floats:
        return np.array([value == name for value in self._values(points, field)], dtype=np.float64)

    def _can_grow(self, points: Sequence[Mapping[str, Any]]) -> Floats:
        known: dict[tuple[float, int], bool] = {}
        for key in zip(self._values(points, "scale"), self._values(points, "side_multiple"), strict=True):
            if key not in known:
                known[key] = constant_work_batches(round_side(key[0], self._full_px, key[1]), self._full_px) > 1
        keys = zip(self._values(points, "scale"), self._values(points, "side_multiple"), strict=True)
        return np.array([known[key] for key in keys], dtype=np.float64)
