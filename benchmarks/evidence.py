"""What every committed figure carries: the machine, versions, command and commit that made it."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any, Final

import torch

from trainers.device import device_name, versions
from tuner.launching.provenance import code_commit

RESULTS: Final = Path(__file__).parent / "results"


def provenance(device: torch.device) -> dict[str, Any]:
    """Device, versions, command, commit and date."""
    return {
        "device": device_name(device),
        "versions": versions(device),
        "command": " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *map(_portable, sys.argv[1:])]),
        "commit": code_commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _portable(argument: str) -> str:
    """Of an absolute path the last part only: where someone's files lie belongs into no committed figure."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def write_result(name: str, content: dict[str, Any]) -> Path:
    """Writes benchmarks/results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path
