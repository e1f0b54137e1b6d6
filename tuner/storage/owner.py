"""Which process answers for a running trial, and whether that process is gone."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

# Two machines of one name are told apart by `machine`, two containers of one name on one machine by `pid_namespace`.
_PLACE: Final = ("host", "machine")
_UNKNOWN_START: Final = 0


def this_owner() -> dict[str, Any]:
    """This process: host, machine, boot_id, pid_namespace ('' where the system has none), pid, and started, its start time in clock
    ticks since that boot (0 where it can't be known)."""
    pid = os.getpid()
    return _here() | {"pid": pid, "started": _start_ticks(pid) or _UNKNOWN_START}


def is_dead(owner: Mapping[str, Any]) -> bool | None:
    """True if the owner ran on this host and is gone, False if it lives, None if it can't be known from here.

    A pid alone proves nothing, because systems give it out again: the start time must fit too, and another boot ended every process.
    """
    pid, here = owner.get("pid"), _here()
    if not isinstance(pid, int) or "host" not in owner or not _agree(owner, here, _PLACE):
        return None
    if not _agree(owner, here, ("boot_id",)):
        return True
    if not _agree(owner, here, ("pid_namespace",)):
        return None
    return not _lives(pid, owner.get("started") or _UNKNOWN_START)


@cache
def _here() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": _first_line("/etc/machine-id"),
        "boot_id": _first_line("/proc/sys/kernel/random/boot_id"),
        "pid_namespace": _link("/proc/self/ns/pid"),
    }


def _agree(owner: Mapping[str, Any], here: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    return all(owner.get(key, here[key]) == here[key] for key in keys)


def _lives(pid: int, started: int) -> bool:
    # PermissionError: somebody else's process has the pid, and the start time tells whether it was given out again.
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    fields = _stat_fields(pid)
    # A zombie still has its pid, but nothing in it will ever beat again.
    if fields and fields[0] in ("Z", "X"):
        return False
    now = _start_ticks(pid)
    return now is None or started in (_UNKNOWN_START, now)


def _start_ticks(pid: int) -> int | None:
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else None


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the third (state) on; empty where there is no such file."""
    # The second field, the program's name in parentheses, may itself hold spaces and parentheses.
    return _first_line(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
