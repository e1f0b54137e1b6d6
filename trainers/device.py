"""Where a training runs: the device, its name, its threads and what its figures depend on."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path
from typing import Final

import torch

from trainers.cores import available_cores
from trainers.errors import InputError

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")

# Of images on every device: on a CPU too it takes a tenth off a full step (docs/LOG.md).
IMAGE_FORMAT: Final = torch.channels_last


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; other names as torch takes them. InputError if it isn't there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device is '{name}', it must be auto, cpu, cuda or cuda:<number>") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device is '{name}', but torch {torch.__version__} sees no CUDA device on {platform.node()}")
    return device


def device_name(device: torch.device) -> str:
    """The model of the GPU or processor, as timings depend on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    # platform.processor() is empty on most Linux systems.
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} ({len(available_cores())} cores)"


def network_format(device: torch.device) -> torch.memory_format:
    """Of a network's filters: that of the images on CUDA. On a CPU it makes no difference, and filters are pooled faster as they are."""
    return IMAGE_FORMAT if device.type == "cuda" else torch.contiguous_format


def set_threads(threads: int | None) -> int:
    """Limits torch to `threads` CPU threads (None: leaves its own choice) and returns how many it uses."""
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def versions(device: torch.device) -> dict[str, str]:
    """Versions that timings and bit-same results depend on."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if device.type == "cuda":
        found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return found


def reset_peak_memory(device: torch.device) -> None:
    """Starts a new measurement of peak memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access(_CLEAR_REFS, os.W_OK):
        # "5" resets the high-water mark of the resident set (proc(5)), so that a reused worker doesn't report its predecessor's peak.
        _CLEAR_REFS.write_text("5", encoding="ascii")


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory in MiB since the reset: allocated on the GPU, or resident in the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if _STATUS.exists():
        peak = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
