"""Samplers of Optuna's on our space, in which some points are the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from studies.space import SearchSpace, canonical_params
from tuner.storage.distributions import distributions


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
