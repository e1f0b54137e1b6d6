"""Checkpoints that are either whole or not there, and that hold tensors and plain values only."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Writes `content` (tensors, numbers, strings and containers of them) so that `path` holds the old or the new one, never half."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two writers apart: a worker taken for dead may still be writing.
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> dict[str, Any] | None:
    """What `save_checkpoint` wrote, on the CPU; None if there is none, or (with a warning) if it can't be read."""
    target = Path(path)
    if not target.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(target, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        warnings.warn(f"checkpoint {target} can't be read, so the training starts anew: {error}", stacklevel=2)
        return None
    return content
