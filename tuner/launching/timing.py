"""Cost tables of a study: calibrated on each kind of device before the first trial, kept with the study, reused while nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, cast

from studies.space import possible_steps
from studies.spec import StudySpec
from trainers.config import TrainConfig
from trainers.cost import CostTable
from trainers.errors import DownsampleTunerError, InputError, NoisyTimingError, OutOfMemoryError, RunError
from trainers.schedule import Step
from tuner.storage.store import StudyStore

if TYPE_CHECKING:
    from collections.abc import Iterator

COST_TABLES: Final = "cost_tables"
DATASET_FACTS: Final = "dataset_facts"
_ERRORS: Final[dict[str, type[DownsampleTunerError]]] = {
    cls.__name__: cls for cls in (InputError, NoisyTimingError, OutOfMemoryError, RunError)
}


class DeviceKind(TypedDict):
    """What step times on a node depend on, and how many steps an epoch of the study's training has."""

    conditions: dict[str, Any]
    steps_per_epoch: int


@dataclass(frozen=True, slots=True)
class Timing:
    """reference: the study's first table, which prices its trials. tables: the newest by device. steps_per_epoch: of the training."""

    reference: CostTable
    tables: dict[str, CostTable]
    steps_per_epoch: int


def study_timing(
    store: StudyStore,
    spec: StudySpec,
    devices: dict[str, DeviceKind],
    *,
    accept_noisy: bool,
    on_progress: Callable[[str, int, int], None],
) -> Timing:
    """The study's cost tables, those of `devices` included. on_progress(device, done, expected) while steps are timed.

    The study's first table prices all its trials: another one would move relative_time in the middle of a study, or between two drivers.
    """
    tables = _kept_tables(store, [])
    facts = store.get_attr(DATASET_FACTS) or {}
    for node, found in devices.items():
        facts = {"steps_per_epoch": found["steps_per_epoch"]}
        if not any(table.conditions == found["conditions"] and _covers(table, spec) for table in tables):
            tables = _kept_tables(store, [_calibrate_on(node, spec, accept_noisy, found["conditions"]["device"], on_progress)])
    store.set_attr(DATASET_FACTS, facts)
    return Timing(tables[0], {table.conditions["device"]: table for table in tables}, facts["steps_per_epoch"])


def kept_timing(store: StudyStore) -> tuple[CostTable, int] | None:
    """The table that prices the study's trials, and its steps an epoch; None while it has none."""
    tables, facts = store.get_attr(COST_TABLES), store.get_attr(DATASET_FACTS)
    return (CostTable.from_dict(tables[0]), facts["steps_per_epoch"]) if tables and facts else None


def timing_doubt(store: StudyStore) -> str | None:
    """Why the relative times of a study's trials are worth less, in a sentence without its full stop; None where they are not.

    Asks the first cost table alone, because it prices all trials.
    """
    tables = store.get_attr(COST_TABLES)
    reason = CostTable.from_dict(tables[0]).reason_to_doubt() if tables else None
    return None if reason is None else f"relative times are worth less, because {reason}"


def _kept_tables(store: StudyStore, new: Sequence[CostTable]) -> list[CostTable]:
    """The study's tables with `new` ones added: several drivers may time at once, and what the first one kept stays the first."""
    added = [table.to_dict() for table in new]
    kept = store.change_attr(COST_TABLES, lambda tables: [*(tables or []), *(table for table in added if table not in (tables or []))])
    return [CostTable.from_dict(content) for content in kept]


def _covers(table: CostTable, spec: StudySpec) -> bool:
    return table.costs.keys() >= possible_steps(spec.search, spec.dataset.full_px)


def device_kinds(spec: StudySpec) -> dict[str, DeviceKind]:
    """One node (its id) of every kind of device that the trials may get. Loads the images there, so that missing files show."""
    import ray

    kinds: dict[str, DeviceKind] = {}
    for node in ray.nodes():
        fits = node["Alive"] and node["Resources"].get("CPU", 0) >= spec.resources.cpus
        if fits and node["Resources"].get("GPU", 0) >= spec.resources.gpus:
            # Without a GPU it takes no core: another driver may have them all, for as long as its launch goes on.
            cores = spec.resources.cpus if spec.resources.gpus else 0
            described = ray.get(_on_node(ray.remote(_describe), node["NodeID"], spec, num_cpus=cores).remote(_config(spec)))
            found = cast("DeviceKind", _unwrap(described))
            if found not in kinds.values():
                kinds[node["NodeID"]] = found
    return kinds


def _calibrate_on(node: str, spec: StudySpec, accept_noisy: bool, device: str, on_progress: Callable[[str, int, int], None]) -> CostTable:
    import ray

    task = _on_node(ray.remote(_calibrate), node, spec, num_cpus=spec.resources.cpus, num_returns="streaming")
    for reference in task.remote(_config(spec), possible_steps(spec.search, spec.dataset.full_px), accept_noisy):
        message = _unwrap(ray.get(reference))
        if "table" in message:
            return CostTable.from_dict(message["table"])
        on_progress(device, message["done"], message["expected"])
    raise RunError(f"the calibration on {device} ended without a table")


def _on_node(task: Any, node: str, spec: StudySpec, *, num_cpus: int, **options: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return task.options(
        num_cpus=num_cpus,
        num_gpus=spec.resources.gpus,
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        **options,
    )


def _config(spec: StudySpec) -> TrainConfig:
    return spec.train_config(
        spec.baseline_params(), spec.seed, device=trial_device(spec), threads=spec.resources.cpus, root=data_root(spec)
    )


def data_root(spec: StudySpec) -> str:
    """The folder of the images as workers find it: Tune gives each trial a current folder of its own."""
    return str(Path(spec.dataset.root).absolute())


def trial_device(spec: StudySpec) -> str:
    """What a trial trains on: a trial that asked for no GPU doesn't take one."""
    return "cuda" if spec.resources.gpus else "cpu"


def _describe(config: TrainConfig) -> dict[str, Any]:
    """Runs on a node: what its timings depend on, and how long an epoch is. Loads the data, so that missing files show here."""
    from trainers.calibration import cost_conditions
    from trainers.data import load_data, steps_per_epoch
    from trainers.device import resolve_device

    try:
        data = load_data(config.data, resolve_device(config.device))
        return {"conditions": cost_conditions(config), "steps_per_epoch": steps_per_epoch(len(data.train), config.batch_size)}
    except DownsampleTunerError as error:
        return _wrap(error)


def _calibrate(config: TrainConfig, steps: frozenset[Step], accept_noisy: bool) -> Iterator[dict[str, Any]]:
    """Runs on a node: yields progress, then the table."""
    from trainers.calibration import calibration
    from trainers.data import load_data
    from trainers.device import resolve_device

    try:
        classes = load_data(config.data, resolve_device(config.device)).num_classes
        for progress in calibration(config, steps, classes, accept_noisy=accept_noisy):
            if isinstance(progress, CostTable):
                yield {"table": progress.to_dict()}
            else:
                yield {"done": progress.done, "expected": progress.expected}
    except DownsampleTunerError as error:
        yield _wrap(error)


def _wrap(error: DownsampleTunerError) -> dict[str, Any]:
    """An error as a value: Ray would hand back its own exception around a remote traceback."""
    return {"error": type(error).__name__, "text": str(error)}


def _unwrap(message: dict[str, Any]) -> dict[str, Any]:
    if "error" in message:
        raise _ERRORS.get(message["error"], RunError)(message["text"])
    return message
