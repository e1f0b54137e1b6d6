"""`tuner record`: a finished study as a table that searches can be replayed on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

from studies.space import SearchSpace
from studies.spec import StudySpec
from trainers.cost import CostTable, parse_step
from trainers.errors import RunError
from tuner.commands.usage import check_out_file
from tuner.launching.timing import COST_TABLES, DATASET_FACTS
from tuner.replay.table import Line, kind_name, parse_table, write_table
from tuner.results.front import ACCURACY, baseline, measured
from tuner.storage.lookup import open_study, stored_spec
from tuner.storage.store import StudyStore
from tuner.storage.trials import CompletedTrial

# What every table has, searched or not; other fields of a space are written where they are searched.
_FIELDS: Final = (
    *("policy", "frequency", "scale", "kernel", "batch_norm", "window_start", "window_length", "growth"),
    *("epochs", "lr", "weight_decay"),
)
# A trial that takes a tenth more time than the baseline is still worth something, and more than that nothing.
_LONGEST_TIME: Final = 1.1


def record_study(reference: str, storage: str | None, out: str | None) -> None:
    """`tuner record`."""
    check_out_file(out)
    store = open_study(reference, storage)
    header, lines, left_out = study_lines(store)
    path = Path(out or f"{store.name}.jsonl.gz")
    # Nothing is written that couldn't be read again.
    parse_table([header, *lines])
    try:
        write_table(path, header, lines)
    except OSError as error:
        raise RunError(f"table '{path}' can't be written: {error.strerror}") from None
    also = f", {left_out} whose curve has gaps are not" if left_out else ""
    print(f"{len(lines)} trainings of study '{store.name}' are in {path}{also}")


def study_lines(store: StudyStore) -> tuple[Line, list[Line], int]:
    """Header and lines of a study's table, and how many completed trials are left out because their curve is not whole.

    RunError where the study was never calibrated or its baseline has not completed.
    """
    spec, completed = stored_spec(store), store.trials().completed
    whole = [trial for trial in completed if _is_whole(trial)]
    tables, facts = store.get_attr(COST_TABLES), store.get_attr(DATASET_FACTS)
    if not tables or not facts or baseline(whole) is None:
        raise RunError(f"study '{store.name}' has no completed baseline yet, so it can't be recorded as a table: launch it first")
    costs = CostTable.from_dict(tables[0])
    return (
        _header(spec, costs, facts["steps_per_epoch"], whole),
        [_line(spec.search, trial) for trial in whole],
        len(completed) - len(whole),
    )


def _is_whole(trial: CompletedTrial) -> bool:
    return len(trial.curve) == trial.params.get("epochs") and all(map(math.isfinite, trial.curve))


def _header(spec: StudySpec, costs: CostTable, steps_per_epoch: int, trials: list[CompletedTrial]) -> dict[str, Any]:
    training = spec.training
    return {
        "table": spec.name,
        "model": spec.model,
        "dataset": spec.dataset.name,
        "device": costs.conditions["device"],
        "cost": {kind_name(step): cost.relative * costs.full_ms for step, cost in sorted(costs.costs.items())},
        "baseline": {
            "epochs": training.epochs,
            "lr": training.lr,
            "weight_decay": training.weight_decay,
            "steps": training.epochs * steps_per_epoch,
        },
        "space": spec.search.to_json_dict(),
        "reference": [_LONGEST_TIME, _largest_error(trials)],
    }


def _largest_error(trials: list[CompletedTrial]) -> float:
    """Error of the shortest full-resolution start point, rounded up to a tenth: whoever accepts more trains for less long."""
    starts = [trial for trial in trials if trial.rival in ("baseline", "shorter")]
    shortest = min(starts, key=lambda trial: (trial.params["epochs"], trial.number))
    accuracy = measured(shortest, ACCURACY)
    error = 1 - (shortest.curve[-1] if accuracy is None else accuracy)
    # Rounded first: 1 - 0.7 is more than 0.3 in binary.
    return max(1, math.ceil(round(10 * error, 9))) / 10


def _line(space: SearchSpace, trial: CompletedTrial) -> dict[str, Any]:
    fields = [*_FIELDS, *(field for field in space.searched if field not in _FIELDS)]
    return {
        "params": {field: trial.params[field] for field in fields},
        "seed": trial.seed,
        "curve": trial.curve,
        "counts": {kind_name(parse_step(name)): count for name, count in sorted(trial.counts.items())},
        "train_s": trial.seconds.get("train"),
    }
