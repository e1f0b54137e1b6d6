"""Small recorded tables for tests: one by hand, one of a made-up network whose true curves are known."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np

from studies.domains import Choice, Range
from studies.space import canonical_params
from tuner.replay.table import Table, kind_name, parse_table

# A full epoch takes 0.2 s, the baseline 0.8 s.
HEADER: dict[str, Any] = {
    "table": "hand",
    "model": "cifar_resnet8",
    "dataset": "digits",
    "device": "abacus",
    "cost": {"32/full/1": 100.0, "16/full/1": 25.0, "16/pooled/1": 20.0},
    "baseline": {"epochs": 4, "steps": 8, "lr": 0.1, "weight_decay": 5e-4},
    "space": {
        "frequency": [0.0, 0.5, 1.0],
        "scale": 0.5,
        "kernel": ["full", "pooled"],
        "epochs": {"low": 2, "high": 4},
        "lr": 0.1,
        "weight_decay": 5e-4,
    },
    "reference": [1.1, 0.5],
}
FULL = {"frequency": 0.0, "kernel": "full", "epochs": 4}
SHORT = {"frequency": 0.0, "kernel": "full", "epochs": 2}
SMALL = {"frequency": 1.0, "kernel": "full", "epochs": 4}
MIXED = {"frequency": 0.5, "kernel": "pooled", "epochs": 4}


def line(params: dict[str, Any], seed: int, curve: list[float], **counts: int) -> dict[str, Any]:
    """A training's line; counts by kind, as full32=8."""
    kinds = {"full32": "32/full/1", "full16": "16/full/1", "pooled16": "16/pooled/1"}
    return {"params": params, "seed": seed, "curve": curve, "counts": {kinds[k]: n for k, n in counts.items()}, "train_s": 1.5}


# Seconds by hand: 0.8, 0.8, 0.4, 0.2, 0.48.
LINES = [
    line(FULL, 1, [0.4, 0.6, 0.7, 0.8], full32=8),
    line(FULL, 0, [0.5, 0.6, 0.7, 0.9], full32=8),
    line(SHORT, 2, [0.4, 0.7], full32=4),
    line(SMALL, 3, [0.3, 0.4, 0.5, 0.6], full16=8),
    line(MIXED, 4, [0.5, 0.6, 0.7, 0.85], full32=4, pooled16=4),
]

SPACE: dict[str, Any] = {
    "frequency": {"low": 0.0, "high": 1.0, "step": 0.25},
    "policy": ["deterministic", "stochastic"],
    "scale": {"low": 0.5, "high": 0.75, "step": 0.25},
    "kernel": ["full", "pooled"],
    "batch_norm": ["shared", "separate"],
    "window_start": {"low": 0.0, "high": 0.5, "step": 0.25},
    "window_length": {"low": 0.5, "high": 1.0, "step": 0.25},
    "growth": ["constant", "linear"],
    "epochs": {"low": 2, "high": 6},
    "lr": {"low": 0.02, "high": 0.5, "log": True},
    "weight_decay": {"low": 1e-4, "high": 1e-3, "log": True},
}
SEED_SD = 0.01


def true_curve(table: Table, params: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Mean accuracy after each epoch of the made-up network: it learns from pixels, and best at a learning rate of 0.1."""
    epochs = len(table.plan(params).epochs)
    pixels = np.cumsum([sum((step.side_px / 32) ** 2 for step in steps) for steps in table.plan(params).epochs]) / table.steps_per_epoch
    detour = 0.02 * math.log(params["lr"] / 0.1) ** 2 + 0.03 * (params["kernel"] == "pooled") * params["frequency"]
    return 0.95 - 0.6 * np.exp(-pixels / 2) - detour * np.arange(1, epochs + 1) / epochs


def made_up_table(configurations: int, seed: int = 0) -> Table:
    """A third of the configurations with two seeds, which differ by SEED_SD."""
    return parse_table(made_up_lines(configurations, seed))


def made_up_lines(configurations: int, seed: int = 0) -> list[dict[str, Any]]:
    """The same as its file's lines, the header first."""
    full = {"baseline": {"epochs": 6, "steps": 48, "lr": 0.1, "weight_decay": 5e-4}, "space": SPACE, "table": "made-up"}
    sides = {f"{side}/{kernel}/1": 100.0 * (side / 32) ** 2 for side in (16, 20, 24, 28, 32) for kernel in ("full", "pooled")}
    header = {**HEADER, **full, "cost": sides}
    baseline = {"frequency": 0.0, "epochs": 6, "lr": 0.1, "weight_decay": 5e-4}
    defaults = {field: domain["low"] if isinstance(domain, dict) else domain[0] for field, domain in SPACE.items()}
    placeholder = {"seed": 0, "curve": [0.5] * 6, "counts": {"32/full/1": 48}, "train_s": 1.0}
    empty = parse_table([header, {**placeholder, "params": defaults | baseline}])
    chosen, scatter, lines = random.Random(seed), np.random.default_rng(seed), []
    for number in range(configurations):
        drawn = {name: _member(chosen, domain) for name, domain in empty.spec.search.items()} | (baseline if number == 0 else {})
        params = canonical_params(empty.spec.search, drawn)
        for _ in range(2 if number % 3 == 0 else 1):
            lines.append(_made_up_line(empty, params, len(lines), scatter.normal(0, SEED_SD)))
    return [header, *lines]


def _made_up_line(table: Table, params: dict[str, Any], seed: int, scatter: float) -> dict[str, Any]:
    counts = {kind_name(step): count for step, count in table.plan(params, seed).counts().items()}
    curve = np.clip(true_curve(table, params) + scatter, 0, 1).tolist()
    return {"params": params, "seed": seed, "curve": curve, "counts": counts, "train_s": 1.0}


def _member(chosen: random.Random, domain: Any) -> Any:
    if isinstance(domain, Range) and domain.members is None:
        return domain.nearest(math.exp(chosen.uniform(math.log(domain.low), math.log(domain.high))))
    return chosen.choice(domain.members) if isinstance(domain, Range | Choice) else domain.value
