"""Breaks a study in every way we know, again and again, and shows that nothing that finished is lost and nothing is counted twice.

    python -m benchmarks.faults --quick --seed 1     # seven faults within four minutes
    python -m benchmarks.faults --seed 1             # 200 faults, hours; writes results/faults.json after each study

A real Ray cluster, a real PostgreSQL behind a proxy, real trainings of a fixed list of configurations. Seeded faults strike at random
moments, and the launch command is simply given again. When a study's list is finished, every configuration must be finished exactly once,
its accuracies and losses bit-same with those of an undisturbed training, and `tuner check` must find nothing.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fault_drivers import several_drivers, taken_for_dead
from benchmarks.fault_kinds import ANY_MOMENT, STRIKES
from benchmarks.fault_plan import Reference
from benchmarks.fault_session import MissedError, Session
from benchmarks.fault_site import Site, fault_site
from benchmarks.fault_verify import Totals, examine

# In this order all of them fit into few launches.
QUICK: Final = ("nan", "truncated", "worker", "postmaster", "silence", "memory", "driver")
_QUICK_LIST: Final = 10
_LIST: Final = 40
_DATABASE: Final = "faults"
_MOST_TRIES: Final = 6
# How many of the faults strike somewhere in the launch instead of while a trial is being trained.
_ANY_MOMENT_FRAC: Final = 0.25
_SEVERAL: Final = (2, 8, 3, 2, 4)


class Suite:
    """Plays faults one after the other. struck: kind, words and second of each. trials: of a study; all asked for at once, or in parts.

    on_examined: called when a study is finished and was examined.
    """

    def __init__(
        self, site: Site, *, seed: int, trials: int, in_parts: bool = False, on_examined: Callable[[Suite], None] = lambda suite: None
    ) -> None:
        self._on_examined = on_examined
        self.site, self.reference, self._trials, self._in_parts = site, Reference(trials, site.folder), trials, in_parts
        site.at_end.callback(self.reference.close)
        self.rng = random.Random(seed)
        self.totals = Totals()
        self.struck: list[dict[str, Any]] = []
        self._started_s = time.monotonic()
        self._studies = 0
        site.server.create_database(_DATABASE)
        site.ray.wait_for_head()

    @property
    def seconds(self) -> float:
        """Since the suite began."""
        return time.monotonic() - self._started_s

    def play(self, kinds: list[str]) -> None:
        """Every fault of the list. A new study begins where one is full; between two studies several drivers share one."""
        session = self._new_session()
        for index, kind in enumerate(kinds):
            self._say(f"fault {index + 1} of {len(kinds)}: {kind}")
            if session.is_full:
                self._end(session)
                self._play_several()
                session = self._new_session()
            self._strike(session, kind)
        self._end(session)

    def _play_several(self) -> None:
        drivers = _SEVERAL[self._studies % len(_SEVERAL)]
        self._clear()
        session, words = several_drivers(self.site, f"several-{self._studies:03d}", drivers, self._trials, self.rng)
        self._note("several_drivers", words)
        self._examine(session)

    def _strike(self, session: Session, kind: str) -> None:
        for _ in range(_MOST_TRIES):
            try:
                words = taken_for_dead(session) if kind == "taken_for_dead" else self._at_a_random_moment(session, kind)
            except MissedError:
                if session.is_full:
                    break
                continue
            self._note(kind, words)
            return
        self._say(f"missed: no chance for {kind}")

    def _at_a_random_moment(self, session: Session, kind: str) -> str:
        session.keep_busy(more=self.rng.randint(6, 12) if self._in_parts else session.count)
        if kind in ANY_MOMENT and self._in_parts and self.rng.random() < _ANY_MOMENT_FRAC:
            time.sleep(self.rng.uniform(0, 15))
        else:
            session.wait_for(session.victim)
            time.sleep(self.rng.uniform(0, 2))
        if session.driver is None or session.driver.ended() is not None:
            raise MissedError
        return STRIKES[kind](session)

    def _new_session(self) -> Session:
        self._studies += 1
        self._clear()
        session = Session(self.site, _DATABASE, f"faults-{self._studies:03d}", self._trials, self.rng)
        session.make_study(self.reference.made_up_prices())
        return session

    def _end(self, session: Session) -> None:
        self._say(f"finishing {session.study}: {session.rows.finished()} of {session.count} trials are finished")
        session.finish()
        self._examine(session)

    def _examine(self, session: Session) -> None:
        examine(session, self.reference.results(), self.totals)
        self._say(f"{session.study} is finished: {summary(self.struck, self.totals)}")
        for words in (*self.totals.differences, *self.totals.problems):
            self._say(f"WRONG: {words}")
        self._on_examined(self)

    def _clear(self) -> None:
        """The configurations are the same in every study."""
        for name in ("steps", "marks", "met"):
            for file in (self.site.folder / name).iterdir():
                file.unlink()

    def _note(self, kind: str, words: str) -> None:
        self.struck.append({"kind": kind, "what": words, "second": round(self.seconds, 1)})
        self._say(f"  {kind}: {words}")

    def _say(self, words: str) -> None:
        print(f"[{self.seconds:6.1f} s] {words}", flush=True)


def summary(struck: list[dict[str, Any]], totals: Totals) -> str:
    """The last line."""
    return f"faults={len(struck)} trials={totals.trials} lost={totals.lost} doubled={totals.doubled} zombies={totals.zombies}"


def main() -> None:
    """Plays the faults, writes the report of a long run, and ends with the summary and 0 only where nothing is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one fault of the most important kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=200)
    arguments = parser.parse_args()
    # So that what was started is ended here, too.
    signal.signal(signal.SIGTERM, _interrupted)
    quick = arguments.quick
    with fault_site(cpus=2 if quick else 1) as site:
        if quick:
            suite = Suite(site, seed=arguments.seed, trials=_QUICK_LIST)
            suite.play(list(QUICK))
        else:
            site.ray.start_node()
            # An interrupted run has the studies that were finished before.
            suite = Suite(site, seed=arguments.seed, trials=_LIST, in_parts=True, on_examined=partial(_write, arguments=arguments))
            suite.play(_long_plan(arguments.faults, arguments.seed))
    _show(suite)
    print(summary(suite.struck, suite.totals), flush=True)
    sys.exit(0 if suite.totals.holds else 1)


