"""Trains the fault suite's configurations undisturbed, without Ray, a database or checkpoints: fault_reference.py COUNT FILE."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fault_plan import CONDITIONS, configurations, read_results, study_spec
from trainers.calibration import cost_conditions
from trainers.evaluation import evaluate_test
from trainers.loop import train


def main(count: int, path: Path) -> None:
    """Appends a line for every configuration that the file does not have yet."""
    spec, done = study_spec("faults"), read_results(path)
    if CONDITIONS not in done:
        config = spec.train_config(spec.baseline_params(), spec.seed, device="cpu", threads=1)
        append(path, {"seed": CONDITIONS, "conditions": cost_conditions(config)})
    for proposal in configurations(count):
        if proposal.seed in done or proposal.seed is None:
            continue
        config = spec.train_config(proposal.fixed, proposal.seed, device="cpu", threads=1)
        result = train(config)
        line = {
            "seed": proposal.seed,
            "curve": list(result.curve),
            "val_accuracy": result.val_accuracy,
            "val_loss": result.val_loss,
            "test_accuracy": evaluate_test(config, result.model),
            "steps": sum(result.counts.values()),
        }
        append(path, line)


def append(path: Path, line: dict[str, Any]) -> None:
    """Writes one line at once, so that whoever reads meanwhile finds it whole or half at the end."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
