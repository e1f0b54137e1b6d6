"""The samplers that a study file may name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from studies.space import SearchSpace, canonical_params
from studies.spec import StudySpec
from tuner.distributions import distributions
from tuner.records import expected_accuracy


def build_sampler(spec: StudySpec, cost: Callable[[Mapping[str, Any]], float], launch_number: int) -> BaseSampler:
    """The sampler that a study names, proposing canonical points only.

    cost: relative time of a point, known before it is trained. launch_number: mixed into the seed, because the sampler of the next
    launch, or of another driver now, would repeat the same draws.
    """
    if spec.sampler == "known_cost":
        # Only this one needs scipy and Optuna's Gaussian process, which take a while to load.
        from tuner.samplers.known_cost import KnownCostSampler

        # Canonical by itself; a trial's number is part of its draws, so that another launch needs no other seed.
        return KnownCostSampler(spec.search, cost, spec.seed, spec.objectives, guess=expected_accuracy)
    with warnings.catch_warnings():
        # Optuna calls QMC experimental, which is no news to who asked for it by name.
        warnings.simplefilter("ignore", ExperimentalWarning)
        # NumPy takes no seed of more than 32 bits.
        return CanonicalSampler(_base_sampler(spec.sampler, spec.seed, (spec.seed * 1_000_003 + launch_number) % 2**32), spec.search)


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


def chosen_params(study: Study, trial: FrozenTrial, distributions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """What the study's sampler proposes for a trial, fixed parameters as they are; as `optuna.Trial` asks it, but nothing is written."""
    study.sampler.before_trial(study, trial)
    joint = study.sampler.infer_relative_search_space(study, trial)
    decided = study.sampler.sample_relative(study, trial, joint) | trial.system_attrs.get("fixed_params", {})
    for name, distribution in distributions.items():
        if name not in decided:
            decided[name] = study.sampler.sample_independent(study, trial, name, distribution)
    return {name: decided[name] for name in distributions}


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
