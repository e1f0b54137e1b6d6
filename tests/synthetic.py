"""A search problem without training: made-up accuracies of realistic shape and size, exact times, and searches in simulated time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna._hypervolume import compute_hypervolume
from optuna.samplers import BaseSampler

from studies.space import canonical_params
from studies.spec import StudySpec
from trainers.schedule import Step
from tuner.launching.proposals import Ledger, Proposal, SearchProposer
from tuner.samplers.plan_cost import PlanCost
from tuner.storage.distributions import distributions

STEPS_PER_EPOCH = 40
REFERENCE = (1.1, 0.4)

SPEC = StudySpec.from_json_dict(
    {
        "name": "synthetic",
        "dataset": {"name": "digits"},
        "model": "cifar_resnet8",
        "training": {"epochs": 12, "lr": 0.2, "weight_decay": 5e-4},
        "search": {
            "frequency": {"low": 0.0, "high": 1.0, "step": 0.05},
            "policy": ["deterministic", "stochastic"],
            "scale": {"low": 0.375, "high": 0.875, "step": 0.125},
            "kernel": ["full", "pooled"],
            "batch_norm": ["shared", "separate"],
            "window_start": {"low": 0.0, "high": 0.5, "step": 0.05},
            "window_length": {"low": 0.3, "high": 1.0, "step": 0.05},
            "growth": ["constant", "linear"],
            "epochs": {"low": 4, "high": 18},
            "lr": {"low": 0.05, "high": 0.8, "log": True},
            "weight_decay": {"low": 1e-4, "high": 2e-3, "log": True},
        },
    }
)


def plan_cost(spec: StudySpec = SPEC) -> PlanCost:
    """Prices by pixels, a little more for small steps, a tenth less with pooled kernels."""
    costs = {Step(32, "full"): 1.0}
    for side_px in range(4, 32, 4):
        price = 0.03 + 0.97 * (side_px / 32) ** 2
        costs |= {Step(side_px, "full"): price, Step(side_px, "pooled"): 0.9 * price}
    return PlanCost(spec.search, costs, STEPS_PER_EPOCH, spec.training.epochs * STEPS_PER_EPOCH)


def true_accuracy(params: dict[str, Any]) -> float:
    """Mean over seeds: it saturates with the epochs that the steps are worth, and falls with what schedules do wrong.

    Constants roughly as ResNet-8 has them on 5,000 images of CIFAR-10 (docs/LOG.md).
    """
    start, frequency, scale = params["window_start"], params["frequency"], params["scale"]
    length = min(params["window_length"], 1 - start)
    share, closing = frequency * length, 1 - start - length
    loss_of_step = 1 - scale**0.47
    harm = 2 * (1 - scale)
    if params["growth"] == "linear":
        loss_of_step, harm = 0.5 * loss_of_step, 0.2 * harm
    accuracy = 0.72 - 0.911 * (params["epochs"] * (1 - share * loss_of_step)) ** -0.79
    accuracy -= 0.04 * math.log(params["lr"] / 0.25) ** 2 + 0.006 * math.log(params["weight_decay"] / 5e-4) ** 2
    if params["lr"] > 0.6:
        accuracy -= 0.25
    if share > 0:
        accuracy -= harm * frequency * 0.055 * math.exp(-closing / 0.35)
        accuracy -= harm * 0.035 * 4 * frequency * (1 - frequency) * length
        accuracy -= 0.075 * share * (params["kernel"] == "pooled")
        accuracy -= 0.1 * math.exp(-closing / 0.03) * harm * (params["batch_norm"] == "shared")
        accuracy -= 0.004 * (params["policy"] == "stochastic")
    return max(0.1, accuracy)


class Searched(NamedTuple):
    """What a search has found after a time. hypervolume: of noise-free accuracies."""

    time: float
    hypervolume: float


def search(sampler: BaseSampler, seed: int, *, budget: float, workers: int = 1, noise: float = 0.012) -> list[Searched]:
    """Runs a search as a launch does, rivals first, until its trainings have taken `budget` times the baseline's; a line a trial."""
    return SimulatedSearch(sampler, true_accuracy, seed, noise).run(budget, workers)


def hypervolume(points: list[tuple[float, float]]) -> float:
    """Of times and accuracies, by Optuna's own code, which minimizes and takes no points beyond the reference."""
    corner = np.array([REFERENCE[0], -REFERENCE[1]])
    rows = np.array(points).reshape(-1, 2) * (1, -1)
    return float(compute_hypervolume(rows[(rows < corner).all(axis=1)], corner))


class SimulatedSearch:
    """A study in memory, whose trials take the time that their plan costs."""

    def __init__(self, sampler: BaseSampler, accuracy: Callable[[dict[str, Any]], float], seed: int, noise: float) -> None:
        self.study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
        self._accuracy, self._noise = accuracy, noise
        self._rng = np.random.default_rng(seed)
        self._cost = plan_cost()
        self._proposer, self._ledger = SearchProposer(SPEC), Ledger()

    def run(self, budget: float, workers: int) -> list[Searched]:
        running: list[tuple[float, int, Any]] = []
        spent, clock, points, found = 0.0, 0.0, [], []
        while spent < budget or running:
            while spent < budget and len(running) < workers:
                trial = self._ask()
                duration = self._cost(trial.params)
                spent += duration
                heapq.heappush(running, (clock + duration, trial.number, trial))
            clock, _, trial = heapq.heappop(running)
            time, mean = self._cost(trial.params), self._accuracy(trial.params)
            self.study.tell(trial, [time, mean + self._noise * self._rng.standard_normal()])
            points.append((time, mean))
            found.append(Searched(clock * workers, hypervolume(points)))
        return found

    def _ask(self) -> optuna.Trial:
        proposal = self._proposer.propose(self._ledger)
        if proposal.fixed:
            self.study.enqueue_trial(proposal.fixed)
        trial = self.study.ask(distributions(SPEC.search))
        assert trial.params == canonical_params(SPEC.search, trial.params)
        self._ledger.add(trial.number, Proposal(trial.params, proposal.rival))
        return trial
