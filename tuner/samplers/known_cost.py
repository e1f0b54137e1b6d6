"""The sampler that knows what a training will cost: it models accuracy only, and looks for the largest expected gain of the front.

Of the two objectives relative_time follows from the plan, before anything is trained. A proposal is made so:
    until STARTUP_TRIALS are finished: a point that fills the space, each at another time               _startup
    then: model the accuracy of the trials, pending ones believed                                       accuracy_model
          draw candidates, and neighbours of the front and of the best ones; price them exactly         candidates, plan_cost
          propose the one with the largest expected gain in hypervolume over its time                   acquisition, improvement
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from optuna._gp.thread_limiting import limit_threads_in_optimization
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from studies.rules import check_both_known
from studies.space import SearchSpace, canonical_params
from tuner.results.front import ACCURACY, TIME
from tuner.samplers.accuracy_model import AccuracyModel, Kernels
from tuner.samplers.acquisition import Acquisition, Pricing, search
from tuner.samplers.candidates import Candidates, Point
from tuner.samplers.features import Features
from tuner.samplers.history import Guess, History, Known, Trials, informative
from tuner.samplers.improvement import FrontSteps
from tuner.storage.distributions import distributions

Floats = NDArray[np.float64]

# Finished trials, rivals included, before the model decides.
STARTUP_TRIALS: Final = 12
# Gain is weighed against time to this power: an hour is better spent on several cheap trainings than on one with a little more gain.
COST_POWER: Final = 1.0
# Trials that the model sees at most.
MOST_EXACT: Final = 500
# A tenth more time than the baseline, beyond which no schedule is worth anything.
REFERENCE_TIME: Final = 1.1
# The worst accuracy on the front lies above the reference by this share of the front's range, so that it counts too.
_MARGIN_FRAC: Final = 0.1
_POOL: Final = 512
# A start-up proposal is chosen among the points of this share of the pool, those next to the time whose turn it is.
_STARTUP_FRAC: Final = 1 / 16

_logger = logging.getLogger(__name__)


class KnownCostSampler(BaseSampler):
    """Proposes canonical points with the largest expected gain in hypervolume for their known time, on one thread.

    cost: relative time of a point, above 0. objectives: relative_time and val_accuracy, in the study's order. reference: relative time and
    accuracy that bound the hypervolume; None: a tenth more than the baseline's time, and a little below the worst accuracy on the front.
    guess: the accuracy to learn from a trial that was stopped early, None for nothing; such a trial is on no front.
    cost_power: a point's expected gain is divided by its time to this power; 0 asks for the largest gain, whatever it takes.
    A proposal depends on the seed, the trial's number and the other trials. Beyond MOST_EXACT trials the model sees some, and logs it.
    """

    def __init__(
        self,
        space: SearchSpace,
        cost: Callable[[Mapping[str, Any]], float],
        seed: int,
        objectives: Sequence[str] = (TIME, ACCURACY),
        reference: tuple[float, float] | None = None,
        guess: Guess = lambda trial: None,
        cost_power: float = COST_POWER,
    ) -> None:
        check_both_known("sampler", "known_cost", objectives, instead="tpe")
        pool = Candidates(space, {}).filling(_POOL, np.random.default_rng(0))
        self._space = space
        self._seed = seed
        self._reference = reference
        self._cost_power = cost_power
        self._pricing = Pricing(cost, Features(space, pool, np.array([cost(point) for point in pool])))
        self._history = History(space.searched, cost, list(objectives).index(ACCURACY), guess)
        self._kernels = Kernels()
        self._independent = RandomSampler(seed=seed)
        self._logged = 0

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return distributions(self._space)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        rng = np.random.default_rng([self._seed, trial.number])
        with limit_threads_in_optimization():
            return self._proposal(self._history.read(others), trial.system_attrs.get("fixed_params", {}), rng)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _proposal(self, known: Sequence[Known], fixed: Point, rng: Generator) -> Point:
        candidates = Candidates(self._space, fixed)
        tried = self._rows(Trials.of(known))
        if sum(trial.state == TrialState.COMPLETE for trial in known) < STARTUP_TRIALS:
            points, values = self._startup(candidates, tried, rng)
        else:
            acquisition, good = self._judge(known, fixed)
            points, values = search(acquisition, candidates, good, rng)
        return self._best_new(points, values, tried, fixed)

    def _startup(self, candidates: Candidates, tried: Floats, rng: Generator) -> tuple[list[Point], Floats]:
        """Points about the time whose turn it is, valued by their distance from those tried, the others by how far from that time they are.

        tried: rows of features, shape (n, columns).
        """
        points = candidates.filling(_POOL, rng)
        rows, times = self._pricing(points)
        order = np.argsort(times, kind="stable")
        # The space may have longer trainings than any front wants.
        useful = max(1, int((times < REFERENCE_TIME).sum()))
        width = max(1, int(useful * _STARTUP_FRAC))
        first = int(_van_der_corput(len(tried)) * (useful - width + 1))
        turn = order[first : first + width]
        values = np.empty(len(points))
        values[order] = -np.abs(np.arange(len(points)) - (first + width / 2))
        distances = ((rows[turn][:, None] - tried) ** 2).sum(axis=2).min(axis=1, initial=np.inf)
        # Infinitely far from none; any finite distance will do.
        values[turn] = np.minimum(distances, rows.shape[1])
        return points, values

    def _judge(self, known: Sequence[Known], fixed: Point) -> tuple[Acquisition, list[Point]]:
        """What candidates are worth, and the points of the front that they are compared with.

        That front is one of the trials that have the fixed fields too: a full-resolution proposal is to improve the rivals' own front.
        """
        teaching = [trial for trial in known if trial.accuracy is not None]
        pending = [trial for trial in known if trial.state == TrialState.RUNNING]
        seen = [teaching[index] for index in informative(Trials.of(teaching), MOST_EXACT)]
        self._log(len(teaching))
        taught = Trials.of(seen)
        model = AccuracyModel(self._rows(taught), taught.times, taught.accuracies, self._kernels, len(teaching))
        model.believe(self._rows(Trials.of(pending)))
        ahead = Trials.of([*(trial for trial in seen if trial.state == TrialState.COMPLETE), *pending])
        # The expected accuracy, because the best of many noisy ones is most of all lucky.
        means, _ = model.predict(self._rows(ahead), ahead.times)
        reference = self._reference or _reference(ahead.times, means)
        alike = np.flatnonzero([fixed.items() <= point.items() for point in ahead.points])
        front = FrontSteps.of(ahead.times[alike], means[alike], reference)
        return Acquisition(self._pricing, model, front, self._cost_power), [dict(ahead.points[alike[place]]) for place in front.places]

    def _rows(self, trials: Trials) -> Floats:
        return self._pricing.features.rows(trials.points, trials.times)

    def _log(self, count: int) -> None:
        if count > MOST_EXACT and count >= 2 * self._logged:
            self._logged = count
            _logger.info(
                "of %d trials the model of known_cost sees %d: the %d nearest to the front, the others evenly over their times",
                count,
                MOST_EXACT,
                MOST_EXACT // 2,
            )

    def _best_new(self, points: Sequence[Point], values: Floats, tried: Floats, fixed: Point) -> Point:
        """The canonical point of the largest value that keeps the fixed fields and was not tried, unless there is no such point."""
        known = {row.tobytes() for row in _rounded(tried)}
        best = {tuple(points[index].values()): points[index] for index in np.argsort(-values, kind="stable")}
        again: Point | None = None
        for point in best.values():
            canonical = canonical_params(self._space, point)
            if not fixed.items() <= canonical.items():
                continue
            if _rounded(self._pricing([canonical])[0][0]).tobytes() not in known:
                return canonical
            again = again or canonical
        # Fixed fields that are not canonical together are the caller's.
        return again or canonical_params(self._space, points[int(np.argmax(values))])


def _reference(times: Floats, means: Floats) -> tuple[float, float]:
    steps = FrontSteps.of(times, means, (REFERENCE_TIME, -np.inf))
    worst, best = steps.levels[1:].min(initial=np.inf), steps.levels[1:].max(initial=-np.inf)
    if not worst <= best:
        return REFERENCE_TIME, float(means.min())
    return REFERENCE_TIME, float(worst - _MARGIN_FRAC * (best - worst))


def _van_der_corput(number: int) -> float:
    """Element of the base-2 sequence 0, 1/2, 1/4, 3/4, 1/8 ... that halves the largest gaps first."""
    value, unit = 0.0, 0.5
    while number:
        value, unit, number = value + unit * (number % 2), unit / 2, number // 2
    return value


def _rounded(rows: Floats) -> Floats:
    # Plus zero: -0.0 is 0.0, but has other bytes.
    return np.asarray(rows.round(9) + 0.0)
