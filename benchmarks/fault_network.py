"""The fault suite's network: it misbehaves once where a mark says so, and leaves a line for every step that it trains.

Copied into the folder that the suite launches from, as a user's own module would lie there. Kept apart from the rest of the suite,
because workers import it, and nothing but the environment tells it where the marks are.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainers.models import build_model

# Set in the environment of Ray's nodes and of drivers that start a Ray of their own. Missing where nothing shall be disturbed.
FOLDER_VARIABLE = "DOWNSAMPLE_TUNER_FAULTS"
# The seeds of the suite's configurations. A training seeds every epoch with its own seed times _EPOCH_SEEDS plus the epochs done.
FIRST_SEED, LAST_SEED = 50_000, 59_999
_EPOCH_SEEDS = 1_000_003


def network(num_classes: int) -> nn.Module:
    """[B, 3, 32, 32] -> logits [B, num_classes]: the smallest CIFAR ResNet, weights from torch's global seed."""
    model = build_model("cifar_resnet8", num_classes, 32)
    if FOLDER_VARIABLE in os.environ:
        model.register_forward_pre_hook(_before_step)
    return model


def _before_step(model: nn.Module, arguments: tuple[Any, ...]) -> tuple[Tensor] | None:
    seed, epoch = divmod(torch.initial_seed(), _EPOCH_SEEDS)
    # Calibrations and rehearsals have other seeds.
    if not model.training or not FIRST_SEED <= seed <= LAST_SEED:
        return None
    folder = Path(os.environ[FOLDER_VARIABLE])
    with (folder / "steps" / str(seed)).open("a") as file:
        file.write(f"{epoch} {os.getpid()}\n")
    first_epoch = vars(model).setdefault("first_epoch", epoch)
    return _misbehave(_marked(folder, seed, epoch, is_first=epoch == first_epoch), arguments[0])


def _marked(folder: Path, seed: int, epoch: int, *, is_first: bool) -> str:
    """What to do at this step; the mark is taken away, so that no later step does it. is_first: this process's first epoch of it."""
    mark = folder / "marks" / str(seed)
    try:
        kind, earliest = mark.read_text().split()
        # Before a step is usual, the watchdog waits for an hour.
        if epoch < int(earliest) or (kind.startswith("hang") and is_first):
            return ""
        mark.rename(folder / "met" / f"{seed}-{kind}")
    except FileNotFoundError:
        return ""
    return kind


def _misbehave(kind: str, images: Tensor) -> tuple[Tensor] | None:
    match kind:
        case "nan":
            return (images * float("nan"),)
        case "memory":
            raise torch.OutOfMemoryError("CUDA out of memory: made up")
        case "python_memory":
            raise MemoryError
        case "address_space":
            _run_out_of_address_space()
        case "hang":
            time.sleep(86_400)
        case "hang_in_native_code":
            # PyDLL holds Python's lock while it is called.
            ctypes.PyDLL(None).sleep(86_400)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
    return None


def _run_out_of_address_space() -> None:
    """A real refusal by the system. With room for what Ray's threads may want meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, hard))
    try:
        torch.empty(2**33, dtype=torch.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
