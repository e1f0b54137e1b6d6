"""Where a study's figures come from: its settings, what trained it, and the costs that its times are priced with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from studies.spec import StudySpec
from trainers.cost import CostTable
from tuner.report.details import rounded
from tuner.results.describe import describe_training, printable
from tuner.storage.trials import CompletedTrial, StudyTrials

# The page lists so many kinds of device, versions and commit, the commonest ones.
_MOST_ORIGINS: Final = 20


def facts(spec: StudySpec, trials: StudyTrials, timing_doubt: str | None) -> list[list[str]]:
    """Name and value of what holds for the whole study, in words."""
    seeds = [trial.seed for trial in trials.completed]
    training = spec.training
    steps = f"batches of {training.batch_size}, {training.optimizer}, {training.precision}"
    named = {
        "network": spec.model,
        "images": f"{spec.dataset.name}, {spec.dataset.full_px} px",
        "full training": f"{describe_training(dict(training))}, {steps}",
        "sampler": spec.sampler,
        "stopper": spec.stopper.name,
        "study's seed": str(spec.seed),
        "trainings' seeds": f"{min(seeds)} to {max(seeds)}, {len(set(seeds))} different ones",
        "split seed": str(spec.dataset.split_seed),
    } | ({"timing": timing_doubt} if timing_doubt else {})
    return [[name, printable(value)] for name, value in named.items()]


def origins(completed: Sequence[CompletedTrial]) -> list[dict[str, Any]]:
    """Device, versions and commit of the trainings, and how many had them, the commonest first."""
    found = Counter((trial.device, _versions(trial), trial.commit) for trial in completed)
    return [
        {"device": printable(device), "versions": printable(versions), "commit": printable(commit), "trials": count}
        for (device, versions, commit), count in found.most_common(_MOST_ORIGINS)
    ]


def cost_rows(table: CostTable) -> dict[str, Any]:
    """A cost table, JSON-ready: for each kind of step its cost over a full one's, the ends of its 95 % interval, and milliseconds."""
    rows = [
        {
            "side": step.side_px,
            "kernel": "plain" if step.kernel == "full" else step.kernel.replace("_", " "),
            "batches": step.batches,
            "relative": rounded(cost.relative),
            "low": rounded(cost.low),
            "high": rounded(cost.high),
            "ms": rounded(cost.relative * table.full_ms),
        }
        for step, cost in sorted(table.costs.items(), key=lambda item: -item[1].relative)
    ]
    return {"device": printable(str(table.conditions.get("device", ""))), "rounds": table.rounds, "rows": rows}


def _versions(trial: CompletedTrial) -> str:
    return ", ".join(f"{name} {version}" for name, version in trial.versions.items())
