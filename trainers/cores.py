"""The cores that this process may use, and how much of them goes to others. Knows no torch: whoever asks may not have it loaded."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

_PROC_STAT: Final = Path("/proc/stat")


def available_cores() -> set[int]:
    """The cores that this process may use."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def busy_seconds() -> float | None:
    """CPU seconds that all processes together have had on these cores since the machine started; None where nobody counts them."""
    if not _PROC_STAT.exists():
        return None
    cores = {f"cpu{core}" for core in available_cores()}
    ticks = 0
    for line in _PROC_STAT.read_text(encoding="ascii").splitlines():
        name, *fields = line.split()
        if name in cores:
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """CPU seconds that this process has had."""
    own = os.times()
    return own.user + own.system


def others_frac(seconds: float) -> float | None:
    """Share of these cores, in [0, 1], that other processes use while this one waits for `seconds`; None where that can't be known."""
    before_s, own_before_s, started_s = busy_seconds(), own_seconds(), time.monotonic()
    time.sleep(seconds)
    after_s, own_s, elapsed_s = busy_seconds(), own_seconds() - own_before_s, time.monotonic() - started_s
    if before_s is None or after_s is None:
        return None
    return min(1.0, max(0.0, (after_s - before_s - own_s) / (elapsed_s * len(available_cores()))))
