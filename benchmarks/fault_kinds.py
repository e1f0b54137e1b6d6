"""The faults: each function strikes once, repairs what an administrator would, and says in words what it has done."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from benchmarks.fault_rows import Row
from benchmarks.fault_session import MissedError, Session

# Longer than the product goes on trying without a word.
_LONG_OUTAGE_S: Final = 45.0
_LONG_OUTAGES_FRAC: Final = 0.1
_CLOCK_JUMP_S: Final = 3600.0
_STALL_S: Final = 30.0


def worker(session: Session) -> str:
    """SIGKILL of the process that trains a trial."""
    row, pid = session.wait_for(session.victim)
    _kill(pid)
    return f"the worker of trial {row.number} (process {pid})"


def truncated(session: Session) -> str:
    """The newest checkpoint of a trial loses its end while the trial is interrupted by the death of its worker."""
    return session.wait_for(lambda: _truncated(session))


def driver(session: Session) -> str:
    """SIGKILL of the driver."""
    assert session.driver is not None
    session.driver.kill()
    return f"the driver (process {session.driver.pid})"


def ctrl_c_twice(session: Session) -> str:
    """Two SIGINT to the driver."""
    assert session.driver is not None
    pause_s = session.rng.uniform(0.05, 1.5)
    session.driver.send(signal.SIGINT)
    time.sleep(pause_s)
    if session.driver.ended() is None:
        session.driver.send(signal.SIGINT)
    session.await_end(session.driver)
    return f"{pause_s:.1f} s apart; it ended with {session.driver.ended()}"


def raylet(session: Session) -> str:
    """SIGKILL of the second node's raylet, which is started again."""
    if not session.site.ray.has_node:
        session.site.ray.start_node()
    session.wait_for(lambda: True if session.all_may_be_lost() else None)
    pid = session.site.ray.kill_node()
    away_s = session.rng.uniform(0, 5)
    time.sleep(away_s)
    session.site.ray.start_node()
    return f"the second node (process {pid}), started again after {away_s:.1f} s"


def backend(session: Session) -> str:
    """One of PostgreSQL's processes that serve drivers, ended by an administrator or by kill -9, which restarts them all."""
    pid = session.rng.choice(session.wait_for(lambda: session.rows.backends() or None))
    if session.rng.random() < 0.5:
        session.rows.terminate(pid)
        return f"backend {pid}, by an administrator"
    _kill(pid)
    return f"backend {pid}, by kill -9"


def postmaster(session: Session) -> str:
    """SIGKILL of PostgreSQL's first process, which is started again."""
    away_s = _outage_s(session)
    session.site.server.kill()
    time.sleep(away_s)
    session.site.server.start()
    return f"PostgreSQL, away for {away_s:.1f} s"


def cut(session: Session) -> str:
    """All connections to the database are reset, and new ones refused for a while."""
    away_s = _outage_s(session)
    session.site.proxy.cut()
    time.sleep(away_s)
    session.site.proxy.pass_on()
    return f"the network, for {away_s:.1f} s"


def stall(session: Session) -> str:
    """Nothing passes for 30 s, and then everything."""
    session.site.proxy.stall(_STALL_S)
    time.sleep(_STALL_S)
    return f"for {_STALL_S:g} s"


def silence(session: Session) -> str:
    """Connections stay open and silent for ever; new ones are silent, too, for a while."""
    away_s = session.rng.uniform(0, 3) if session.rng.random() < 0.6 else session.rng.uniform(3, 30)
    silenced = session.site.proxy.connections
    session.site.proxy.silence()
    time.sleep(away_s)
    session.site.proxy.pass_on()
    return f"{silenced} connections for ever, new ones for {away_s:.1f} s"


def lost_acknowledgement(session: Session) -> str:
    """A commit goes through, but its answer is lost."""
    proxy = session.site.proxy
    before = proxy.lost_acknowledgements
    proxy.lose_acknowledgement()
    try:
        session.wait_for(lambda: True if proxy.lost_acknowledgements > before else None, patience_s=40)
    except MissedError:
        proxy.pass_on()
        raise
    return "of one commit"


