"""What the fault suite trains: a small study, its fixed list of configurations, and what an undisturbed training of each gives."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.fault_network import FIRST_SEED
from studies.space import canonical_params
from studies.spec import StudySpec
from trainers.cost import CostTable, StepCost
from trainers.environment import training_environment
from trainers.schedule import Step
from tuner.launching.proposals import Proposal

ROOT: Final = Path(__file__).resolve().parent.parent
# In the place of a seed: what step times on this machine depend on.
CONDITIONS: Final = -1
STUDY: Final[dict[str, Any]] = {
    "name": "faults",
    "dataset": {"name": "digits", "train_images": 224, "val_images": 100},
    "model": "fault_network:network",
    "training": {"epochs": 6, "batch_size": 32, "lr": 0.05, "weight_decay": 5e-4},
    "search": {
        "frequency": {"low": 0.0, "high": 1.0, "step": 0.25},
        "policy": ["deterministic", "stochastic"],
        "scale": 0.5,
        "epochs": {"low": 3, "high": 6},
        "lr": {"low": 0.01, "high": 0.1, "log": True},
    },
    "sampler": "random",
    "resources": {"cpus": 1},
}


def study_spec(name: str) -> StudySpec:
    """The suite's study under this name."""
    return StudySpec.from_json_dict({**STUDY, "name": name})


def configurations(count: int) -> list[Proposal]:
    """The first `count` of the list, the same at every call: a point of the search space each, with a seed of its own."""
    spec, draws = study_spec("faults"), random.Random(0)
    found = []
    for index in range(count):
        point = {
            "frequency": draws.choice((0.0, 0.25, 0.5, 0.75, 1.0)),
            "policy": draws.choice(("deterministic", "stochastic")),
            "epochs": draws.randint(3, 6),
            "lr": round(0.01 * 10 ** draws.random(), 4),
        }
        complete = canonical_params(spec.search, spec.baseline_params() | point)
        found.append(Proposal({name: complete[name] for name in spec.search.searched}, seed=FIRST_SEED + index))
    return found


class Reference:
    """The undisturbed trainings, by seed: made in a process of their own, and kept for the next run of the same code."""

    def __init__(self, count: int, folder: Path) -> None:
        self._path = Path(tempfile.gettempdir()) / f"downsample-tuner-faults-{os.getuid()}-{_code_hash()}.jsonl"
        self._log = folder / "reference.log"
        with self._log.open("wb") as log:
            command = [sys.executable, str(ROOT / "benchmarks" / "fault_reference.py"), str(count), str(self._path)]
            self._process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **training_environment(1)}, stdout=log, stderr=log, start_new_session=True
            )

    def close(self) -> None:
        """Ends the process; what it has trained stays."""
        self._process.kill()
        self._process.wait()

    def made_up_prices(self) -> dict[str, Any]:
        """A cost table for the machine that this is: calibrating takes a while, and is no part of what is tested here."""
        while CONDITIONS not in (lines := read_results(self._path)):
            if self._process.poll() not in (None, 0):
                raise RuntimeError(f"the undisturbed trainings failed:\n{self._log.read_text()}")
            time.sleep(0.2)
        costs = {step: StepCost(frac, frac, frac) for step, frac in ((Step(32, "full"), 1.0), (Step(16, "full"), 0.25))}
        return CostTable(lines[CONDITIONS]["conditions"], 25.0, costs, 25, 0.0).to_dict()

    def results(self) -> dict[int, dict[str, Any]]:
        """curve, val_accuracy, val_loss, test_accuracy and steps of each configuration; waits until they are there."""
        if self._process.wait() != 0:
            raise RuntimeError(f"the undisturbed trainings failed:\n{self._log.read_text()}")
        return read_results(self._path)


def read_results(path: Path) -> dict[int, dict[str, Any]]:
    """Results by seed; a last line that a killed process has left half is passed over."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return {line["seed"]: line for line in map(json.loads, (text for text in lines if text.endswith("\n")))}


def _code_hash() -> str:
    files = [
        *sorted((ROOT / "trainers").glob("*.py")),
        Path(__file__),
        ROOT / "benchmarks" / "fault_network.py",
        ROOT / "studies" / "space.py",
    ]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]
