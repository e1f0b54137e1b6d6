"""The samplers that a study file may name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler

from studies.spec import StudySpec
from tuner.samplers.canonical import CanonicalSampler
from tuner.storage.records import expected_accuracy


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
