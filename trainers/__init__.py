"""How one network is trained fast. The only package that knows torch; usable without the rest.

Names load on first use, because `studies` and `tuner --help` need the schedule's arithmetic but not the seconds torch takes to load.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainers.config import TrainConfig
    from trainers.downsampling import Downsampler
    from trainers.loop import train
    from trainers.result import TrainResult
    from trainers.schedule import Schedule

_HOMES = {
    "Downsampler": "trainers.downsampling",
    "Schedule": "trainers.schedule",
    "TrainConfig": "trainers.config",
    "TrainResult": "trainers.result",
    "train": "trainers.loop",
}

__all__ = ["Downsampler", "Schedule", "TrainConfig", "TrainResult", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trainers' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
