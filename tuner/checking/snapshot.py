"""A study read once, past every cache, for those who judge it instead of working on it; and what they find."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal, TypeVar

from optuna.trial import FrozenTrial, TrialState

from trainers.cost import CostTable
from tuner.launching.delivery import FINISHED
from tuner.launching.launch import ASKED
from tuner.launching.places import CHECKPOINTS
from tuner.launching.pricing import FirstBaseline, Pricing
from tuner.launching.timing import COST_TABLES, DATASET_FACTS
from tuner.storage import rows
from tuner.storage.lookup import stored_spec
from tuner.storage.opening import GRACE_S, with_retries
from tuner.storage.records import RECORD, TrialReader, lineage_of
from tuner.storage.store import StudyStore, abandoned
from tuner.storage.trials import Rival, StudyTrials

T = TypeVar("T")

Kind = Literal[
    "waiting",
    "no_record",
    "no_values",
    "stray_values",
    "zombie",
    "attempts",
    "trained_twice",
    "finished_twice",
    "duplicate",
    "too_many",
    "unfinished",
    "values",
    "untold",
    "checkpoints",
    "temporary_files",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A part of the invariant that does not hold. trial, root: numbers; None where it is not about one."""

    kind: Kind
    sentence: str
    trial: int | None = None
    root: int | None = None
    repairable: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """What was looked at, and what was found. looked: False where it can't be known, for the reason in the sentence."""

    what: str
    sentence: str
    violations: list[Violation] = field(default_factory=list)
    looked: bool = True

    @property
    def ok(self) -> bool | None:
        return not self.violations if self.looked else None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A trial of the study as the database has it, and which attempt it is at which root trial.

    rival: as the trial was made. given_seed: None where the seed derives from the root trial's number.
    """

    number: int
    root: int
    attempt: int
    rival: Rival | None
    given_seed: int | None
    trial: FrozenTrial

    @property
    def is_finished(self) -> bool:
        return self.trial.state in FINISHED

    @property
    def record(self) -> dict[str, Any] | None:
        """What is kept of how it was trained."""
        record = self.trial.user_attrs.get(RECORD)
        return dict(record) if isinstance(record, Mapping) else None


class Snapshot:
    """One study. asked: finished trials that its last launch asked for. place: its checkpoints' and results'. None where no launch was.

    abandoned: why nobody answers for a RUNNING trial any more, by number.
    """

    def __init__(self, store: StudyStore) -> None:
        self.name: Final = store.name
        self.spec: Final = stored_spec(store)
        self.reader: Final = TrialReader(self.spec)
        self.asked: Final[int | None] = store.get_attr(ASKED)
        self.place: Final[str | None] = store.get_attr(CHECKPOINTS)
        # In this order: a trial that was running and has ended since is no contradiction.
        running = _read(store, lambda: rows.running_trials(store.storage, store.study_id))
        self.trials: Final = _read(store, lambda: store.storage.get_all_trials(store.study_id, deepcopy=False))
        self.attempts: Final = [_attempt(trial) for trial in self.trials]
        reasons = {beat.number: abandoned(beat, GRACE_S) for beat in running}
        self.abandoned: Final = {one.number: reasons[one.number] for one in self.running if reasons.get(one.number)}
        self._tables: Final = [CostTable.from_dict(content) for content in store.get_attr(COST_TABLES) or []]
        self._facts: Final = store.get_attr(DATASET_FACTS) or {}

    @cached_property
    def families(self) -> dict[int, list[Attempt]]:
        """The attempts at each root trial, in the order of their attempt numbers."""
        families: dict[int, list[Attempt]] = {}
        for one in sorted(self.attempts, key=lambda one: (one.attempt, one.number)):
            families.setdefault(one.root, []).append(one)
        return dict(sorted(families.items()))

    @property
    def running(self) -> list[Attempt]:
        return self.of(TrialState.RUNNING)

    @property
    def finished(self) -> list[Attempt]:
        return self.of(*FINISHED)

    @property
    def goes_on(self) -> bool:
        """Whether some live driver has a trial."""
        return len(self.abandoned) < len(self.running)

    @cached_property
    def read_back(self) -> StudyTrials:
        """The trials as the rest of this package sees them."""
        return self.reader.trials(self.trials)

    @cached_property
    def pricing(self) -> Pricing | None:
        """How the study's trials are priced, by its stored cost tables; None where nothing was timed yet."""
        if not self._tables or "steps_per_epoch" not in self._facts:
            return None
        return Pricing(
            objectives=self.spec.objectives,
            reference=self._tables[0],
            tables={table.conditions["device"]: table for table in self._tables},
            baseline_steps=self.spec.training.epochs * self._facts["steps_per_epoch"],
            commit="",
            baseline=FirstBaseline(lambda: self.read_back.completed),
        )

    def of(self, *states: TrialState) -> list[Attempt]:
        """The trials in one of these states."""
        return [one for one in self.attempts if one.trial.state in states]


def listed(numbers: Iterable[int]) -> str:
    """Trial numbers in a sentence: "3", "3 and 9", "3, 9 and 12"."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def _attempt(trial: FrozenTrial) -> Attempt:
    lineage = lineage_of(trial)
    return Attempt(trial.number, lineage["root"], lineage["attempt"], lineage["rival"], lineage["seed"], trial)


def _read(store: StudyStore, call: Callable[[], T]) -> T:
    return with_retries(call, f"the database {store.storage.url}")
