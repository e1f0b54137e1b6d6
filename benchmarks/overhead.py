"""What a trial takes beside its training: from one trial's end to the next one's, less what the training itself recorded.

    python -m benchmarks.overhead

Launches the demo's study with short trainings, one trial at a time on all cores, so that a trial's end is the next one's beginning.
Proposals, the network, its checks, Tune's reports, the telling: whatever is not training, data, evaluation or checkpoint counts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Final

import optuna
import torch

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.evidence import provenance, write_result
from trainers.cores import available_cores
from tuner.storage.records import RECORD

STUDY: Final = "digits"
SHORT: Final = ("training.epochs=4", "search.epochs={low: 2, high: 5}", "search.lr=0.1", "search.weight_decay=5e-4")


def main() -> None:
    """Launches, then reads the trials' ends and seconds from the database."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=25)
    arguments = parser.parse_args()
    cores = len(available_cores())
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/tuner.db"
        _launch(url, arguments.trials, cores, Path(folder))
        beside_s = _seconds_beside_training(url)
    beside_s.sort()
    shown = {"median_s": median(beside_s), "lowest_s": beside_s[0], "highest_s": beside_s[-1], "n": len(beside_s)}
    write_result("overhead", {**provenance(torch.device("cpu")), "cores_a_trial": cores, **shown, "each_s": beside_s})
    print(" ".join(f"{name}={value:.3f}" if isinstance(value, float) else f"{name}={value}" for name, value in shown.items()))


def _launch(url: str, trials: int, cores: int, folder: Path) -> None:
    settings = itertools.chain.from_iterable(("--set", setting) for setting in (*SHORT, f"resources.cpus={cores}"))
    command = ["launch", STUDY, "--trials", str(trials), "--accept-noisy-timing", *settings]
    environment = {**os.environ, "TUNER_STORAGE": url}
    subprocess.run([str(Path(sys.executable).with_name("tuner")), *command], cwd=folder, env=environment, check=True)


def _seconds_beside_training(url: str) -> list[float]:
    trials = optuna.load_study(study_name=STUDY, storage=url).get_trials(deepcopy=False)
    ended = sorted((trial for trial in trials if trial.datetime_complete), key=lambda trial: trial.datetime_complete or 0)
    spans = itertools.pairwise(ended)
    # The first trial's beginning is not another one's end.
    return [
        (after.datetime_complete - before.datetime_complete).total_seconds() - sum(after.user_attrs[RECORD]["seconds"].values())
        for before, after in spans
        if before.datetime_complete and after.datetime_complete
    ]


if __name__ == "__main__":
    main()
