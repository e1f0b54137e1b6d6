"""What the fault suite counts once a study is finished: lost, doubled, zombies, steps trained twice, and every difference."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from benchmarks.fault_network import FIRST_SEED
from benchmarks.fault_plan import configurations, study_spec
from benchmarks.fault_rows import Row
from benchmarks.fault_session import Session
from tuner.storage.distributions import distributions


@dataclass(slots=True)
class Totals:
    """Over all studies so far. trials: finished ones. attempts: all. steps: that had to be trained. steps_twice: trained beyond those."""

    trials: int = 0
    attempts: int = 0
    lost: int = 0
    doubled: int = 0
    zombies: int = 0
    steps: int = 0
    steps_twice: int = 0
    launches: int = 0
    differences: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.zombies or self.differences or self.problems)


def examine(session: Session, reference: dict[int, dict[str, Any]], totals: Totals) -> None:
    """Adds a finished study. lost and doubled are the larger ones of what `tuner check` says and of what the rows themselves say."""
    found = session.look()
    rows = session.rows.trials()
    finished = defaultdict(list)
    for row in rows:
        if row.state == "COMPLETE":
            finished[row.seed].append(row)
    seeds = range(FIRST_SEED, FIRST_SEED + session.count)
    totals.trials += sum(map(len, finished.values()))
    totals.attempts += len(rows)
    totals.lost += max(found.lost if found else 0, sum(seed not in finished for seed in seeds))
    totals.doubled += max(found.doubled if found else 0, sum(len(same) - 1 for same in finished.values()))
    totals.zombies += max(found.zombies if found else 0, sum(row.state not in ("COMPLETE", "FAIL") for row in rows))
    totals.launches += session.launches
    totals.differences += _wrong_configurations(session, finished) + _prices(session, finished)
    for seed, same in finished.items():
        totals.differences += [
            f"{session.study}: trial {row.number}: {words}" for row in same for words in _different(row, reference[seed])
        ]
        trained = _trained_steps(session, seed)
        totals.steps += reference[seed]["steps"]
        totals.steps_twice += trained - reference[seed]["steps"]
        if trained < reference[seed]["steps"]:
            totals.problems.append(f"{session.study}: of seed {seed} only {trained} of {reference[seed]['steps']} steps were trained")
    totals.problems += session.problems
    session.rows.close()


def _different(row: Row, undisturbed: dict[str, Any]) -> list[str]:
    """Bit for bit: JSON keeps every digit of a float."""
    record = row.attributes["record"]
    told = {
        "curve": row.attributes["curve"],
        "val_accuracy": record["metrics"]["val_accuracy"],
        "val_loss": record["metrics"]["val_loss"],
        "test_accuracy": record["test_accuracy"],
    }
    return [f"{name} is {value}, undisturbed it is {undisturbed[name]}" for name, value in told.items() if value != undisturbed[name]]


def _wrong_configurations(session: Session, finished: dict[int, list[Row]]) -> list[str]:
    """Whether each was trained with its own parameters: as Optuna keeps them, numbers, or indices of choices."""
    kept, kinds = session.rows.parameters(), distributions(study_spec(session.study).search)
    wrong = []
    for proposal in configurations(session.count):
        wanted = {name: kind.to_internal_repr(proposal.fixed[name]) for name, kind in kinds.items()}
        rows = finished.get(proposal.seed or 0, [])
        wrong += [f"{session.study}: trial {row.number} has {kept[row.number]}, not {wanted}" for row in rows if kept[row.number] != wanted]
    return wrong


def _prices(session: Session, finished: dict[int, list[Row]]) -> list[str]:
    """The same steps cost the same, whichever driver told the trial."""
    prices = defaultdict(set)
    for rows in finished.values():
        for row in rows:
            record = row.attributes["record"]
            prices[json.dumps(record["counts"], sort_keys=True)].add(record["metrics"]["relative_time"])
    return [
        f"{session.study}: {counts} cost {sorted(found)}, depending on the driver" for counts, found in prices.items() if len(found) > 1
    ]


def _trained_steps(session: Session, seed: int) -> int:
    """The network leaves a line a step, also of those that a kill has thrown away."""
    file = session.site.folder / "steps" / str(seed)
    return len(file.read_text().splitlines()) if file.exists() else 0
