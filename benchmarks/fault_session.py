"""One study of the fault suite: gives its launch command, sees what is being trained, and finishes it in the end."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from optuna.storages import RDBStorage

from benchmarks.fault_network import FIRST_SEED
from benchmarks.fault_plan import study_spec
from benchmarks.fault_rows import Row, Rows
from benchmarks.fault_site import Driver, Site
from trainers.places import RootPlace
from tuner.checking.check import StudyCheck, check_study
from tuner.launching.timing import COST_TABLES
from tuner.storage.opening import open_storage, resolve_url
from tuner.storage.store import StudyStore

# A launch that has nothing to do for so long is stuck. The hanging trial's minute, a long outage and a busy machine are in it.
_LONGEST_LAUNCH_S: Final = 600.0
_MOST_LAUNCHES: Final = 12
# The third loss is the last: the product gives such a configuration up, rightly.
_MOST_LOSSES: Final = 2
_POLL_S: Final = 0.15
_PROCESS: Final = re.compile(r"attempt \d+ on \S+, process (\d+)")

T = TypeVar("T")


class MissedError(Exception):
    """There was no chance to strike, for instance because the launch had ended."""


class Session:
    """count: configurations of the study. asked: finished trials asked for so far. problems: what must not be, in words."""

    def __init__(self, site: Site, database: str, study: str, count: int, rng: random.Random) -> None:
        self.site, self.database, self.study, self.count, self.rng = site, database, study, count, rng
        self.rows = Rows(site.server, database, study)
        self.asked = 0
        self.driver: Driver | None = None
        self.problems: list[str] = []
        self.launches = 0

    def launch(self, *, own_ray: bool = False) -> Driver:
        """Gives the launch command (again)."""
        self.launches += 1
        return self.site.launch(self.database, self.study, self.asked, self.count, own_ray=own_ray)

    @property
    def is_full(self) -> bool:
        """Whether the study's last configurations are asked for already and none of them is left to disturb."""
        return self.asked >= self.count and self.rows.finished() >= self.count - 1

    def keep_busy(self, more: int) -> None:
        """Makes sure that a driver is at work. Where the last one has done what it was asked for, `more` trials are asked for."""
        if self.driver is not None and self.driver.ended() is None:
            if self.asked - self.rows.finished() > 1 or self.asked >= self.count:
                return
            self.await_end(self.driver)
        if self.rows.finished() >= self.asked:
            self.look()
            self.asked = min(self.count, self.asked + more)
        self.driver = self.launch()

    def finish(self) -> None:
        """Gives the launch command again and again until all configurations are finished."""
        if self.driver is not None:
            self.await_end(self.driver)
        self.asked = self.count
        for _ in range(_MOST_LAUNCHES):
            if self.rows.finished() >= self.count:
                return
            self.driver = self.launch()
            self.await_end(self.driver)
        self.problems.append(f"{self.study}: not finished after {_MOST_LAUNCHES} more launches")

    def await_end(self, driver: Driver) -> None:
        """Waits until a driver ends by itself; one that is stuck is killed and noted with what it says of itself."""
        if driver.wait(_LONGEST_LAUNCH_S) is None:
            driver.kill()
            self.problems.append(f"{self.study}: a launch was stuck, see {driver.log.name}:\n{driver.output()[-4000:]}")

    def make_study(self, prices: dict[str, Any]) -> None:
        """Makes the study with a cost table, past the proxy; else the first launch makes it, and calibrates."""
        storage = self._storage()
        StudyStore.create_or_continue(storage, study_spec(self.study)).set_attr(COST_TABLES, [prices])
        storage.engine.dispose()

    def look(self) -> StudyCheck | None:
        """What `tuner check` finds once no driver is at work; noted among the problems where something is wrong."""
        if not self.rows.trials():
            return None
        storage = self._storage()
        found = check_study(StudyStore.load(storage, self.study))
        storage.engine.dispose()
        self.problems += [f"{self.study}: {violation.sentence}" for violation in found.violations]
        return found

    def wait_for(self, what: Callable[[], T | None], patience_s: float = 240.0) -> T:
        """The first answer; MissedError where the driver ends first."""
        deadline_s = time.monotonic() + patience_s
        while (answer := what()) is None:
            if time.monotonic() > deadline_s or self.driver is None or self.driver.ended() is not None:
                raise MissedError
            time.sleep(_POLL_S)
        return answer

    def victim(self) -> tuple[Row, int] | None:
        """A running trial and the process that trains it; None where there is none that may be lost once more."""
        trials = self.rows.trials()
        found = [(row, pid) for row in trials if row.state == "RUNNING" and (pid := self.process_of(row)) is not None]
        found = [(row, pid) for row, pid in found if self._losses(trials, row) < _MOST_LOSSES]
        return self.rng.choice(found) if found else None

    def all_may_be_lost(self) -> bool:
        """Whether no running trial is at its last chance."""
        trials = self.rows.trials()
        return all(self._losses(trials, row) < _MOST_LOSSES for row in trials if row.state == "RUNNING")

    def process_of(self, row: Row) -> int | None:
        """The process that trains an attempt, as its log says; None before it says so, and after the training."""
        place = self.place_of(row)
        if place is None or place.result() is not None:
            return None
        found = _PROCESS.search((place.read(row.attempt, "log.txt") or b"").decode(errors="replace"))
        return int(found[1]) if found and Path(f"/proc/{found[1]}").exists() else None

    def place_of(self, row: Row) -> RootPlace | None:
        """Where a root trial's files are, once there are any."""
        folder = next(iter(self.site.place.glob(f"{self.study}-*/root-{row.root:05d}")), None)
        return None if folder is None else RootPlace(str(folder))

    def unbegun_seeds(self) -> list[int]:
        """Configurations that no step was trained of, in the order of the list."""
        begun = {int(file.name) for file in (self.site.folder / "steps").iterdir()}
        return [seed for seed in range(FIRST_SEED, FIRST_SEED + self.count) if seed not in begun]

    def _storage(self) -> RDBStorage:
        return open_storage(resolve_url(self.site.server.url_of(self.database), None))

    def _losses(self, trials: list[Row], row: Row) -> int:
        lost = sum(other.is_lost for other in trials if other.root == row.root)
        return lost + (self.site.folder / "marks" / str(row.seed)).exists()
