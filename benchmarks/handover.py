"""Milliseconds between a worker's last report and its next configuration, in a study of 10,000 finished trials on PostgreSQL.

    python -m benchmarks.handover                  # about three minutes on 2 cores
    python -m benchmarks.handover --trials 1000

tell: the result becomes durable in the database; the next configuration lies ready by then, so this is what a worker could wait for.
refill: another configuration is proposed by a sampler and made durable, while the workers train.
A real PostgreSQL with its usual durability. Every trial has all parameters, a curve, counts and seconds, as a launch leaves them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

import torch
from optuna.samplers import BaseSampler

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.evidence import provenance, write_result
from benchmarks.filled_study import asked, drawn_points, fill, plan_cost, tell
from studies import StudySpec, load_study
from tests.postgres import postgres_server
from tuner.samplers.build import build_sampler
from tuner.storage.opening import open_storage
from tuner.storage.store import StudyStore

SAMPLERS: Final = ("random", "tpe", "known_cost")
_WARM_UP: Final = 3


def main() -> None:
    """Fills a study, then tells and asks in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    with postgres_server() as server:
        server.create_database("handover")
        store = StudyStore.create_or_continue(open_storage(server.url_of("handover")), load_study("digits"))
        # One trial more is the one that the others take their form from.
        fill(store, drawn_points(store.spec.search, arguments.trials - 1))
        print(f"{store.finished_count()} finished trials", flush=True)
        found = {name: measure(store, sampler(store.spec, name), arguments.repeats) for name in SAMPLERS}
    tell_ms = [ms for told, _ in found.values() for ms in told]
    shown = {"tell": summary(tell_ms)} | {f"refill_{name}": summary(refills) for name, (_, refills) in found.items()}
    write_result("handover", {**provenance(torch.device("cpu")), "trials": arguments.trials, **shown})
    for name, line in shown.items():
        print(f"{name:20} median {line['median_ms']:8.2f} ms, 95th percentile {line['p95_ms']:8.2f} ms, n = {line['n']}")


def sampler(spec: StudySpec, name: str) -> BaseSampler:
    """The sampler of that name, with made-up prices."""
    return build_sampler(spec.model_copy(update={"sampler": name}), plan_cost(spec), 0)


def measure(store: StudyStore, sampler: BaseSampler, repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each telling and of each refill."""
    told, refills = [], []
    for number in range(_WARM_UP + repeats):
        refill_ms, claimed = _timed(lambda: asked(store, sampler))
        tell_ms, _ = _timed(lambda claimed=claimed: tell(store, claimed))
        if number >= _WARM_UP:
            refills.append(refill_ms)
            told.append(tell_ms)
    return told, refills


def summary(ms: list[float]) -> dict[str, Any]:
    """Median, 95th percentile and how many."""
    return {"median_ms": median(ms), "p95_ms": quantiles(ms, n=20)[-1], "n": len(ms)}


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begun_s = time.perf_counter()
    result = call()
    return 1000 * (time.perf_counter() - begun_s), result


if __name__ == "__main__":
    main()
