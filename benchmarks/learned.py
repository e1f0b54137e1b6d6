"""What a table of recorded trainings says about schedules: the front of each choice against shorter training, and which fields matter.

    python -m benchmarks.learned [--table FILE]      # figures in results/learned, a picture in docs/images, a section of docs/schedules.md

Everything is read off the table and its surrogate (tuner/replay/surrogate.py): accuracies are means over seeds, relative times exact. The
best of many predicted points is a little better than it would turn out, on every line alike; the surrogate's error stands beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.evidence import provenance
from benchmarks.learned_report import drawing, markdown
from benchmarks.pages import DOCS, publish_section
from benchmarks.search_front import ROUNDS, noise_free_front
from benchmarks.search_score import Choice
from studies.domains import Choice as Listed
from studies.domains import Value
from studies.space import TRAINING_FIELDS, canonical_params
from trainers.errors import DownsampleTunerError, InputError
from tuner.replay.answers import Replay
from tuner.replay.cache import cached_surrogate
from tuner.replay.table import read_table
from tuner.report.importance import Share, sensitivity
from tuner.samplers.candidates import Candidates

TABLES: Final = Path(__file__).parent / "tables"
RESULTS: Final = Path(__file__).parent / "results" / "learned"
_FULL: Final = {"frequency": 0.0}
# How much accuracy a user may be ready to give away, in shares.
DROPS: Final = (0.0, 0.005, 0.01, 0.02)
# Shares of a training after which its curve is compared with its end.
LOOKS: Final = (0.25, 0.5, 0.75)
# Points of the space whose shorter trainings are compared with the one as long as the baseline's, before equal ones are left out.
_SHORTENED: Final = 512
# A shorter training has too few epochs to be looked at in between.
_LONG_EPOCHS: Final = 8


def main() -> None:
    """Prints the section, and writes its figures and its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", help="a recorded table; all of benchmarks/tables if none is given")
    chosen = parser.parse_args().table
    try:
        paths = [Path(chosen)] if chosen else sorted(TABLES.glob("*.jsonl.gz"))
        if not paths:
            raise InputError(f"there is no table in {TABLES}, one must be given with --table")
        for path in paths:
            table = read_table(path)
            _write(learned(Replay(table, surrogate := cached_surrogate(table))), str(surrogate.state.error))
    except DownsampleTunerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


def learned(replay: Replay, rounds: int = ROUNDS) -> dict[str, Any]:
    """Table, fronts by field and value, times by drop, sensitivities and rank correlations, JSON-ready; see docs/schedules.md."""

    def accuracy_of(params: Mapping[str, Value]) -> float:
        return replay.answer(params, 0).mean_accuracy

    full = noise_free_front(replay, rounds, _FULL)
    fronts = {field: {str(value): noise_free_front(replay, rounds, {field: value}) for value in values} for field, values in _named(replay)}
    baseline = accuracy_of(replay.table.spec.baseline_params())
    as_baseline = {field: value for field, value in replay.table.spec.baseline_params().items() if field in TRAINING_FIELDS}
    named = {(field, value): front for field, values in fronts.items() for value, front in values.items()}
    everything = {"full resolution": full, **{f"{field}: {value}": front for (field, value), front in named.items()}}
    return {
        "table": replay.table.spec.name,
        "baseline_accuracy": baseline,
        "full_resolution": full,
        "fronts": fronts,
        "times": {name: [time_of(front, baseline - drop) for drop in DROPS] for name, front in everything.items()},
        "importance": {
            "relative time": _sensitivity(replay, replay.table.plan_cost, {}),
            "accuracy": _sensitivity(replay, accuracy_of, {}),
            "relative time, trained as the baseline": _sensitivity(replay, replay.table.plan_cost, as_baseline),
            "accuracy, trained as the baseline": _sensitivity(replay, accuracy_of, as_baseline),
        },
        "early": early_ranks(replay),
        "short": short_ranks(replay),
    }


def time_of(front: Sequence[Choice], accuracy: float) -> float | None:
    """Relative time of the fastest point that is at least as accurate; None where none is."""
    return min((choice.time for choice in front if choice.accuracy >= accuracy), default=None)


def early_ranks(replay: Replay) -> list[float]:
    """Rank correlation (Spearman) of recorded trainings' accuracies after each share of LOOKS with those after the last epoch.

    Only trainings of the same length are compared; the mean over lengths, weighed by their numbers. Empty where none are long enough.
    """
    lengths: dict[int, list[tuple[float, ...]]] = {}
    for training in replay.table.trainings:
        if len(training.curve) >= _LONG_EPOCHS:
            lengths.setdefault(len(training.curve), []).append(training.curve)
    groups = [np.array(curves) for curves in lengths.values() if len(curves) > 2]
    if not groups:
        return []
    weights = [len(group) for group in groups]
    return [float(np.average([_rank_correlation(group, look) for group in groups], weights=weights)) for look in LOOKS]


def short_ranks(replay: Replay) -> list[tuple[int, float]]:
    """What a whole but shorter training says about one as long as the baseline's: epochs, and the rank correlation (Spearman) of mean
    accuracies with those of the long ones, over points that fill the space of everything else, for each length near a share of LOOKS."""
    spec = replay.table.spec
    epochs = spec.search["epochs"]
    drawn = Candidates(spec.search, {"epochs": spec.training.epochs}).filling(_SHORTENED, np.random.default_rng(0))
    points = {tuple(point.values()): point for point in (canonical_params(spec.search, point) for point in drawn)}.values()

    def accuracies(length: Value) -> list[float]:
        return [replay.answer(point | {"epochs": length}, 0).mean_accuracy for point in points]

    long = accuracies(spec.training.epochs)
    lengths = sorted({int(epochs.nearest(look * spec.training.epochs)) for look in LOOKS} - {spec.training.epochs})
    return [(length, float(spearmanr(accuracies(length), long).statistic)) for length in lengths]


def _rank_correlation(curves: NDArray[np.float64], look: float) -> float:
    return float(spearmanr(curves[:, round(look * curves.shape[1]) - 1], curves[:, -1]).statistic)


def _named(replay: Replay) -> list[tuple[str, tuple[Value, ...]]]:
    """The schedule fields that have a list of values by name."""
    searched = replay.table.spec.search.searched
    return [
        (field, domain.values)
        for field, domain in searched.items()
        if isinstance(domain, Listed) and field not in TRAINING_FIELDS and isinstance(domain.values[0], str)
    ]


def _sensitivity(replay: Replay, of: Callable[[Mapping[str, Value]], float], fixed: Mapping[str, Value]) -> dict[str, Share]:
    """Of a function of points, whose fixed fields are no part of what varies."""
    space = replay.table.spec.search
    shares = sensitivity(space, lambda points: np.array([of(canonical_params(space, point | fixed)) for point in points]))
    return {field: share for field, share in shares.items() if field not in fixed}


def _write(found: dict[str, Any], error: str) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    kept = {**found, "surrogate": error, **provenance(torch.device("cpu"))}
    (RESULTS / f"{found['table']}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    publish_section(DOCS, "schedules", found["table"], markdown(found, DROPS, LOOKS, error), drawing(found))


if __name__ == "__main__":
    main()
