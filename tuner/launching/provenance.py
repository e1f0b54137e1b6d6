"""Which code made a figure."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path
from typing import Final

_RESULTS: Final = "benchmarks/results"


def code_commit() -> str:
    """The git commit of this code, `+changes` where files differ from it, or the installed version where it is no checkout.

    Results don't count: a benchmark that writes some before it ends would call its own code changed.
    """
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ":/", f":!/{_RESULTS}") else "")
    except (OSError, subprocess.CalledProcessError):
        return f"version {importlib.metadata.version('downsample-tuner')}"


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
