"""Who decides what is trained, and where it is kept. From Python as from the command line:

    import tuner

    study = tuner.launch("digits", trials=20)      # or tuner.load("digits") for what is stored already
    study.front()                                  # a pandas frame, one row a trial
    study.schedule(7).save("schedule.yaml")        # what Downsampler takes

Names load on first use, because `tuner --help` needs none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.api import Study, launch, load

_HOMES = {"Study": "tuner.api", "launch": "tuner.api", "load": "tuner.api"}

__all__ = ["Study", "launch", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tuner' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
