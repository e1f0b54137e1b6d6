"""How well accuracies are predicted from a few recorded trainings: the sampler's model against the same process on plain accuracies.

    python -m benchmarks.predicted [--table FILE]      # a table in Markdown; figures in results/predicted

Of a table's trainings some are drawn, the model learns from them, and is asked for the others. Near the top is where a search looks for its
front, so errors there stand apart. Everything compared is recorded; no surrogate is involved.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from numpy.typing import NDArray
from optuna._gp import gp, prior
from scipy.stats import spearmanr

from benchmarks.evidence import provenance
from trainers.errors import DownsampleTunerError, InputError
from tuner.replay.table import Table, read_table
from tuner.samplers.accuracy_model import AccuracyModel, Kernels
from tuner.samplers.candidates import Candidates
from tuner.samplers.features import Features

Floats = NDArray[np.float64]
Predict = Callable[[Floats, Floats, Floats, Floats, Floats], Floats]

TABLES: Final = Path(__file__).parent / "tables"
RESULTS: Final = Path(__file__).parent / "results" / "predicted"
COUNTS: Final = (40, 80, 160)
DRAWS: Final = 20
# Trainings at least as accurate as this share of the others are near the top.
TOP_FRAC: Final = 0.5


def main() -> None:
    """Prints a table for each recorded table, and writes its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", help="a recorded table; all of benchmarks/tables if none is given")
    parser.add_argument("--draws", type=int, default=DRAWS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        paths = [Path(arguments.table)] if arguments.table else sorted(TABLES.glob("*.jsonl.gz"))
        if not paths:
            raise InputError(f"there is no table in {TABLES}, one must be given with --table")
        for path in paths:
            table = read_table(path)
            figures = errors(table, arguments.draws)
            print(markdown(table.spec.name, figures))
            RESULTS.mkdir(parents=True, exist_ok=True)
            content = {"table": table.spec.name, "digest": table.digest, "errors": figures, "provenance": provenance(torch.device("cpu"))}
            (RESULTS / f"{table.spec.name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except DownsampleTunerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


def errors(table: Table, draws: int, counts: tuple[int, ...] = COUNTS) -> list[dict[str, Any]]:
    """Mean errors of both models over so many draws, for each number of trainings that they learn from."""
    rows, times, accuracies = _columns(table)
    top = accuracies >= np.quantile(accuracies, TOP_FRAC)
    found = []
    for count in (count for count in counts if count < len(rows) // 2):
        rng = np.random.default_rng(count)
        orders = [rng.permutation(len(rows)) for _ in range(draws)]
        for name, predict in (("log odds", _ours), ("plain", _plain)):
            each = [_errors(predict, rows, times, accuracies, top, order[:count], order[count:]) for order in orders]
            found.append(
                {"trainings": count, "model": name, "draws": draws, **dict(zip(_NAMES, np.mean(each, axis=0).round(4), strict=True))}
            )
    return found


_NAMES: Final = ("rmse", "mae", "top_rmse", "top_mae", "top_rank_correlation")


def _errors(predict: Predict, rows: Floats, times: Floats, accuracies: Floats, top: Any, seen: Any, others: Any) -> tuple[float, ...]:
    means = predict(rows[seen], times[seen], accuracies[seen], rows[others], times[others])
    wrong, high = means - accuracies[others], top[others]
    rank = float(spearmanr(means[high], accuracies[others][high]).statistic)
    return *_sizes(wrong), *_sizes(wrong[high]), rank


def _sizes(wrong: Floats) -> tuple[float, float]:
    return float(np.sqrt(np.mean(wrong**2))), float(np.mean(np.abs(wrong)))


def _ours(rows: Floats, times: Floats, accuracies: Floats, new: Floats, new_times: Floats) -> Floats:
    return AccuracyModel(rows, times, accuracies, Kernels()).predict(new, new_times)[0]


def _plain(rows: Floats, times: Floats, accuracies: Floats, new: Floats, new_times: Floats) -> Floats:
    """Optuna's Gaussian process on standardised accuracies, with the same features."""
    mean, deviation = accuracies.mean(), accuracies.std()
    process = gp.fit_kernel_params(
        X=rows,
        Y=(accuracies - mean) / deviation,
        is_categorical=np.zeros(rows.shape[1], dtype=bool),
        log_prior=prior.default_log_prior,
        minimum_noise=prior.DEFAULT_MINIMUM_NOISE_VAR,
        deterministic_objective=False,
    )
    means: Floats = process.posterior(torch.from_numpy(new))[0].detach().numpy()
    return mean + deviation * means


def _columns(table: Table) -> tuple[Floats, Floats, Floats]:
    """Features [n, columns], relative times [n] and last accuracies [n] of the recorded trainings."""
    pool = Candidates(table.spec.search, {}).filling(512, np.random.default_rng(0))
    features = Features(table.spec.search, pool, np.array([table.plan_cost(point) for point in pool]))
    params = [training.params for training in table.trainings]
    times = np.array([table.plan_cost(one) for one in params])
    return features.rows(params, times), times, np.array([training.curve[-1] for training in table.trainings])


def markdown(name: str, figures: list[dict[str, Any]]) -> str:
    """One row for each number of trainings and model."""
    lines = [
        f"Table `{name}`: errors of predicted accuracies, mean of {figures[0]['draws']} draws; top: the more accurate half.",
        "",
        "| learned from | model of | all, RMSE | all, mean | top, RMSE | top, mean | top, rank correlation |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in figures:
        lines.append(f"| {row['trainings']} | {row['model']} | " + " | ".join(f"{row[key]:.4f}" for key in _NAMES) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
