"""How far calibrated step costs can be trusted on this machine.

    python -m benchmarks.timing

Three questions, answered in results/timing.json and on screen:
1. five fresh processes, nothing else running: how far apart are the relative costs of half-side and pooled steps?
2. five fresh processes beside as many busy threads as there are cores: the same costs, or a refusal?
3. five schedules trained alone: the seconds that training really took over those predicted?
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.evidence import provenance, write_result
from trainers import Schedule, TrainConfig, train
from trainers.calibration import calibrate
from trainers.config import DataConfig
from trainers.cores import available_cores
from trainers.cost import CostTable, step_name
from trainers.environment import training_environment
from trainers.errors import NoisyTimingError
from trainers.schedule import Step

PROCESSES: Final = 5
STEPS: Final = (Step(16, "full"), Step(16, "pooled"))
SCHEDULES: Final = {
    "full resolution": Schedule(),
    "every 2nd step at half side": Schedule(frequency=0.5),
    "half side in the first 70 %": Schedule(frequency=1.0, window_length=0.7),
    "half side and pooled in the first 70 %": Schedule(frequency=1.0, window_length=0.7, kernel="pooled"),
    "growing from half side over the first 80 %": Schedule(frequency=1.0, window_length=0.8, growth="linear"),
}


def config_of(schedule: Schedule, threads: int) -> TrainConfig:
    """The demo's network and data."""
    return TrainConfig(
        model="cifar_resnet8",
        data=DataConfig(name="digits"),
        schedule=schedule,
        epochs=8,
        batch_size=64,
        lr=0.1,
        device="cpu",
        threads=threads,
    )


def main() -> None:
    """Runs all three parts, or one calibration (--child) for the parent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a training")
    parser.add_argument("--child", action="store_true", help="one calibration, as JSON")
    parser.add_argument("--predictions", action="store_true", help="the third part, as JSON")
    arguments = parser.parse_args()
    if arguments.child:
        _print_calibration(arguments.threads)
        return
    if arguments.predictions:
        print(json.dumps(_predictions(arguments.threads)))
        return
    alone = [_fresh("--child", arguments.threads) for _ in range(PROCESSES)]
    _say("alone", alone)
    with _busy_threads(len(available_cores())):
        beside = [_fresh("--child", arguments.threads) for _ in range(PROCESSES)]
    _say(f"beside {len(available_cores())} busy threads", beside)
    predicted = _fresh("--predictions", arguments.threads)
    path = write_result(
        f"timing-{arguments.threads}-threads",
        {**provenance(torch.device("cpu")), "alone": alone, "beside_busy_threads": beside, "predicted_and_taken": predicted},
    )
    print(f"written to {path.name}")


def _print_calibration(threads: int) -> None:
    try:
        table = calibrate(config_of(Schedule(), threads), STEPS)
        costs = {step_name(step): cost.relative for step, cost in table.costs.items()}
        print(json.dumps({"full_ms": table.full_ms, "costs": costs, "rounds": table.rounds, "others_frac": table.others_frac}))
    except NoisyTimingError as error:
        print(json.dumps({"refused": str(error)}))


def _fresh(part: str, threads: int) -> Any:
    """A part in a process of its own, started as a trial's worker is."""
    command = [sys.executable, "-m", "benchmarks.timing", part, "--threads", str(threads)]
    environment = {**os.environ, **training_environment(threads)}
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(found.stdout)


@contextmanager
def _busy_threads(count: int) -> Iterator[None]:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _say(where: str, calibrations: list[dict[str, Any]]) -> None:
    accepted = [found for found in calibrations if "costs" in found]
    print(f"{where}: {len(accepted)} of {len(calibrations)} calibrations accepted", flush=True)
    for step in map(step_name, STEPS):
        costs = [found["costs"][step] for found in accepted]
        if costs:
            middle = median(costs)
            farthest = max(abs(cost / middle - 1) for cost in costs)
            shown = ", ".join(f"{cost:.4f}" for cost in costs)
            print(f"  {step}: {shown}; farthest from the median {farthest:.1%}", flush=True)
    for found in calibrations:
        if "refused" in found:
            print(f"  refused: {found['refused']}", flush=True)


def _predictions(threads: int) -> list[dict[str, Any]]:
    steps = {step for schedule in SCHEDULES.values() for step in schedule.plan(1000, 32)}
    table: CostTable = calibrate(config_of(Schedule(), threads), steps)
    found = []
    for name, schedule in SCHEDULES.items():
        result = train(config_of(schedule, threads))
        predicted_s, taken_s = table.seconds(result.counts), result.seconds["train"]
        found.append({"schedule": name, "predicted_s": predicted_s, "taken_s": taken_s})
        print(
            f"{name}: predicted {predicted_s:.2f} s, took {taken_s:.2f} s, {taken_s / predicted_s:.3f} of it", file=sys.stderr, flush=True
        )
    return found


if __name__ == "__main__":
    main()
