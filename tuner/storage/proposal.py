"""What a study's sampler proposes for a trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial


def chosen_params(study: Study, trial: FrozenTrial, distributions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """What the study's sampler proposes for a trial, fixed parameters as they are; as `optuna.Trial` asks it, but nothing is written."""
    study.sampler.before_trial(study, trial)
    joint = study.sampler.infer_relative_search_space(study, trial)
    decided = study.sampler.sample_relative(study, trial, joint) | trial.system_attrs.get("fixed_params", {})
    for name, distribution in distributions.items():
        if name not in decided:
            decided[name] = study.sampler.sample_independent(study, trial, name, distribution)
    return {name: decided[name] for name in distributions}
