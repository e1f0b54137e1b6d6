"""A recorded table: real trainings of one network on one set of images, the steps they took, and what each kind of step costs.

The file is JSON lines compressed with gzip. Its first line says table, model, dataset, device, cost (kind of step -> milliseconds),
baseline (epochs and steps, from us lr and weight_decay too), space (the key `search` of a study file) and reference (the relative time
and the error that bound a hypervolume). Every other line is a training: params, seed, curve (validation accuracy after each epoch), counts
(kind of step -> steps) and, where it is known, train_s. Counts and prices stay apart, so that a table can be priced anew.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from studies.domains import Value
from studies.space import canonical_params, possible_steps
from studies.spec import StudySpec
from trainers.checks import check_integer, check_number
from trainers.config import DATASET_SIDE_PX
from trainers.cost import CostTable
from trainers.errors import InputError
from trainers.schedule import Plan, Schedule, Step
from trainers.wording import one_line, shown
from tuner.replay.prices import batch_unit, check_mapping, completed_prices, cost_table, read_prices, step_kind
from tuner.samplers.plan_cost import PlanCost

__all__ = ["Line", "RecordedTraining", "Table", "kind_name", "parse_table", "read_table", "write_table"]

Line = Mapping[str, Any]
_HEADER_KEYS: Final = ("table", "model", "dataset", "device", "cost", "baseline", "space", "reference")
_TRAINING_KEYS: Final = ("params", "seed", "curve", "counts")
_BASELINE_FIELDS: Final = ("lr", "weight_decay")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTraining:
    """One training as it really went.

    params: the canonical point of the table's space, searched fields only. curve: validation accuracy after each epoch, shares.
    counts: steps of each kind. train_s: seconds that it took beside whatever else the machine did, which is no price; None if unknown.
    """

    params: dict[str, Value]
    seed: int
    curve: tuple[float, ...]
    counts: dict[Step, int]
    train_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Recorded trainings that fill a search space, and the study that they answer.

    spec: a study of the table's name with its network, images, baseline and space. costs: its prices of the kinds of step.
    steps_per_epoch: batches of an epoch. reference: relative time and error that bound a search's hypervolume. digest: of the content.
    """

    spec: StudySpec
    device: str
    costs: CostTable
    steps_per_epoch: int
    reference: tuple[float, float]
    trainings: tuple[RecordedTraining, ...]
    digest: str

    @property
    def baseline_steps(self) -> int:
        """Steps of the full training."""
        return self.spec.training.epochs * self.steps_per_epoch

    @property
    def baseline_s(self) -> float:
        """Seconds of the full training: the unit of a search's budget."""
        return self.baseline_steps * self.costs.full_ms / 1000

    def relative_time(self, counts: Mapping[Step, int]) -> float:
        """Cost of these steps over that of the full training."""
        return self.costs.relative_time(counts, self.baseline_steps)

    @property
    def plan_cost(self) -> PlanCost:
        """The relative time of any point in the space, known before it is trained."""
        relative = {step: cost.relative for step, cost in self.costs.costs.items()}
        return PlanCost(self.spec.search, relative, self.steps_per_epoch, self.baseline_steps)

    def plan(self, params: Mapping[str, Value], seed: int = 0) -> Plan:
        """The exact steps of any training in the space, epoch by epoch. seed: the training's."""
        steps = params.get("epochs", self.spec.training.epochs) * self.steps_per_epoch
        full_px = self.spec.dataset.full_px
        return _plan(self.spec.search.schedule(params, seed).canonical(full_px), steps, full_px, self.steps_per_epoch)


@lru_cache(maxsize=512)
def _plan(schedule: Schedule, steps: int, full_px: int, steps_per_epoch: int) -> Plan:
    return schedule.plan(steps, full_px, steps_per_epoch)


def kind_name(step: Step) -> str:
    """ "<side>/<kernel>/<batches>", as tables name kinds of step; `trainers.cost.parse_step` reads it."""
    return f"{step.side_px}/{step.kernel}/{step.batches}"


def write_table(path: Path, header: Line, lines: Sequence[Line]) -> None:
    """Writes header and lines, gzipped; the same content gives the same bytes."""
    text = "".join(json.dumps(line) + "\n" for line in [header, *lines])
    with path.open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        packed.write(text.encode())


def read_table(path: str | Path) -> Table:
    """The table of a file; InputError in one sentence, with the line, where it is missing, damaged or breaks a rule."""
    try:
        text = gzip.decompress(Path(path).read_bytes()).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(one_line(f"table '{path}' can't be read, it must be JSON lines compressed with gzip: {reason}")) from None
    try:
        return parse_table([_parsed(number, line) for number, line in enumerate(text.splitlines(), start=1)])
    except InputError as error:
        raise InputError(one_line(f"table '{path}': {error}")) from None


def parse_table(lines: Sequence[Line]) -> Table:
    """The table whose file holds these lines, the header first; InputError, with the number of the line, where one breaks a rule."""
    if len(lines) < 2:
        raise InputError(f"it has {len(lines)} lines, it must have a header and at least one training")
    header, *trainings = lines
    try:
        table = _without_trainings(header, trainings)
    except InputError as error:
        raise InputError(f"line 1: {error}") from None
    unit, priced = batch_unit(header["cost"]), read_prices(header["cost"]).keys()
    recorded: list[RecordedTraining] = []
    written: set[str] = set()
    for number, line in enumerate(trainings, start=2):
        try:
            training = _training(table, unit, priced, line)
            # As it was written: several ways to write full resolution are one configuration, whose seeds may then be the same.
            identity = json.dumps([line["params"], training.seed], sort_keys=True)
            if identity in written:
                raise InputError(f"params and seed {training.seed} are those of an earlier line, each training must be listed only once")
        except InputError as error:
            raise InputError(f"line {number}: {error}") from None
        written.add(identity)
        recorded.append(training)
    return dataclasses.replace(table, trainings=tuple(recorded), digest=_digest(lines))


