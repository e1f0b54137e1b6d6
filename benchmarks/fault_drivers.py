"""The faults that need several drivers of one study."""

from __future__ import annotations

import random
import signal
import time
from typing import Final

from benchmarks.fault_rows import Row
from benchmarks.fault_session import MissedError, Session
from benchmarks.fault_site import Driver, Site

_LONG_AGO_S: Final = -3600.0
_PATIENCE_S: Final = 240.0


def taken_for_dead(session: Session) -> str:
    """A stopped driver's trial is retried by a second driver; then the first one goes on, and both finish the same root trial."""
    session.keep_busy(more=1)
    assert session.driver is not None
    first = session.driver
    row, _ = session.wait_for(session.victim, _PATIENCE_S)
    first.send(signal.SIGSTOP)
    try:
        # Its beats stop with it, and what is older than the grace period is anyone's.
        session.rows.move_beats(_LONG_AGO_S)
        session.driver = second = session.launch(own_ray=True)
        retried = session.wait_for(lambda: _retry(session, row), _PATIENCE_S)
        time.sleep(session.rng.uniform(0, 3))
    finally:
        first.send(signal.SIGCONT)
    session.await_end(first)
    session.await_end(second)
    return f"trial {row.number} (process {first.pid}), retried as trial {retried.number} by process {second.pid}"


def several_drivers(site: Site, name: str, drivers: int, most: int, rng: random.Random) -> tuple[Session, str]:
    """Drivers started at the same instant on an empty database, one of them killed; the others finish what was asked for.

    most: how many configurations there are.
    """
    database = name.replace("-", "_")
    site.server.create_database(database)
    session = Session(site, database, name, min(most, 8 + 4 * drivers), rng)
    session.asked = session.count
    started = [session.launch(own_ray=True) for _ in range(drivers)]
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s and not _are_at_work(session, started):
        time.sleep(0.2)
    time.sleep(rng.uniform(0, 15))
    # One that leaves trials to the others, if there is one.
    owners = {row.attributes["owner"]["pid"] for row in session.rows.running()}
    killed = rng.choice([driver for driver in started if driver.pid in owners] or started)
    killed.kill()
    done = session.rows.finished()
    for driver in started:
        if driver is not killed:
            session.await_end(driver)
    if (finished := session.rows.finished()) != session.count:
        session.problems.append(f"{name}: {drivers} drivers, one killed, finished {finished} of {session.count} trials\n{_said(started)}")
    return session, f"one of {drivers} drivers, with {done} of {session.count} trials finished"


def _are_at_work(session: Session, drivers: list[Driver]) -> bool:
    """Whether at least two drivers have a trial, or all that will ever be done is done."""
    owners = {row.attributes["owner"]["pid"] for row in session.rows.trials()}
    return len(owners) > 1 or session.rows.finished() >= session.asked or all(driver.ended() is not None for driver in drivers)


def _retry(session: Session, row: Row) -> Row | None:
    found = [other for other in session.rows.trials() if other.root == row.root and other.attempt > row.attempt]
    if not found and session.rows.finished() >= session.asked:
        raise MissedError
    return found[-1] if found else None


def _said(drivers: list[Driver]) -> str:
    return "\n".join(f"{driver.log.name} ended with {driver.ended()}:\n{driver.output()[-800:]}" for driver in drivers)
