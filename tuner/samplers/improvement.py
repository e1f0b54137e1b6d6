"""Expected gain in hypervolume of a candidate whose time is known and whose accuracy is a normal distribution, in closed form.

With the reference (T, A) and the best accuracy F(t) >= A that the front has at time t or less, a new point of time c and accuracy a adds

    the integral over t from c to T of max(0, a - F(t)).

F is a step function, so that is a sum over its pieces of length w_j and level F_j: piecewise linear in a. The expectation over
a ~ N(mean, deviation^2) is therefore a sum of expected improvements,

    sum_j w_j * deviation * (z_j * Phi(z_j) + phi(z_j)),  z_j = (mean - F_j) / deviation.

The two-dimensional expected hypervolume improvement of Emmerich et al. (2011) has two uncertain objectives; here one of them is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FrontSteps:
    """F as a step function: level levels[j] on times [starts[j], starts[j + 1]), the last piece up to reference_time.

    The first piece is the reference accuracy, from minus infinity on. places: indices of the points that the others are of.
    """

    starts: Floats
    levels: Floats
    places: NDArray[np.intp]
    reference_time: float

    @classmethod
    def of(cls, times: Floats, accuracies: Floats, reference: tuple[float, float]) -> FrontSteps:
        """From any points, dominated ones too. reference: time and accuracy; a point that doesn't beat both counts for nothing."""
        reference_time, reference_accuracy = reference
        order = np.lexsort((-accuracies, times))
        times, accuracies = times[order], accuracies[order]
        best = np.maximum.accumulate(np.append(reference_accuracy, accuracies))
        rises = (best[1:] > best[:-1]) & (times < reference_time)
        return cls(np.append(-np.inf, times[rises]), np.append(reference_accuracy, best[1:][rises]), order[rises], reference_time)

    def hypervolume(self) -> float:
        """Area between the front and the reference."""
        ends = np.append(self.starts[1:], self.reference_time)
        return float(((ends - self.starts)[1:] * (self.levels - self.levels[0])[1:]).sum())

    def expected_gain(self, times: Floats, means: Floats, deviations: Floats) -> Floats:
        """Expected gain in hypervolume of each candidate, shape (n,). deviations: of the accuracy, above 0."""
        ends = np.append(self.starts[1:], self.reference_time)
        lengths = np.clip(ends - np.maximum(self.starts, times[:, None]), 0.0, None)
        z = (means[:, None] - self.levels) / deviations[:, None]
        improvement = z * ndtr(z) + np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return np.asarray((lengths * improvement).sum(axis=1) * deviations)
