"""Studies that have a cost table already: timing steps takes a minute a launch, and most launches here are about something else."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from studies.space import possible_steps
from studies.spec import StudySpec
from trainers.cost import CostTable, StepCost
from trainers.environment import training_environment
from tuner.launching.timing import COST_TABLES
from tuner.storage.opening import open_storage
from tuner.storage.store import StudyStore

_CONDITIONS = """
import json
from filled import tiny_spec
from trainers.calibration import cost_conditions
spec = tiny_spec()
print(json.dumps(cost_conditions(spec.train_config(spec.baseline_params(), 0, device="cpu", threads=1))))
"""


def make_priced(url: str, study: dict[str, Any]) -> None:
    """Makes a study with the small one's network and batch, its steps priced by their pixels as if they had been timed on this machine."""
    spec = StudySpec.from_json_dict(study)
    full_px = spec.dataset.full_px
    fracs = {step: (step.side_px / full_px) ** 2 for step in possible_steps(spec.search, full_px)}
    table = CostTable(_conditions(), 25.0, {step: StepCost(frac, frac, frac) for step, frac in fracs.items()}, 25, 0.0)
    storage = open_storage(url)
    StudyStore.create_or_continue(storage, spec).set_attr(COST_TABLES, [table.to_dict()])
    storage.engine.dispose()


@functools.cache
def _conditions() -> dict[str, Any]:
    # In a process of its own: whoever asks torch sets its threads.
    environment = {**os.environ, **training_environment(1), "PYTHONPATH": str(Path(__file__).parent)}
    found = subprocess.run([sys.executable, "-c", _CONDITIONS], env=environment, capture_output=True, text=True, check=True)
    conditions: dict[str, Any] = json.loads(found.stdout)
    return conditions
