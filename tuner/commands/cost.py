"""`tuner cost`: what a schedule would save, from step times measured in about a minute, before anything is trained."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainers.checks import check_integer, check_name
from trainers.config import DataConfig, Precision, TrainConfig
from trainers.cost import CostTable, step_name
from trainers.environment import training_environment
from trainers.errors import InputError, RunError
from trainers.schedule import Schedule, Step
from tuner.results.describe import describe_duration, describe_schedule, describe_share


class ImageSet(NamedTuple):
    """Full side in pixels, classes, and training images after those for validation are split off (a tenth; of digits a quarter)."""

    side_px: int
    classes: int
    images: int


IMAGE_SETS: Final = {
    "cifar10": ImageSet(32, 10, 45_000),
    "cifar100": ImageSet(32, 100, 45_000),
    "fashion_mnist": ImageSet(28, 10, 54_000),
    "digits": ImageSet(32, 10, 1_077),
    "imagenet": ImageSet(224, 1000, 1_153_050),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The training that is asked about. side_px, classes, images: replace the dataset's own, of which nothing is read.

    threads: None means one a core.
    """

    model: str
    dataset: str
    side_px: int | None
    classes: int | None
    images: int | None
    epochs: int
    batch_size: int
    precision: str
    device: str
    threads: int | None

    def image_set(self) -> ImageSet:
        check_name("--dataset", self.dataset, tuple(IMAGE_SETS))
        own = {name: getattr(self, name) for name in ImageSet._fields if getattr(self, name) is not None}
        for name, value in own.items():
            check_integer(f"--{name.replace('_', '-')}", value, lowest=1)
        return IMAGE_SETS[self.dataset]._replace(**own)

    def config(self, schedule: Schedule) -> TrainConfig:
        return TrainConfig(
            model=self.model,
            data=DataConfig(name="folder", side_px=self.image_set().side_px),
            schedule=schedule,
            epochs=self.epochs,
            batch_size=self.batch_size,
            precision=cast("Precision", self.precision),
            device=self.device,
            threads=_threads(self.threads),
        )


def show_cost(path: str, workload: Workload, *, accept_noisy: bool, as_json: bool) -> None:
    """`tuner cost`. On made-up images, so it needs no dataset; nor a database or Ray."""
    schedule = Schedule.load(path)
    config, images = workload.config(schedule), workload.image_set()
    _enter(training_environment(config.threads or 1))
    from tuner.launching.display import waiting

    # Apart from what --json prints.
    progress = Console(stderr=True)
    with waiting(progress, "loading torch"):
        from trainers.splits import steps_per_epoch
    steps = steps_per_epoch(images.images, config.batch_size)
    counts = schedule.plan(config.epochs * steps, images.side_px, steps_per_epoch=steps).counts()
    table = _calibrated(config, counts, images.classes, progress, accept_noisy=accept_noisy)
    found = prediction(table, counts, config.epochs, steps)
    if as_json:
        training = images._asdict() | {name: getattr(config, name) for name in ("model", "batch_size", "epochs", "precision")}
        calibration = table.to_dict() | {"doubt": table.reason_to_doubt()}
        content = {"schedule": schedule.to_dict(), "training": training, **found, "calibration": calibration}
        print(json.dumps(content, indent=2, allow_nan=False))
    else:
        _print(found, config, images, table)


