"""The search space in Optuna's terms, and the samplers that propose from it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from studies.space import Choice, Range, SearchSpace, canonical_params


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Every field that has a choice, in the space's order (frequency first). Fixed fields are no parameters."""
    return {name: _distribution(domain) for name, domain in space.searched.items()}


def build_sampler(name: str, space: SearchSpace, *, seed: int, launch_number: int) -> BaseSampler:
    """The sampler that a study file names, proposing canonical points only.

    launch_number: mixed into the seed, because the sampler of the next launch, or of another driver now, would repeat the same draws.
    """
    with warnings.catch_warnings():
        # Optuna calls QMC experimental, which is no news to who asked for it by name.
        warnings.simplefilter("ignore", ExperimentalWarning)
        # NumPy takes no seed of more than 32 bits.
        return CanonicalSampler(_base_sampler(name, seed, (seed * 1_000_003 + launch_number) % 2**32), space)


def _base_sampler(name: str, study_seed: int, launch_seed: int) -> BaseSampler:
    match name:
        case "tpe":
            return optuna.samplers.TPESampler(seed=launch_seed)
        case "nsga2":
            return optuna.samplers.NSGAIISampler(seed=launch_seed)
        case "gp":
            return optuna.samplers.GPSampler(seed=launch_seed)
        case "qmc":
            # Its place in the sequence is kept in the study, so here the same seed is what continues.
            return optuna.samplers.QMCSampler(seed=study_seed, warn_independent_sampling=False)
        case _:
            return optuna.samplers.RandomSampler(seed=launch_seed)


def _distribution(domain: Choice | Range) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if isinstance(domain.low, int) and isinstance(domain.high, int) and isinstance(domain.step, int | None):
        return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step or 1)
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


class CanonicalSampler(BaseSampler):
    """Lets another sampler propose all fields at once, and puts meaningless ones at their canonical value.

    A field that were left out where nothing is reduced would drop out of the joint space of GP, NSGA-II and QMC for good, and one that
    kept its random value would teach them noise. Independent sampling would come too late: what is meaningless shows in the whole point.
    """

    def __init__(self, inner: BaseSampler, space: SearchSpace) -> None:
        self._inner = inner
        self._space = space

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return distributions(self._space)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        joint = self._inner.infer_relative_search_space(study, trial)
        proposed = self._inner.sample_relative(study, trial, joint)
        for name, distribution in search_space.items():
            if name not in proposed:
                proposed[name] = self._inner.sample_independent(study, trial, name, distribution)
        return canonical_params(self._space, proposed | trial.system_attrs.get("fixed_params", {}))

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._inner.reseed_rng()
