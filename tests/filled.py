"""Small studies for tests, and studies whose trials were told instead of trained."""

from __future__ import annotations

from typing import Any

from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage

from studies.spec import StudySpec
from trainers.cost import CostTable, StepCost, step_name
from trainers.schedule import Step
from tuner.launching.pricing import Pricing
from tuner.launching.proposals import Ledger, Proposal, SearchProposer
from tuner.results.confirmation import FIRST_FRESH_SEED, confirmation_name, confirmed_front, points_to_confirm
from tuner.samplers.canonical import CanonicalSampler
from tuner.samplers.plan_cost import PlanCost
from tuner.storage.distributions import distributions
from tuner.storage.store import StudyStore

TINY: dict[str, Any] = {
    "name": "tiny",
    "dataset": {"name": "digits", "train_images": 160, "val_images": 60},
    "model": "cifar_resnet8",
    "training": {"epochs": 4, "batch_size": 32, "lr": 0.05, "weight_decay": 5e-4},
    "search": {
        "frequency": {"low": 0.0, "high": 1.0, "step": 0.25},
        "policy": ["deterministic", "stochastic"],
        "scale": 0.5,
        "kernel": ["full", "pooled"],
        "batch_norm": ["shared", "separate"],
        "window_length": {"low": 0.5, "high": 1.0, "step": 0.25},
        "epochs": {"low": 2, "high": 4},
        "lr": {"low": 0.01, "high": 0.1, "log": True},
    },
    "sampler": "random",
    "budget": {"trials": 6},
    "resources": {"cpus": 1},
}

STEPS_PER_EPOCH = 5
COSTS = {
    Step(32, "full"): StepCost(1.0, 1.0, 1.0),
    Step(16, "full"): StepCost(0.25, 0.25, 0.25),
    Step(16, "pooled"): StepCost(0.2, 0.2, 0.2),
}


def tiny_spec(**changes: Any) -> StudySpec:
    """The small study with some top-level keys replaced."""
    return StudySpec.from_json_dict({**TINY, **changes})


def pricing(spec: StudySpec) -> Pricing:
    """Made-up round costs: 100 ms a full step, a quarter for half the side, a fifth with pooled kernels."""
    table = CostTable({"device": "a made-up one"}, 100.0, COSTS, 25, 0.0)
    return Pricing(spec.objectives, table, {"a made-up one": table}, spec.training.epochs * STEPS_PER_EPOCH, "0123456789ab")


def plan_cost(spec: StudySpec) -> PlanCost:
    """What points cost by the same prices."""
    relative = {step: cost.relative for step, cost in COSTS.items()}
    return PlanCost(spec.search, relative, STEPS_PER_EPOCH, spec.training.epochs * STEPS_PER_EPOCH)


def record(spec: StudySpec, params: dict[str, Any], seed: int, val_accuracy: float) -> dict[str, Any]:
    """What a worker would report of a training with these parameters."""
    config = spec.train_config(params, seed)
    counts = config.schedule.plan(config.epochs * STEPS_PER_EPOCH, 32).counts()
    return {
        "val_accuracy": val_accuracy,
        "val_loss": 1 - val_accuracy,
        "test_accuracy": None,
        "curve": [val_accuracy * (epoch + 1) / config.epochs for epoch in range(config.epochs)],
        "counts": {step_name(step): count for step, count in counts.items()},
        "seconds": {"train": 2.0, "data": 0.1, "evaluation": 0.2, "checkpoint": 0.01},
        "peak_memory": 512.0,
        "seed": seed,
        "device": "a made-up one",
        "versions": {"torch": "0.0"},
    }


def filled_store(storage: RDBStorage, trials: int, **changes: Any) -> StudyStore:
    """The small study with `trials` completed trials: its rivals first, accuracies made up from epochs and frequency."""
    spec = tiny_spec(**changes)
    store = StudyStore.create_or_continue(storage, spec)
    proposer, ledger, priced = SearchProposer(spec), Ledger(), pricing(spec)
    sampler = CanonicalSampler(RandomSampler(seed=5), spec.search)
    for _ in range(trials):
        proposal = proposer.propose(ledger)
        claimed = store.create_trial(
            fixed=proposal.fixed, distributions=distributions(spec.search), sampler=sampler, rival=proposal.rival, seed=proposal.seed
        )
        ledger.add(claimed.root, Proposal(claimed.params, proposal.rival))
        accuracy = 0.5 + 0.1 * claimed.params["epochs"] - 0.05 * claimed.params["frequency"] - 0.001 * claimed.number
        values, stored = priced.values(record(spec, claimed.params, claimed.number, accuracy), alone=False)
        assert store.complete(claimed.number, values, stored)
    return store


def confirm_filled(store: StudyStore, seeds: int) -> None:
    """What `tuner confirm` would leave behind, told instead of trained: test accuracies of 0.5 and one thousandth more each seed."""
    spec = store.spec.model_copy(update={"name": confirmation_name(store.name)})
    confirmation = StudyStore.create_or_continue(store.storage, spec)
    sampler = CanonicalSampler(RandomSampler(seed=5), spec.search)
    for point in points_to_confirm(confirmed_front(store)):
        fixed = {name: point.params[name] for name in spec.search.searched}
        for seed in range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + seeds):
            claimed = confirmation.create_trial(
                fixed=fixed, distributions=distributions(spec.search), sampler=sampler, rival=point.rival, seed=seed
            )
            told = record(spec, claimed.params, seed, 0.7) | {"test_accuracy": 0.5 + 0.001 * (seed - FIRST_FRESH_SEED)}
            values, stored = pricing(spec).values(told, alone=False)
            assert confirmation.complete(claimed.number, values, stored)