def prediction(table: CostTable, counts: Mapping[Step, int], epochs: int, steps_per_epoch: int) -> dict[str, Any]:
    """What a plan takes over full resolution with the same epochs and batch size, and how each kind of step adds to it; JSON-ready.

    low, high: as if every kind of step lay at the same end of its 95 % interval. epochs_in_the_same_time: of plain full-resolution
    training, the rival that a schedule has to beat. peak_mib: None on a CPU.
    """
    batches = epochs * steps_per_epoch
    relative_time = table.relative_time(counts, batches)
    costs = {step: table.costs[step] for step in counts}
    return {
        "relative_time": relative_time,
        "low": sum(count * costs[step].low for step, count in counts.items()) / batches,
        "high": sum(count * costs[step].high for step, count in counts.items()) / batches,
        "epochs_in_the_same_time": relative_time * epochs,
        "seconds": table.seconds(counts),
        "full_resolution_seconds": batches * table.full_ms / 1000,
        "steps": [
            {
                "step": step_name(step),
                "count": count,
                "ms": costs[step].relative * table.full_ms,
                "relative": costs[step].relative,
                "low": costs[step].low,
                "high": costs[step].high,
                "share": count * costs[step].relative / table.price(counts),
                "peak_mib": None if table.peak_mib is None else table.peak_mib[step],
            }
            for step, count in sorted(counts.items(), reverse=True)
        ],
    }


def _threads(asked: int | None) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if asked is None:
        return cores
    check_integer("--threads", asked, lowest=1)
    if asked > cores:
        raise InputError(f"--threads is {asked}, it must be at most {cores}, the cores that this process may use")
    return asked


def _enter(environment: Mapping[str, str]) -> None:
    """Starts this command anew where its environment would spoil the times: neither torch nor the C library looks at it twice."""
    if not environment.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **environment})


def _calibrated(config: TrainConfig, steps: Iterable[Step], classes: int, progress: Console, *, accept_noisy: bool) -> CostTable:
    from trainers.calibration import calibration, cost_conditions
    from tuner.launching.display import calibration_progress

    with calibration_progress(progress) as on_progress:
        device = cost_conditions(config)["device"]
        for found in calibration(config, steps, classes, accept_noisy=accept_noisy):
            if isinstance(found, CostTable):
                return found
            on_progress(device, found.done, found.expected)
    raise RunError("the calibration ended without a table")


def _print(found: Mapping[str, Any], config: TrainConfig, images: ImageSet, table: CostTable) -> None:
    console = Console()
    conditions = table.conditions
    threads = f", threads: {conditions['threads']}" if conditions["threads"] else ""
    console.print(Text(describe_schedule(config.schedule.to_dict())), soft_wrap=True)
    console.print(
        Text(
            f"{config.model}, {images.side_px} px, {images.classes} classes, batches of {config.batch_size}, {conditions['precision']}, "
            f"{config.epochs} epochs of {images.images} images; {conditions['device']}{threads}"
        ),
        soft_wrap=True,
    )
    console.print(_steps_table(found["steps"]))
    console.print(Text("\n".join(_sentences(found, config.epochs))), soft_wrap=True)
    if (reason := table.reason_to_doubt()) is not None:
        console.print(
            Text(f"warning: these figures are worth less, because {reason}; ask again when the machine is otherwise idle"), soft_wrap=True
        )


def _steps_table(steps: list[dict[str, Any]]) -> Table:
    table = Table()
    memory = ["peak MiB"] if all(step["peak_mib"] is not None for step in steps) else []
    for heading in ("step", "count", "ms", "over a full step", "share of the time", *memory):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for step in steps:
        relative = f"{step['relative']:.3f} ({step['low']:.3f}-{step['high']:.3f})"
        peak = [f"{step['peak_mib']:.0f}"] if memory else []
        table.add_row(step["step"], str(step["count"]), f"{step['ms']:.1f}", relative, describe_share(step["share"]), *peak)
    return table


def _sentences(found: Mapping[str, Any], epochs: int) -> list[str]:
    interval = f"{100 * found['low']:.1f}-{100 * found['high']:.1f} %"
    return [
        f"predicted: {describe_share(found['relative_time'])} of the training time at full resolution ({interval}), "
        f"{describe_duration(found['seconds'])} of steps instead of {describe_duration(found['full_resolution_seconds'])}",
        f"the rival to beat: {found['epochs_in_the_same_time']:.2f} instead of {epochs} epochs at full resolution take the same time",
    ]
