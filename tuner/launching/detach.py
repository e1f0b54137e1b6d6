"""`tuner launch --detach`: a launch that no lost terminal ends."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from studies.spec import StudySpec
from tuner.launching.doctor import check_here, raise_problems
from tuner.launching.places import DEFAULT_PLACE, check_checkpoints, study_place
from tuner.storage.lookup import spec_to_launch
from tuner.storage.opening import URL_VARIABLE, open_storage, resolve_url
from tuner.storage.sqlite_file import check_sqlite_file
from tuner.storage.store import StudyStore

DETACH: Final = "--detach"
_POLL_S: Final = 0.1
# After its first line: what is wrong with a launch shows while it starts.
_STAYS_S = 2.0


def launch_detached(study: str, storage: str | None, overrides: Sequence[str], address: str | None, checkpoints: str | None) -> None:
    """Starts this very command without --detach as a session of its own, and returns once it has begun.

    Bad input and what can't work on this host is raised here. A launch that ends at once ends this process with its words and exit code.
    """
    spec = spec_to_launch(study, storage, overrides)
    check_checkpoints(checkpoints)
    opened = open_storage(check_sqlite_file(resolve_url(storage, spec.storage)))
    place = study_place(StudyStore.create_or_continue(opened, spec), checkpoints)
    raise_problems(check_here(spec, opened, place, address=address))
    log = _log_path(spec)
    process = start([sys.executable, *(argument for argument in sys.argv if argument != DETACH)], log)
    exit_code = begun_or_ended(process, log)
    if exit_code is None:
        _say_how_to_go_on(spec, storage, process.pid, log)
        return
    said = log.read_text(encoding="utf-8", errors="backslashreplace")
    print(said, end="", file=sys.stderr if exit_code else sys.stdout)
    # Else it would be a problem of another kind than the launch's own: a process ended by a signal has no exit code.
    sys.exit(exit_code if exit_code >= 0 else 1)


def start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Starts a command without a terminal, deaf to SIGHUP, what it prints going to `log`. It inherits the environment, password too."""
    with log.open("xb") as output, _deaf_to_hangups():
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)


def begun_or_ended(process: subprocess.Popen[bytes], log: Path) -> int | None:
    """Waits until a launch has said something and goes on; its exit code where it has ended instead. Ctrl-C meanwhile ends the launch."""
    first_s: float | None = None
    try:
        while process.poll() is None:
            if first_s is None and log.stat().st_size:
                first_s = time.monotonic()
            if first_s is not None and time.monotonic() - first_s > _STAYS_S:
                return None
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        raise
    return process.returncode


def _log_path(spec: StudySpec) -> Path:
    folder = Path(DEFAULT_PLACE) / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"launch-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.log"


@contextmanager
def _deaf_to_hangups() -> Iterator[None]:
    """A child keeps that a signal is ignored, as with nohup: the session of its own does not help against one that is sent to it."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, previous)


def _say_how_to_go_on(spec: StudySpec, storage: str | None, pid: int, log: Path) -> None:
    # As resolve_url finds it: a terminal where these are typed has the same TUNER_STORAGE, but not the study file's database.
    url = storage or (None if os.environ.get(URL_VARIABLE) else spec.storage)
    where = f" --storage {shlex.quote(url)}" if url else ""
    print(f"study '{spec.name}' is being launched by process {pid}, which goes on when this terminal is closed")
    for what, command in (
        ("what it prints", f"tail -f {shlex.quote(str(log))}"),
        ("what it has done", f"tuner status {spec.name}{where}"),
        ("what a trial says", f"tuner logs {spec.name} --trial N --follow{where}"),
        ("to end it", f"tuner stop {spec.name}{where}"),
    ):
        print(f"{what + ':':<20}{command}")
