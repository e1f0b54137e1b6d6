"""A study with as many completed trials as wanted, told in bulk: what a search of days leaves, in seconds."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from optuna.distributions import distribution_to_json
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import insert, select

from studies import StudySpec
from studies.space import SearchSpace, canonical_params, possible_steps
from trainers.cost import step_name
from tuner.samplers.candidates import Candidates
from tuner.samplers.canonical import CanonicalSampler
from tuner.samplers.plan_cost import PlanCost, plan_counts
from tuner.storage import rows
from tuner.storage.distributions import distributions
from tuner.storage.records import CURVE, RECORD
from tuner.storage.store import ClaimedTrial, StudyStore
from tuner.storage.trials import Rival

STEPS_PER_EPOCH: Final = 16


def plan_cost(spec: StudySpec) -> PlanCost:
    """Prices by pixels."""
    full_px = spec.dataset.full_px
    relative = {step: step.batches * (step.side_px / full_px) ** 2 for step in possible_steps(spec.search, full_px)}
    return PlanCost(spec.search, relative, STEPS_PER_EPOCH, spec.training.epochs * STEPS_PER_EPOCH)


def asked(store: StudyStore, sampler: BaseSampler) -> ClaimedTrial:
    """A trial whose parameters the sampler chose."""
    claimed = store.create_trial(fixed={}, distributions=distributions(store.spec.search), sampler=sampler, rival=None, wanted=10**9)
    assert claimed is not None  # nobody else works on this study
    return claimed


def tell(store: StudyStore, claimed: ClaimedTrial) -> None:
    """Completes it with a made-up result."""
    values, record = _made_up(store.spec, claimed.params, claimed.number)
    assert store.complete(claimed.number, values, record)


def told(store: StudyStore, params: Mapping[str, Any], rival: Rival) -> None:
    """A completed trial with these parameters."""
    kinds, sampler = distributions(store.spec.search), RandomSampler()
    claimed = store.create_trial(fixed=params, distributions=kinds, sampler=sampler, rival=rival, wanted=10**9)
    assert claimed is not None  # nobody else works on this study
    tell(store, claimed)


def _made_up(spec: StudySpec, params: Mapping[str, Any], number: int) -> tuple[dict[str, float], dict[str, Any]]:
    fields = spec.search.complete(params)
    relative_time, epochs = plan_cost(spec)(fields), fields["epochs"]
    accuracy = 0.95 - 0.3 / epochs - 0.1 * fields["frequency"] + 0.01 * float(np.random.default_rng(number).standard_normal())
    counts = {step_name(step): count for step, count in plan_counts(fields, spec.dataset.full_px, STEPS_PER_EPOCH).items()}
    seconds = {"train": 20.0 * relative_time, "data": 0.1, "evaluation": 0.5, "checkpoint": 0.1}
    about = {"counts": counts, "seconds": seconds, "seed": number, "device": "made up", "versions": {"torch": "none"}, "commit": ""}
    curve = [accuracy * (1 - 0.5 ** (epoch + 1)) for epoch in range(epochs)]
    return {"relative_time": relative_time, "val_accuracy": accuracy}, {"curve": curve, "test_accuracy": None, **about}


def drawn_points(space: SearchSpace, number: int) -> list[dict[str, Any]]:
    """So many points, evenly spread over the space."""
    return list(Candidates(space, {}).filling(1 << number.bit_length(), np.random.default_rng(0))[:number])


def fill(store: StudyStore, points: Sequence[Mapping[str, Any]]) -> None:
    """Completed trials in bulk: one as a launch makes it, and in its form one a point, with values of their own."""
    space, kinds = store.spec.search, distributions(store.spec.search)
    first = asked(store, CanonicalSampler(RandomSampler(seed=0), space))
    tell(store, first)
    numbers = range(first.number + 1, first.number + 1 + len(points))
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    with rows.transaction(store.storage) as session:
        kept = session.scalars(select(models.TrialUserAttributeModel).where(models.TrialUserAttributeModel.trial_id == first.trial_id))
        attributes = {row.key: row.value_json for row in kept}
        about = {"study_id": store.study_id, "state": TrialState.COMPLETE, "_datetime_start_utc": now, "_datetime_complete_utc": now}
        born = insert(models.TrialModel).returning(models.TrialModel.trial_id, sort_by_parameter_order=True)
        trial_ids = session.scalars(born, [about | {"number": number} for number in numbers]).all()
        lines: dict[type[Any], list[dict[str, Any]]] = {
            models.TrialValueModel: [],
            models.TrialParamModel: [],
            models.TrialUserAttributeModel: [],
        }
        for number, trial_id, point in zip(numbers, trial_ids, points, strict=True):
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
