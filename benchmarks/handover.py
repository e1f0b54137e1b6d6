"""Milliseconds between a worker's last report and its next configuration, in a study of 10,000 finished trials on PostgreSQL.

    python -m benchmarks.handover                  # about three minutes on 2 cores
    python -m benchmarks.handover --trials 1000

tell: the result becomes durable in the database; the next configuration lies ready by then, so this is what a worker could wait for.
refill: another configuration is proposed by a sampler and made durable, while the workers train.
A real PostgreSQL with its usual durability. Every trial has all parameters, a curve, counts and seconds, as a launch leaves them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
import uuid
from collections.abc import Callable, Mapping
from statistics import median, quantiles
from typing import Any, Final

import numpy as np
import torch
from optuna.distributions import distribution_to_json
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import insert, select

from benchmarks.evidence import provenance, write_result
from studies import StudySpec, load_study
from studies.space import canonical_params, possible_steps
from tests.postgres import postgres_server
from trainers.cost import step_name
from tuner import rows
from tuner.distributions import distributions
from tuner.records import CURVE, RECORD
from tuner.samplers.candidates import Candidates
from tuner.samplers.plan_cost import PlanCost, plan_counts
from tuner.sampling import CanonicalSampler, build_sampler
from tuner.storage import open_storage
from tuner.store import ClaimedTrial, StudyStore

STEPS_PER_EPOCH: Final = 16
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
        fill(store, arguments.trials)
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


def plan_cost(spec: StudySpec) -> PlanCost:
    """Prices by pixels."""
    full_px = spec.dataset.full_px
    relative = {step: step.batches * (step.side_px / full_px) ** 2 for step in possible_steps(spec.search, full_px)}
    return PlanCost(spec.search, relative, STEPS_PER_EPOCH, spec.training.epochs * STEPS_PER_EPOCH)


def measure(store: StudyStore, sampler: BaseSampler, repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each telling and of each refill."""
    told, refills = [], []
    for number in range(_WARM_UP + repeats):
        refill_ms, claimed = _timed(lambda: _asked(store, sampler))
        tell_ms, _ = _timed(lambda claimed=claimed: _tell(store, claimed))
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


def _asked(store: StudyStore, sampler: BaseSampler) -> ClaimedTrial:
    claimed = store.create_trial(fixed={}, distributions=distributions(store.spec.search), sampler=sampler, rival=None, wanted=10**9)
    assert claimed is not None  # nobody else works on this study
    return claimed


def _tell(store: StudyStore, claimed: ClaimedTrial) -> None:
    values, record = _made_up(store.spec, claimed.params, claimed.number)
    assert store.complete(claimed.number, values, record)


def _made_up(spec: StudySpec, params: Mapping[str, Any], number: int) -> tuple[dict[str, float], dict[str, Any]]:
    fields = spec.search.complete(params)
    relative_time, epochs = plan_cost(spec)(fields), fields["epochs"]
    accuracy = 0.95 - 0.3 / epochs - 0.1 * fields["frequency"] + 0.01 * float(np.random.default_rng(number).standard_normal())
    counts = {step_name(step): count for step, count in plan_counts(fields, spec.dataset.full_px, STEPS_PER_EPOCH).items()}
    seconds = {"train": 20.0 * relative_time, "data": 0.1, "evaluation": 0.5, "checkpoint": 0.1}
    about = {"counts": counts, "seconds": seconds, "seed": number, "device": "made up", "versions": {"torch": "none"}, "commit": ""}
    curve = [accuracy * (1 - 0.5 ** (epoch + 1)) for epoch in range(epochs)]
    return {"relative_time": relative_time, "val_accuracy": accuracy}, {"curve": curve, "test_accuracy": None, **about}


def fill(store: StudyStore, trials: int) -> None:
    """Completed trials in bulk: one as a launch makes it, and others in its form with parameters and values of their own."""
    space, kinds = store.spec.search, distributions(store.spec.search)
    first = _asked(store, CanonicalSampler(RandomSampler(seed=0), space))
    _tell(store, first)
    points = Candidates(space, {}).filling(1 << (trials - 1).bit_length(), np.random.default_rng(0))[: trials - 1]
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    with rows.transaction(store.storage) as session:
        kept = session.scalars(select(models.TrialUserAttributeModel).where(models.TrialUserAttributeModel.trial_id == first.trial_id))
        attributes = {row.key: row.value_json for row in kept}
        about = {"study_id": store.study_id, "state": TrialState.COMPLETE, "_datetime_start_utc": now, "_datetime_complete_utc": now}
        born = insert(models.TrialModel).returning(models.TrialModel.trial_id, sort_by_parameter_order=True)
        trial_ids = session.scalars(born, [about | {"number": number} for number in range(1, trials)]).all()
        lines: dict[type[Any], list[dict[str, Any]]] = {
            models.TrialValueModel: [],
            models.TrialParamModel: [],
            models.TrialUserAttributeModel: [],
        }
        for number, (trial_id, point) in enumerate(zip(trial_ids, points, strict=True), start=1):
            params = canonical_params(space, point)
            values, record = _made_up(store.spec, params, number)
            lines[models.TrialValueModel] += _values(trial_id, store.spec, values)
            lines[models.TrialParamModel] += [
                {"trial_id": trial_id, "param_name": name, "param_value": kind.to_internal_repr(params[name])}
                | {"distribution_json": distribution_to_json(kind)}
                for name, kind in kinds.items()
            ]
            lines[models.TrialUserAttributeModel] += _attributes(trial_id, attributes, record)
        for table, of_table in lines.items():
            session.execute(insert(table), of_table)


def _values(trial_id: int, spec: StudySpec, values: Mapping[str, float]) -> list[dict[str, Any]]:
    finite = models.TrialValueModel.TrialValueType.FINITE
    return [
        {"trial_id": trial_id, "objective": index, "value": values[name], "value_type": finite}
        for index, name in enumerate(spec.objectives)
    ]


def _attributes(trial_id: int, like: Mapping[str, str], record: Mapping[str, Any]) -> list[dict[str, Any]]:
    lineage = json.loads(like[rows.LINEAGE]) | {"claim": uuid.uuid4().hex}
    kept = {name: value for name, value in record.items() if name != CURVE}
    own = {rows.LINEAGE: lineage, CURVE: record[CURVE], RECORD: kept}
    texts = {**like, **{key: json.dumps(value) for key, value in own.items()}}
    return [{"trial_id": trial_id, "key": key, "value_json": text} for key, text in texts.items()]


if __name__ == "__main__":
    main()
