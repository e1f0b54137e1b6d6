"""What kinds of step cost on the machine that trains, measured apart from the trainings and kept in a file beside their lines."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from trainers.config import TrainConfig
from trainers.cost import CostTable
from trainers.schedule import Step


def measure_prices(config: TrainConfig, kinds: Collection[Step], path: Path) -> None:
    """Prices the kinds of step and writes the file, with where they come from; NoisyTimingError on a busy machine.

    config: of the full training, whose environment this process has.
    """
    from benchmarks.evidence import provenance
    from trainers.calibration import calibrate  # torch takes seconds to load, and must not before the environment is right
    from trainers.device import resolve_device

    table = calibrate(config, kinds)
    content = {**table.to_dict(), "provenance": provenance(resolve_device(config.device))}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"a full step takes {table.full_ms:.1f} ms; prices of {len(table.costs)} kinds are in {path}")


def read_prices(path: Path) -> CostTable | None:
    """What `measure_prices` wrote; None where it hasn't."""
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return CostTable.from_dict({name: value for name, value in content.items() if name != "provenance"})
