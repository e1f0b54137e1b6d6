"""Which fields decide an objective: Sobol' indices over the search space, of a random forest that has learned the finished trials.

Variance-based sensitivity: I. M. Sobol', "Global sensitivity indices for nonlinear mathematical models and their Monte Carlo estimates",
Mathematics and Computers in Simulation 55 (2001); estimated as in A. Saltelli et al., Computer Physics Communications 181 (2010), by SciPy.
A forest in the place of the trainings is our own choice; so is to look at schedules with reduced steps only, because at full resolution
the fields of a schedule mean nothing and would look as if they changed little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import sobol_indices, uniform
from sklearn.ensemble import RandomForestRegressor

from studies.space import SearchSpace
from studies.spec import StudySpec
from tuner.samplers.candidates import from_shares, to_shares
from tuner.storage.trials import CompletedTrial

Floats = NDArray[np.float64]
Points = list[dict[str, Any]]

# Our own choices. Of fewer trials a forest learns little but noise; with so many samples another seed moves a share by about 0.02.
FEWEST: Final = 20
_MOST: Final = 500
_SAMPLES: Final = 1024
_TREES: Final = 100
_SEED: Final = 0


class Share(NamedTuple):
    """Of an objective's variance over the space, in [0, 1]. alone: by the field itself. in_all: also together with other fields."""

    alone: float
    in_all: float


class Importance(NamedTuple):
    """shares: of every searched field, the most important first. explained: share of the variance among trials that the forest predicts
    where it has not learned from the trial (out of bag); where it is small, the shares say little.
    """

    shares: dict[str, Share]
    explained: float


def field_importance(spec: StudySpec, completed: Sequence[CompletedTrial]) -> dict[str, Importance]:
    """Objective -> importance, from trials with reduced steps; empty while fewer than FEWEST of them have completed."""
    reduced = [trial for trial in completed if trial.rival is None]
    if len(reduced) < FEWEST:
        return {}
    if len(reduced) > _MOST:
        chosen = np.random.default_rng(_SEED).choice(len(reduced), _MOST, replace=False)
        reduced = [reduced[index] for index in sorted(chosen)]
    points = [trial.params for trial in reduced]
    return {name: _importance(spec.search, points, np.array([trial.values[name] for trial in reduced])) for name in spec.objectives}


def sensitivity(space: SearchSpace, predicted: Callable[[Points], Floats]) -> dict[str, Share]:
    """The indices of a function of points, which hold every searched field; the most important field first."""
    fields = list(space.searched)
    if not fields:
        return {}

    def at(shares: Floats) -> Floats:
        columns = {field: from_shares(space.searched[field], row) for field, row in zip(fields, shares, strict=True)}
        return predicted([dict(zip(fields, values, strict=True)) for values in zip(*columns.values(), strict=True)])[np.newaxis]

    found = sobol_indices(func=at, n=_SAMPLES, dists=[uniform()] * len(fields), rng=np.random.default_rng(_SEED))
    if not np.isfinite(found.total_order).all():  # nothing varies
        return dict.fromkeys(fields, Share(0.0, 0.0))
    alone, in_all = (np.clip(order.ravel(), 0.0, 1.0) for order in (found.first_order, found.total_order))
    shares = {field: Share(float(one), float(max(one, every))) for field, one, every in zip(fields, alone, in_all, strict=True)}
    return dict(sorted(shares.items(), key=lambda item: item[1].in_all, reverse=True))


def _importance(space: SearchSpace, points: Points, values: Floats) -> Importance:
    if np.ptp(values) == 0:
        return Importance(dict.fromkeys(space.searched, Share(0.0, 0.0)), 0.0)
    forest = RandomForestRegressor(_TREES, oob_score=True, random_state=_SEED).fit(_rows(space, points), values)
    shares = sensitivity(space, lambda sampled: np.asarray(forest.predict(_rows(space, sampled))))
    return Importance(shares, max(0.0, float(forest.oob_score_)))


def _rows(space: SearchSpace, points: Points) -> Floats:
    """Shape (n, fields): each field's place in its domain."""
    return np.column_stack([to_shares(domain, [point[field] for point in points]) for field, domain in space.searched.items()])
