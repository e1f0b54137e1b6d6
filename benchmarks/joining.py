"""What the methods that join a training take beside its steps, in time and memory.

    python -m benchmarks.joining --threads 1                                # the study cifar10
    python -m benchmarks.joining --study cifar10-resnet18 --device cuda

Trainings with each method and one without are run epoch by epoch in turn. A method's overhead is the difference of its epoch, evaluation
included, to the plain one of the same round, over the plain one's training seconds: median and quartiles over the rounds. The first round
warms up. `kept`: bytes of the tensors that the method keeps, over those of the network's parameters.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.environment import ensure_environment
from benchmarks.methods import JOINED
from benchmarks.trainings import Recipe, Suite, Where, config_of
from studies import load_study
from studies.spec import StudySpec
from trainers.environment import training_environment
from trainers.errors import DownsampleTunerError, InputError
from trainers.methods.settings import FilterSparsity, MethodSettings
from trainers.schedule import Schedule

if TYPE_CHECKING:
    from trainers.loop import Training

PLAIN: Final = "plain"
# Filters that are removed make the steps cheaper, which is no overhead.
MEASURED: Final[dict[str, dict[str, MethodSettings]]] = JOINED | {"filter_sparsity": {"filter_sparsity": FilterSparsity(name="report")}}


def main() -> None:
    """Trains in turn, prints a line a method, and writes results/joining-<study>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="cifar10")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--root", default="data")
    arguments = parser.parse_args()
    ensure_environment("benchmarks.joining", training_environment(arguments.threads))
    from benchmarks.evidence import provenance, write_result
    from trainers.device import resolve_device

    try:
        where = Where(arguments.device, arguments.threads, arguments.root)
        spec = load_study(arguments.study)
        overheads = measured(spec, where, arguments.rounds)
    except DownsampleTunerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    for name, overhead in overheads.items():
        print(line(name, overhead))
    content = {"study": spec.name, "model": spec.model, "rounds": arguments.rounds, "methods": overheads}
    write_result(f"joining-{spec.name}", {**content, **provenance(resolve_device(where.device))})


def measured(spec: StudySpec, where: Where, rounds: int) -> dict[str, dict[str, Any]]:
    """By method: time (median and quartiles, over a plain epoch's training), its shares in steps and evaluation, kept."""
    trainings = dict(_trainings(spec, where, rounds + 1))
    spans = [{name: _epoch_s(training) for name, training in trainings.items()} for _ in range(rounds + 1)][1:]
    parameters = sum(parameter.nbytes for parameter in trainings[PLAIN].model.parameters())
    return {
        name: {
            **overhead(spans, name),
            "kept": tensor_bytes(training.methods.state_dict()) / parameters,
        }
        for name, training in trainings.items()
        if name != PLAIN
    }


def overhead(spans: list[dict[str, dict[str, float]]], name: str) -> dict[str, Any]:
    """spans: by round and method, seconds of an epoch's `train` and `evaluation`."""
    shares = {part: [(of[name][part] - of[PLAIN][part]) / of[PLAIN]["train"] for of in spans] for part in ("train", "evaluation")}
    both = [sum(pair) for pair in zip(shares["train"], shares["evaluation"], strict=True)]
    low, median, high = np.quantile(both, [0.25, 0.5, 0.75]).tolist()
    return {
        "time": median,
        "time_quartiles": [low, high],
        "in_steps": float(np.median(shares["train"])),
        "in_evaluation": float(np.median(shares["evaluation"])),
    }


def tensor_bytes(state: Any) -> int:
    """Of all tensors in nested mappings and lists."""
    if isinstance(state, Mapping):
        return sum(map(tensor_bytes, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(tensor_bytes, state))
    return int(getattr(state, "nbytes", 0))


def line(name: str, found: Mapping[str, Any]) -> str:
    """A method's overhead in words."""
    low, high = found["time_quartiles"]
    parts = f"{found['in_steps']:+.1%} in steps, {found['in_evaluation']:+.1%} in evaluation"
    return f"{name}: {found['time']:+.1%} [{low:+.1%}, {high:+.1%}] of the training's time ({parts}), keeps {found['kept']:.1f} networks"


def _trainings(spec: StudySpec, where: Where, epochs: int) -> Iterator[tuple[str, Training]]:
    from trainers.loop import Training  # torch takes seconds to load, and must not before the environment is right

    recipes = {PLAIN: Recipe(Schedule(), epochs)} | {name: Recipe(Schedule(), epochs, joined) for name, joined in MEASURED.items()}
    suite = Suite(spec.name, spec, recipes, Path())
    for name in recipes:
        yield name, Training(config_of(suite, recipes[name], 0, where))


def _epoch_s(training: Training) -> dict[str, float]:
    before = training.seconds()
    training.run_epoch()
    return {part: after - before.get(part, 0.0) for part, after in training.seconds().items()}


if __name__ == "__main__":
    main()