def _long_plan(faults: int, seed: int) -> list[str]:
    """Every kind once in random order, then every kind again."""
    kinds, rng = [*STRIKES, "taken_for_dead"], random.Random(seed)
    plan = [kind for _ in range(0, faults, len(kinds)) for kind in rng.sample(kinds, len(kinds))]
    return plan[:faults]


def _show(suite: Suite) -> None:
    totals = suite.totals
    for kind, count in sorted(Counter(fault["kind"] for fault in suite.struck).items()):
        print(f"  {kind:22} {count:4}")
    share = totals.steps_twice / max(1, totals.steps)
    same = "yes" if not totals.differences else "NO"
    print(f"bit-same: {same}; steps trained twice: {totals.steps_twice} of {totals.steps} ({share:.1%}); launches: {totals.launches}")
    for words in (*totals.differences, *totals.problems):
        print(f"WRONG: {words}")


def _write(suite: Suite, arguments: argparse.Namespace) -> None:
    import torch

    from benchmarks.evidence import provenance, write_result

    totals = suite.totals
    content = {
        **provenance(torch.device("cpu")),
        "seed": arguments.seed,
        "faults": len(suite.struck),
        "faults_by_kind": dict(sorted(Counter(fault["kind"] for fault in suite.struck).items())),
        **{
            name: getattr(totals, name) for name in ("trials", "attempts", "launches", "lost", "doubled", "zombies", "steps", "steps_twice")
        },
        "bit_same": not totals.differences,
        "differences": totals.differences,
        "problems": totals.problems,
        "disk_full_by": "a small tmpfs" if suite.site.has_disk else "RLIMIT_FSIZE",
        "seconds": round(suite.seconds, 1),
        "each": suite.struck,
    }
    write_result("faults", content)


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