def disk_full(session: Session) -> str:
    """The disk of checkpoints is full for a while; without a disk of our own no process that trains may write a longer file."""
    full_s = session.rng.uniform(2, 8)
    row, pid = session.wait_for(session.victim)
    if session.site.has_disk:
        session.site.fill_disk()
        time.sleep(full_s)
        session.site.free_disk()
        return f"for {full_s:.1f} s"
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    time.sleep(full_s)
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    return f"for the worker of trial {row.number} (RLIMIT_FSIZE), {full_s:.1f} s"


def nan(session: Session) -> str:
    """The loss of one configuration becomes NaN once."""
    return _misbehaves(session, "nan")


def memory(session: Session) -> str:
    """One configuration runs out of memory once: as torch says it of a GPU, as Python does, or really, by a limit of the system."""
    return _misbehaves(session, session.rng.choice(("memory", "python_memory", "address_space")))


def crash(session: Session) -> str:
    """One configuration's process dies of a segmentation fault once."""
    return _misbehaves(session, "crash")


def hang(session: Session) -> str:
    """One configuration hangs for ever once, half of the times in native code that holds Python's lock. The watchdog takes a minute."""
    return _misbehaves(session, session.rng.choice(("hang", "hang_in_native_code")))


def clock(session: Session) -> str:
    """The database's clock jumps by an hour, seen from the signs of life in it."""
    seconds = session.rng.choice((_CLOCK_JUMP_S, -_CLOCK_JUMP_S))
    session.rows.move_beats(seconds)
    return f"the signs of life lie {abs(seconds):g} s in the {'future' if seconds > 0 else 'past'}"


# Those that may strike at any moment of a launch, its start included.
ANY_MOMENT: Final = {"driver", "ctrl_c_twice", "backend", "postmaster", "cut", "stall", "silence", "clock"}
STRIKES: Final[dict[str, Callable[[Session], str]]] = {
    strike.__name__: strike
    for strike in (
        worker,
        truncated,
        driver,
        ctrl_c_twice,
        raylet,
        backend,
        postmaster,
        cut,
        stall,
        silence,
        lost_acknowledgement,
        disk_full,
        nan,
        memory,
        crash,
        hang,
        clock,
    )
}


def _outage_s(session: Session) -> float:
    return _LONG_OUTAGE_S if session.rng.random() < _LONG_OUTAGES_FRAC else session.rng.uniform(0.3, 8)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        raise MissedError from None


def _truncated(session: Session) -> str | None:
    found = session.victim()
    if found is None or len(_checkpoints(session, found[0])) < 2:
        return None
    row, pid = found
    with suppress(ProcessLookupError):
        # Stopped first, so that it can't write a newer one meanwhile.
        os.kill(pid, signal.SIGSTOP)
        paths = _checkpoints(session, row)
        if len(paths) < 2 or session.process_of(row) is None:
            os.kill(pid, signal.SIGCONT)
            return None
        newest, size = paths[0], paths[0].stat().st_size
        os.truncate(newest, kept := int(size * session.rng.random()))
        os.kill(pid, signal.SIGKILL)
        return f"{newest.relative_to(newest.parents[2])} to {kept} of {size} bytes; its worker (process {pid}) was killed"
    return None


def _checkpoints(session: Session, row: Row) -> list[Path]:
    place = session.place_of(row)
    return [Path(path) for _, _, path in place.checkpoints()] if place is not None else []


def _misbehaves(session: Session, kind: str) -> str:
    """Marks one of the next configurations, and waits until it has met its mark."""
    folder = session.site.folder
    seeds = session.unbegun_seeds()[: max(1, session.asked - session.rows.finished())]
    if not seeds:
        raise MissedError
    # The first ones may be at their first step already.
    seed = seeds[min(len(seeds) - 1, session.rng.randint(1, 2))]
    mark = folder / "marks" / str(seed)
    written = mark.with_suffix(".new")
    written.write_text(f"{kind} {session.rng.randint(0, 2)}")
    written.rename(mark)
    try:
        session.wait_for(lambda: True if (folder / "met" / f"{seed}-{kind}").exists() else None)
    finally:
        mark.unlink(missing_ok=True)
    return f"{kind.replace('_', ' ')} of the configuration with seed {seed}"
