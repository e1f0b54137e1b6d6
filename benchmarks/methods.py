"""What every method gives on the same training: the known schedules, averaged weights, groups, filters removed, and training for less long.

    python -m benchmarks.methods --quick         # within five minutes, on digits, one seed: a line a method
    python -m benchmarks.methods --calibrate     # prices the steps, on a machine that does nothing else
    python -m benchmarks.methods                 # the study cifar10, five seeds: trains what is missing; again to go on, also beside itself
    python -m benchmarks.methods --report        # writes the section of docs/methods.md

Every training is one line of results/methods/cifar10.jsonl, written when it has ended, with the accuracy of the test split, which nothing
here is chosen by. What a search found is trained too with --schedule FILE. Averaged weights are tried on the full training and on two
reduced ones, because the question is whether they win back what those lose. A time is the price of the plan's steps, which doesn't know
what a method takes beside them; --quick measures that, in seconds of training over those of the full training before and after it, so it
is as noisy as the machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, get_args

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.environment import ensure_environment
from benchmarks.trainings import RESULTS, Recipe, Suite, Where, config_of, found_recipe, kinds_of, run_suite, shorter_recipes, suite_parser
from benchmarks.trainings_report import publish
from studies import StudySpec, load_study
from trainers.cost import CostTable
from trainers.environment import training_environment
from trainers.errors import InputError
from trainers.methods.settings import FilterSparsity, Grouping, MethodSettings, WeightSampling, WeightSamplingName
from trainers.presets import TO_THE_END, PresetName
from trainers.result import TrainResult
from trainers.schedule import Schedule

SHORTER_SHARES: Final = (0.75, 0.58, 0.42)
QUICK_STUDY: Final = ("digits", ["training.epochs=8", "search.epochs=[4, 8]"])
QUICK_SHORTER_EPOCHS: Final = 4
JOINED: Final[dict[str, dict[str, MethodSettings]]] = {
    **{name: {"weight_sampling": WeightSampling(name=name)} for name in get_args(WeightSamplingName) if name != "none"},
    "dgconv": {"grouping": Grouping(name="groupable")},
    "filter_sparsity": {"filter_sparsity": FilterSparsity(name="remove_each_epoch")},
}
# What averaged weights are to win back the accuracy of.
REDUCED: Final = {
    "half side in the first 70 %": Schedule(frequency=1.0, window_length=0.7),
    "every second step at half side": Schedule(frequency=0.5, batch_norm="separate"),
}


def main() -> None:
    """Trains, calibrates, reports, or compares in short."""
    parser = suite_parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed of every method on digits")
    arguments = parser.parse_args()
    if arguments.quick:
        quick(arguments)
    else:
        suite = methods_suite(load_study("cifar10"), RESULTS / "methods", arguments)
        run_suite("benchmarks.methods", arguments, lambda _: suite, report, priced_first=False)


def methods_suite(spec: StudySpec, folder: Path, arguments: argparse.Namespace) -> Suite:
    """All of them with the epochs of the study's baseline, and shorter trainings."""
    epochs = spec.training.epochs
    recipes = shorter_recipes(spec, SHORTER_SHARES) | preset_recipes(epochs)
    recipes |= {name: Recipe(Schedule(), epochs, joined) for name, joined in JOINED.items()}
    for reduced, schedule in REDUCED.items():
        recipes[reduced] = Recipe(schedule, epochs)
        recipes |= {f"{reduced}, {name}": Recipe(schedule, epochs, JOINED[name]) for name in JOINED if "weight_sampling" in JOINED[name]}
    if arguments.schedule is not None:
        recipes[f"found by a search: {arguments.schedule.stem}"] = found_recipe(arguments.schedule, epochs)
    return Suite(spec.name, spec, recipes, folder, arguments.seeds)


def preset_recipes(epochs: int) -> dict[str, Recipe]:
    """The known schedules by name. Those with reduced steps to the end keep batch-norm statistics of their own for them."""
    names = [name for name in get_args(PresetName) if name != "none"]
    schedules = {name: Schedule(preset=name, batch_norm="separate" if name in TO_THE_END else "shared") for name in names}
    return {name: Recipe(schedule, epochs) for name, schedule in schedules.items()}


def report(suite: Suite, costs: CostTable) -> str:
    """Writes the study's section of docs/methods.md, and returns it."""
    return publish("methods", suite, costs, ())


def quick(arguments: argparse.Namespace) -> None:
    """Prints a line a method: validation accuracy after the last epoch, and time over the full training's."""
    ensure_environment("benchmarks.methods", training_environment(arguments.threads))
    from trainers.calibration import calibrate  # torch takes seconds to load, and must not before the environment is right

    suite = quick_suite(arguments)
    where = Where(arguments.device, arguments.threads, arguments.root)
    try:
        costs = calibrate(config_of(suite, suite.recipes["full"], 0, where), kinds_of(suite), accept_noisy=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    before = _trained(suite, "full", where)
    results = {name: _trained(suite, name, where) for name in suite.recipes if name != "full"}
    after = _trained(suite, "full", where)
    full_s = (before.seconds["train"] + after.seconds["train"]) / 2
    for name, result in (results | {"full": after}).items():
        time = _time(bool(suite.recipes[name].training), result, after, costs, full_s)
        print(f"method={name} accuracy={result.val_accuracy:.4f} relative_time={time:.3f}")


def quick_suite(arguments: argparse.Namespace) -> Suite:
    """Every method once, by its short name."""
    spec = load_study(*QUICK_STUDY)
    epochs = spec.training.epochs
    recipes: Mapping[str, Recipe] = {
        **{name: Recipe(Schedule(), epochs, joined) for name, joined in JOINED.items()},
        **preset_recipes(epochs),
        "shorter": Recipe(Schedule(), QUICK_SHORTER_EPOCHS),
        "full": Recipe(Schedule(), epochs),
    }
    return Suite("quick", spec, dict(recipes), RESULTS / "methods", arguments.seeds)


def _trained(suite: Suite, name: str, where: Where) -> TrainResult:
    from trainers.loop import train

    return train(config_of(suite, suite.recipes[name], 0, where))


def _time(joined: bool, result: TrainResult, full: TrainResult, costs: CostTable, full_s: float) -> float:
    """Of a schedule by the prices of its steps; where a method has joined by the clock, because no plan knows what it takes."""
    return result.seconds["train"] / full_s if joined else costs.relative_time(result.counts, sum(full.counts.values()))


if __name__ == "__main__":
    main()
