"""Our sampler without what makes it ours: the relative time of a point is predicted from the trials that have finished.

Everything else stays: features of the schedule, startup, expected gain, its division by time. The time of a finished trial is the one that
it had. Where the prediction is unsure nothing says so, which is kind to the ablation: times are nearly noise-free.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from studies.domains import Choice, Range
from studies.space import SearchSpace
from tuner.results.front import TIME
from tuner.samplers.history import Guess
from tuner.samplers.known_cost import KnownCostSampler
from tuner.storage.distributions import distributions

Floats = NDArray[np.float64]
Params = Mapping[str, Any]

# Finished trials, the start points among them, before times are predicted from more than their mean.
_FEWEST = 5
_GROWTH = 1.1


class LearnedCost:
    """Relative time of a point: what it was where a finished trial had these parameters, else a prediction (Gaussian process, Matern 5/2,
    a length scale each column, on the logarithm)."""

    def __init__(self, space: SearchSpace, trials: Sequence[tuple[Params, float]]) -> None:
        self._domains = space.searched
        self._seen = {self._key(params): time for params, time in trials}
        self._predicted: dict[tuple[Any, ...], float] = {}
        self._model: Any = None
        if len(trials) >= _FEWEST:
            rows = np.array([self._row(params) for params, _ in trials])
            self._model = _fitted(rows, np.log([time for _, time in trials]))

    def __call__(self, params: Params) -> float:
        key = self._key(params)
        if (time := self._seen.get(key)) is not None:
            return time
        if key not in self._predicted:
            self._predicted[key] = self._prediction(params)
        return self._predicted[key]

    def see(self, params: Params, time: float) -> None:
        """Takes the time of one more finished trial; the prediction of others stays."""
        self._seen[self._key(params)] = time

    def _prediction(self, params: Params) -> float:
        return 1.0 if self._model is None else math.exp(float(self._model.predict(np.array([self._row(params)]))[0]))

    def _key(self, params: Params) -> tuple[Any, ...]:
        return tuple(params[field] for field in self._domains)

    def _row(self, params: Params) -> list[float]:
        return [number for field, domain in self._domains.items() for number in _numbers(domain, params[field])]


class LearnedCostSampler(BaseSampler):
    """KnownCostSampler with a LearnedCost, which is fitted again when a tenth more trials have finished, as the sampler's own model is."""

    def __init__(self, space: SearchSpace, seed: int, objectives: Sequence[str], guess: Guess) -> None:
        self._space = space
        self._guess = guess
        self._seed = seed
        self._objectives = tuple(objectives)
        self._read: set[int] = set()
        self._trials: list[tuple[Params, float]] = []
        self._due = 0.0
        self._fit()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return distributions(self._space)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if other.number not in self._read:
                self._read.add(other.number)
                self._trials.append((other.params, other.values[self._objectives.index(TIME)]))
                self._cost.see(*self._trials[-1])
        if len(self._trials) >= self._due:
            self._fit()
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def _fit(self) -> None:
        self._cost = LearnedCost(self._space, self._trials)
        # A proposal depends on the seed, the trial's number and the other trials, so that a new sampler goes on where the old one was.
        self._sampler = KnownCostSampler(self._space, self._cost, self._seed, self._objectives, guess=self._guess)
        self._due = max(_FEWEST, _GROWTH * len(self._trials))


def _numbers(domain: Choice | Range, value: Any) -> list[float]:
    """One column for a number, in [0, 1]; one for each of several names."""
    if isinstance(domain.canonical, str):
        return [float(value == member) for member in domain.members or ()]
    low, high = float(domain.lowest), float(domain.highest)
    if isinstance(domain, Range) and domain.log:
        return [math.log(value / low) / math.log(high / low)]
    return [(value - low) / (high - low)]


def _fitted(rows: Floats, targets: Floats) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    scales = np.ones(rows.shape[1])
    kernel = ConstantKernel() * Matern(scales, (0.05, 100.0), nu=2.5) + WhiteKernel(1e-4, (1e-8, 1e-1))
    with warnings.catch_warnings():
        # A field that doesn't matter for the time has an endless length scale, which is no news.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(rows, targets)
