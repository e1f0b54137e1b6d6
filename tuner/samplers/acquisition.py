"""What a candidate is worth, and the search for the one that is worth most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tuner.samplers.accuracy_model import AccuracyModel
from tuner.samplers.candidates import Candidates, Point
from tuner.samplers.features import Features
from tuner.samplers.improvement import FrontSteps

Floats = NDArray[np.float64]

_FILLING: Final = 512
_NEIGHBOURS: Final = 256
_ROUNDS: Final = 3
_BEST: Final = 16


@dataclass(frozen=True, slots=True)
class Pricing:
    """Points as the model sees them, with their relative times."""

    cost: Callable[[Mapping[str, Any]], float]
    features: Features

    def __call__(self, points: Sequence[Mapping[str, Any]]) -> tuple[Floats, Floats]:
        """Rows of features, shape (n, columns), and times, shape (n,)."""
        times = np.array([self.cost(point) for point in points])
        return self.features.rows(points, times), times


@dataclass(frozen=True, slots=True)
class Acquisition:
    """Expected gain of the front's hypervolume, over the time it takes to the power of `cost_power`."""

    pricing: Pricing
    model: AccuracyModel
    front: FrontSteps
    cost_power: float

    def __call__(self, points: Sequence[Mapping[str, Any]]) -> Floats:
        """Shape (n,)."""
        rows, times = self.pricing(points)
        means, deviations = self.model.predict(rows, times)
        return np.asarray(self.front.expected_gain(times, means, deviations) / times**self.cost_power)


def search(
    acquisition: Callable[[Sequence[Point]], Floats], candidates: Candidates, good: Sequence[Point], rng: Generator
) -> tuple[list[Point], Floats]:
    """Points and their values: space-filling ones, then rounds of neighbours of the best ones so far, at first of `good` ones too."""
    points = candidates.filling(_FILLING, rng)
    values = acquisition(points)
    origins = list(good)
    for _ in range(_ROUNDS):
        best = np.argsort(-values, kind="stable")[:_BEST]
        if not (found := candidates.neighbours([*origins, *(points[index] for index in best)], _NEIGHBOURS, rng)):
            break
        points += found
        values = np.append(values, acquisition(found))
        origins = []
    return points, values
