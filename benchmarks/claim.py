"""Does interleaved downsampling with pooled kernels save 23 % of the training time at minimal loss on residual networks?

    python -m benchmarks.claim claim-resnet20 --calibrate     # first: prices the steps, on a machine that does nothing else
    python -m benchmarks.claim claim-resnet20                 # trains what is missing; again to go on, also beside itself
    python -m benchmarks.claim claim-resnet20 --report        # writes its section of docs/claim.md

The claim is that of Poulos, Nouri and Moshovos 2019 (arXiv 1910.06548, abstract). Every training is one line of
results/claim/<study>.jsonl, written when it has ended, with the accuracy of the test split, which nothing here is chosen by. How often
steps are reduced follows from the measured prices: as often as saves 23 %. What the abstract leaves open is our own choice (claim_recipes);
a schedule that a search of the same study found is trained beside them with --schedule FILE.
"""

from __future__ import annotations

import argparse
import math
import sys
from fractions import Fraction
from pathlib import Path
from typing import Final

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.trainings import RESULTS, Recipe, Suite, found_recipe, run_suite, shorter_recipes, suite_parser
from benchmarks.trainings_report import Estimate, Row, points, publish, rows_of
from studies import StudySpec, load_study
from trainers.cost import CostTable
from trainers.errors import InputError
from trainers.schedule import Kernel, Schedule, Step, round_side

STUDIES: Final = ("claim-resnet20", "claim-resnet18")
SAVED: Final = Fraction(23, 100)
# Points of accuracy that we call minimal: the abstract gives none.
MINIMAL_LOSS: Final = 0.005
SHORTER_SHARES: Final = (0.8, 0.67, 0.53, 0.4)
INTERLEAVED: Final = "interleaved, pooled kernels"
THEN_FULL: Final = "interleaved in the first 80 %, pooled kernels"
# Before prices are known only kinds of step are asked for.
_ANY_FREQUENCY: Final = 0.5


def main() -> None:
    """Trains, calibrates or reports."""
    parser = suite_parser(__doc__)
    parser.add_argument("study", choices=STUDIES)
    arguments = parser.parse_args()
    spec = load_study(arguments.study)
    run_suite(
        "benchmarks.claim", arguments, lambda costs: claim_suite(spec, RESULTS / "claim", costs, arguments), report, priced_first=True
    )


def claim_suite(spec: StudySpec, folder: Path, costs: CostTable | None, arguments: argparse.Namespace) -> Suite:
    """The claim's trainings and their rivals. costs: None before the calibration, when nothing but kinds of step can be asked for."""
    suite = Suite(spec.name, spec, claim_recipes(spec, costs), folder, arguments.seeds)
    if arguments.schedule is not None:
        suite.recipes[f"found by a search: {arguments.schedule.stem}"] = found_recipe(arguments.schedule, spec.training.epochs)
    return suite


def claim_recipes(spec: StudySpec, costs: CostTable | None) -> dict[str, Recipe]:
    """By name. Interleaved steps have batch-norm statistics of their own where they go on to the end."""
    epochs = spec.training.epochs

    def interleaved(kernel: Kernel, window: float = 1.0) -> Recipe:
        frequency = _ANY_FREQUENCY if costs is None else saving_frequency(costs, spec.dataset.full_px, kernel, window)
        batch_norm = "separate" if window == 1 else "shared"
        return Recipe(Schedule(frequency=frequency, kernel=kernel, window_length=window, batch_norm=batch_norm), epochs)

    half = {f"half side in the first {share:.0%}": Schedule(frequency=1.0, window_length=share) for share in (0.5, 0.7)}
    growing = Schedule(frequency=1.0, growth="linear", window_length=0.8)
    return {
        **shorter_recipes(spec, SHORTER_SHARES),
        INTERLEAVED: interleaved("pooled"),
        THEN_FULL: interleaved("pooled", 0.8),
        "interleaved, full kernels": interleaved("full"),
        **{name: Recipe(schedule, epochs) for name, schedule in half.items()},
        "growing from half to full side in the first 80 %": Recipe(growing, epochs),
        "progressive resizing (preset)": Recipe(Schedule(preset="progressive"), epochs),
    }


def saving_frequency(costs: CostTable, full_px: int, kernel: Kernel, window: float) -> float:
    """Share of a window's steps to be reduced to half the side, so that a training takes SAVED less time: SAVED / (1 - cost) / window.

    Four decimals, upwards. InputError where all steps would save less.
    """
    cost = costs.costs[Step(round_side(0.5, full_px, 4), "pooled" if kernel == "pooled" else "full")].relative
    exact = SAVED / (1 - Fraction(cost)) / Fraction(str(window)) if cost < 1 else Fraction(2)
    if exact > 1:
        step = f"a step at half side with {kernel} kernels costs {cost:.0%} of a full one"
        raise InputError(f"{step}, so reducing {window:.0%} of the steps can't save {float(SAVED):.0%} of the time")
    return math.ceil(exact * 10_000) / 10_000


def report(suite: Suite, costs: CostTable) -> str:
    """Writes the study's section of docs/claim.md, and returns it: table, verdicts, picture."""
    verdicts = [verdict(row) for row in rows_of(suite, costs) if row.name in (INTERLEAVED, THEN_FULL)]
    return publish("claim", suite, costs, verdicts)


def verdict(row: Row) -> str:
    """What a row says of the claim: it holds where the loss is minimal at both ends of its interval, and fails where at neither."""
    loss = Estimate(-row.against_full.mean, -row.against_full.high, -row.against_full.low)
    holds = "holds" if loss.high <= MINIMAL_LOSS else "does not hold" if loss.low > MINIMAL_LOSS else "is undecided"
    sentence = (
        f"{row.name}: {100 * (1 - row.time.mean):.1f} % less training time, {points(loss)} points of test accuracy lost over {row.seeds} "
        f"seeds. If at most {100 * MINIMAL_LOSS:g} points are minimal, the claim {holds}."
    )
    if row.against_shorter is None:
        return sentence
    gain = row.against_shorter
    rival = "more accurate than" if gain.low > 0 else "less accurate than" if gain.high < 0 else "no different from"
    return f"{sentence} It is {rival} full resolution trained for as long ({points(gain)} points)."


if __name__ == "__main__":
    main()
