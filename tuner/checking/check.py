"""Whether the promise of docs/guarantees.md holds for a study: nothing that finished is lost, nothing is counted twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from optuna.trial import TrialState

from tuner.checking.check_disk import check_disk
from tuner.checking.snapshot import Attempt, Checked, Kind, Snapshot, Violation, listed
from tuner.storage.records import refused_values
from tuner.storage.store import StudyStore


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyCheck:
    """What a study holds, what was looked at, and what is wrong. asked: None where no launch has asked for any number yet."""

    study: str
    asked: int | None
    completed: int
    pruned: int
    failed: int
    running: int
    checked: list[Checked]
    goes_on: bool

    @property
    def violations(self) -> list[Violation]:
        return [violation for checked in self.checked for violation in checked.violations]

    @property
    def holds(self) -> bool:
        return not self.violations

    @property
    def finished(self) -> int:
        return self.completed + self.pruned

    @property
    def lost(self) -> int:
        """Finished trials that are missing from those asked for; 0 while a live driver still works on them."""
        return 0 if self.goes_on or self.asked is None else max(0, self.asked - self.finished)

    @property
    def doubled(self) -> int:
        """Results that are there once too often: second ones of a root trial or of one configuration, or more than were asked for."""
        twice = len(self.of("finished_twice", "duplicate"))
        return max(twice, self.finished - self.asked if self.asked is not None else 0)

    @property
    def zombies(self) -> int:
        """RUNNING trials without a live driver."""
        return len(self.of("zombie"))

    def of(self, *kinds: Kind) -> list[Violation]:
        """The violations of these kinds."""
        return [violation for violation in self.violations if violation.kind in kinds]


def check_study(store: StudyStore) -> StudyCheck:
    """Reads all trials from the database and all results from the study's place; changes nothing. Safe beside running launches."""
    study = Snapshot(store)
    return StudyCheck(
        study=study.name,
        asked=study.asked,
        completed=len(study.of(TrialState.COMPLETE)),
        pruned=len(study.of(TrialState.PRUNED)),
        failed=len(study.of(TrialState.FAIL)),
        running=len(study.running),
        checked=[_states(study), _drivers(study), _number(study), _attempts(study), _configurations(study), *check_disk(study)],
        goes_on=study.goes_on,
    )


def _states(study: Snapshot) -> Checked:
    violations = [violation for one in study.attempts for violation in _wrong_state(study, one)]
    counts = ", ".join(f"{len(found)} {state.name}" for state in TrialState if (found := study.of(state)))
    return Checked("states", f"{len(study.attempts)} trials: {counts}" if counts else "no trials yet", violations)


def _wrong_state(study: Snapshot, one: Attempt) -> Iterator[Violation]:
    """A trial is being trained, or has ended in one way, with what belongs to it."""
    state, values = one.trial.state, one.trial.values or ()

    def wrong(kind: Kind, words: str, *, repairable: bool = False) -> Violation:
        return Violation(kind=kind, trial=one.number, root=one.root, sentence=f"trial {one.number} {words}", repairable=repairable)

    if state == TrialState.WAITING:
        yield wrong("waiting", "is WAITING: another program has put it there, and no launch takes it up", repairable=True)
    if one.is_finished and one.record is None:
        yield wrong("no_record", f"is {state.name}, but nothing is kept of its training: another program has ended it")
    if state == TrialState.COMPLETE and (reason := _refused(study.spec.objectives, values)):
        yield wrong("no_values", f"is COMPLETE, but {reason}")
    if state in (TrialState.FAIL, TrialState.PRUNED) and values:
        yield wrong("stray_values", f"is {state.name}, but has the values {list(values)}")


def _refused(objectives: Sequence[str], values: Sequence[float]) -> str:
    return refused_values(objectives, dict(zip(objectives, values, strict=False)))


def _drivers(study: Snapshot) -> Checked:
    violations = [
        Violation(kind="zombie", trial=one.number, root=one.root, sentence=f"trial {one.number} is RUNNING, but {reason}", repairable=True)
        for one in study.running
        if (reason := study.abandoned.get(one.number))
    ]
    return Checked("drivers", f"{len(study.running) - len(violations)} of {len(study.running)} running trials have a live one", violations)


def _number(study: Snapshot) -> Checked:
    finished = len(study.finished)
    if study.asked is None:
        return Checked("number", f"{finished} are finished; no launch has said how many it asks for", looked=False)
    words = f"{finished} of {study.asked} trials asked for are finished"
    if finished > study.asked:
        return Checked("number", words, [Violation(kind="too_many", sentence=f"{words}: {finished - study.asked} too many")])
    if finished < study.asked and not study.goes_on:
        return Checked("number", words, [Violation(kind="unfinished", sentence=f"{words}, and no driver has one of the others now")])
    return Checked("number", words if finished == study.asked else f"{words}, others are being trained")


def _attempts(study: Snapshot) -> Checked:
    violations = [violation for family in study.families.values() for violation in _wrong_family(study, family)]
    words = f"{len(study.attempts)} at {len(study.families)} root trials, numbered without gaps, one at a time and one result each"
    return Checked("attempts", words, violations)


def _wrong_family(study: Snapshot, family: Sequence[Attempt]) -> Iterator[Violation]:
    root, numbers = family[0].root, [one.attempt for one in family]
    if numbers != list(range(1, len(family) + 1)):
        words = f"root trial {root} has attempts numbered {listed(numbers)}, they must count up from 1"
        yield Violation(kind="attempts", root=root, sentence=words)
    finished = sorted((one for one in family if one.is_finished), key=lambda one: (one.trial.datetime_complete or datetime.max, one.number))
    running = [one for one in family if one.trial.state == TrialState.RUNNING]
    live = [one for one in running if one.number not in study.abandoned]
    for second in finished[1:]:
        words = f"root trial {root} has the result of trial {second.number} besides that of trial {finished[0].number}, which was first"
        yield Violation(kind="finished_twice", trial=second.number, root=root, sentence=words)
    if len(running) > 1 or (running and finished):
        words = f"root trial {root} is being trained by trials {listed(one.number for one in running)}"
        words += f", but trial {finished[0].number} has its result" if finished else " at once"
        yield Violation(kind="trained_twice", root=root, sentence=words, repairable=len(live) + bool(finished) <= 1)


def _configurations(study: Snapshot) -> Checked:
    """Each root trial stands for a configuration of its own: parameters and seed, and the start points once each."""
    roots = {one.root: one for one in reversed(study.finished)}
    groups: dict[str, list[Attempt]] = defaultdict(list)
    for one in reversed(roots.values()):
        groups[_configuration(one)].append(one)
    violations = [
        Violation(
            kind="duplicate",
            trial=second.number,
            root=second.root,
            sentence=f"trial {second.number} trained the same configuration as trial {first.number}, so that it counts twice",
        )
        for first, *others in groups.values()
        for second in others
    ]
    return Checked("configurations", f"{len(roots)} finished root trials differ in parameters, seed or start point", violations)


def _configuration(one: Attempt) -> str:
    # A start point is trained once whatever its seed, unless the seed was chosen with it, as `tuner confirm` does.
    is_start_point = one.rival in ("baseline", "shorter") and one.given_seed is None
    seed = (one.record or {}).get("seed", f"of root trial {one.root}")
    return repr((sorted(one.trial.params.items()), one.rival if is_start_point else seed))