def _parsed(number: int, text: str) -> Line:
    try:
        line: object = json.loads(text)
    except ValueError:
        line = None
    if not isinstance(line, dict):
        raise InputError(f"line {number} is {shown(text)}, it must be a JSON mapping")
    return line


def _digest(lines: Sequence[Line]) -> str:
    return hashlib.sha256(json.dumps(list(lines), sort_keys=True).encode()).hexdigest()


def _without_trainings(header: Line, trainings: Sequence[Line]) -> Table:
    _check_keys(header, _HEADER_KEYS, "the header")
    for key in ("table", "model", "dataset", "device"):
        if not isinstance(header[key], str):
            raise InputError(f"{key} is {shown(header[key])}, it must be a text")
    baseline = check_mapping("baseline", header["baseline"])
    _check_keys(baseline, ("epochs", "steps"), "baseline")
    check_integer("baseline.epochs", baseline["epochs"], lowest=1)
    check_integer("baseline.steps", baseline["steps"], lowest=1)
    if baseline["steps"] % baseline["epochs"]:
        raise InputError(f"baseline.steps is {baseline['steps']}, it must be a multiple of baseline.epochs = {baseline['epochs']}")
    prices = read_prices(header["cost"])
    spec = _spec(header, baseline, max(prices).side_px, trainings)
    return Table(
        spec=spec,
        device=header["device"],
        costs=cost_table(completed_prices(prices, possible_steps(spec.search, spec.dataset.full_px)), header["device"]),
        steps_per_epoch=baseline["steps"] // baseline["epochs"],
        reference=_reference(header["reference"]),
        trainings=(),
        digest="",
    )


def _spec(header: Line, baseline: Line, full_px: int, trainings: Sequence[Line]) -> StudySpec:
    known = DATASET_SIDE_PX.get(header["dataset"]) == full_px
    return StudySpec.from_json_dict(
        {
            "name": _study_name(header["table"]),
            "dataset": {"name": header["dataset"]} if known else {"name": "folder", "side_px": full_px},
            "model": header["model"],
            "training": {"epochs": baseline["epochs"], **_baseline_fields(baseline, trainings)},
            "search": header["space"],
        }
    )


def _study_name(table: str) -> str:
    """A table's name as a study may have it: other people's tables may be called anything."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", table).strip("._-")[:80] or "table"


def _baseline_fields(baseline: Line, trainings: Sequence[Line]) -> dict[str, Any]:
    """The baseline's learning rate and weight decay; where the header doesn't say, those of the most often recorded full training."""
    if all(field in baseline for field in _BASELINE_FIELDS):
        return {field: baseline[field] for field in _BASELINE_FIELDS}
    params = [line["params"] for line in trainings if isinstance(line.get("params"), Mapping)]
    full = Counter(
        tuple(point[field] for field in _BASELINE_FIELDS)
        for point in params
        if point.get("epochs") == baseline["epochs"] and point.get("frequency") == 0 and set(_BASELINE_FIELDS) <= point.keys()
    )
    if not full:
        raise InputError(f"baseline has no lr and weight_decay, it must where no training of {baseline['epochs']} epochs at frequency 0 is")
    return dict(zip(_BASELINE_FIELDS, full.most_common(1)[0][0], strict=True))


def _reference(raw: object) -> tuple[float, float]:
    if not isinstance(raw, list) or len(raw) != 2:
        raise InputError(f"reference is {shown(raw)}, it must be a list of a relative time and an error")
    check_number("reference relative time", raw[0], above=0)
    check_number("reference error", raw[1], above=0, high=1)
    return float(raw[0]), float(raw[1])


def _training(table: Table, unit: int, priced: Collection[Step], line: Line) -> RecordedTraining:
    _check_keys(line, _TRAINING_KEYS, "a training")
    params = canonical_params(table.spec.search, check_mapping("params", line["params"]))
    check_integer("seed", line["seed"], lowest=0)
    if (train_s := line.get("train_s")) is not None:
        check_number("train_s", train_s)
    epochs = table.spec.search.complete(params)["epochs"]
    counts = {step_kind(name, unit): count for name, count in check_mapping("counts", line["counts"]).items()}
    _check_counts(table, priced, counts, epochs)
    return RecordedTraining(params=params, seed=line["seed"], curve=_curve(line["curve"], epochs), counts=counts, train_s=train_s)


def _curve(raw: object, epochs: int) -> tuple[float, ...]:
    if not isinstance(raw, list) or len(raw) != epochs:
        raise InputError(f"curve is {shown(raw)}, it must be a list of one validation accuracy for each of {epochs} epochs")
    for accuracy in raw:
        check_number("validation accuracy", accuracy, high=1)
    return tuple(map(float, raw))


def _check_counts(table: Table, priced: Collection[Step], counts: Mapping[Step, int], epochs: int) -> None:
    for step, count in counts.items():
        check_integer(f"count of '{kind_name(step)}'", count, lowest=1)
        if step not in priced:
            raise InputError(f"step kind '{kind_name(step)}' has no price, cost must have one for every kind")
    batches = sum(step.batches * count for step, count in counts.items())
    if batches != epochs * table.steps_per_epoch:
        expected = f"{epochs * table.steps_per_epoch}, those of {epochs} epochs of {table.steps_per_epoch}"
        raise InputError(f"counts take {batches} batches, they must take {expected}")


def _check_keys(line: Line, keys: Sequence[str], what: str) -> None:
    for key in keys:
        if key not in line:
            raise InputError(f"{key} is missing, {what} needs {', '.join(keys)}")
