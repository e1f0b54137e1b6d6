"""How much the same configuration differs from seed to seed: the recorded differences themselves, drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tuner.replay.table import RecordedTraining

Array = NDArray[np.float64]

# Scatter depends on how far a training gets, so it is drawn from so many recorded trainings that get about as far.
_NEIGHBOURS: Final = 24


class SeedNoise:
    """Scatter around the mean curve of a configuration, from those that were recorded with two or more seeds.

    A whole curve's differences are drawn at once: late epochs differ from the mean as early ones do, and far less.
    last_sd: standard deviation of one seed's last accuracy over all those; 0, and no scatter at all, where no configuration has two seeds.
    """

    def __init__(self, groups: Sequence[Sequence[RecordedTraining]]) -> None:
        repeated = [np.array([training.curve for training in group]) for group in groups if len(group) > 1]
        # Differences from a mean of n seeds are smaller than those from the true one, by this factor.
        self._differences = [
            difference * np.sqrt(len(curves) / (len(curves) - 1)) for curves in repeated for difference in curves - curves.mean(axis=0)
        ]
        self._last_means = np.concatenate([np.full(len(curves), curves[:, -1].mean()) for curves in repeated] or [np.empty(0)])
        squares = [difference[-1] ** 2 for difference in self._differences]
        self.last_sd = float(np.sqrt(np.mean(squares))) if squares else 0.0

    def draw(self, mean_curve: Array, seed: int) -> Array:
        """Differences [epochs] of one training with this mean curve; the same seed draws the same ones."""
        if not self._differences:
            return np.zeros(len(mean_curve))
        nearest = np.argsort(np.abs(self._last_means - mean_curve[-1]), kind="stable")[:_NEIGHBOURS]
        drawn = self._differences[int(np.random.default_rng(seed).choice(nearest))]
        return _stretched(drawn, len(mean_curve))


def _stretched(differences: Array, epochs: int) -> Array:
    """By share of the training; never interpolated, because means of neighbours scatter less than either."""
    shares = np.arange(1, epochs + 1) / epochs
    places = np.ceil(shares * len(differences) - 1e-9).astype(int) - 1
    stretched: Array = differences[places]
    return stretched
