"""Samplers propose whole canonical points, keep searching all fields jointly, and don't repeat themselves at the next launch."""

from __future__ import annotations

import pytest
from filled import filled_store, plan_cost, pricing, record, tiny_spec
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.search_space import intersection_search_space

from studies.space import SCHEDULE_FIELDS
from tuner.launching.proposals import Ledger, Proposal, SearchProposer
from tuner.samplers.build import build_sampler
from tuner.storage.distributions import distributions
from tuner.storage.opening import open_storage
from tuner.storage.store import StudyStore

SAMPLERS = ["tpe", "nsga2", "gp", "random", "qmc", "known_cost"]


@pytest.fixture
def storage(tmp_path):
    return open_storage(f"sqlite:///{tmp_path / 'tuner.db'}")


def ask(store, spec, sampler, fixed=None):
    return store.create_trial(fixed=fixed or {}, distributions=distributions(spec.search), sampler=sampler, rival=None)


def tell(store, spec, claimed):
    values, stored = pricing(spec).values(record(spec, claimed.params, 0, 0.5 + 0.01 * claimed.params["epochs"]), alone=False)
    assert store.complete(claimed.number, values, stored)


def test_domains_become_distributions():
    found = distributions(tiny_spec().search)
    assert found["frequency"] == FloatDistribution(0.0, 1.0, step=0.25)
    assert found["epochs"] == IntDistribution(2, 4)
    assert found["lr"] == FloatDistribution(0.01, 0.1, log=True)
    assert found["kernel"] == CategoricalDistribution(("full", "pooled"))
    assert "scale" not in found  # fixed: there is nothing to choose
    assert next(iter(found)) == "frequency"


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_searches_all_fields_jointly_although_rivals_lack_a_schedule(storage, name):
    store = filled_store(storage, 12, sampler=name, seed=1)
    spec = store.spec
    assert sum(trial.rival is not None for trial in store.trials().completed) >= 3
    sampler = build_sampler(spec, plan_cost(spec), store.launch_number())
    for _ in range(3):
        tell(store, spec, ask(store, spec, sampler))
    trials = store.study.get_trials(deepcopy=False)
    assert intersection_search_space(trials).keys() == distributions(spec.search).keys()
    if name in ("nsga2", "gp", "qmc"):
        joint = sampler._inner.infer_relative_search_space(store.study, trials[-1])
        assert joint.keys() == distributions(spec.search).keys()


@pytest.mark.parametrize("name", SAMPLERS)
def test_full_resolution_is_always_written_the_same_way(storage, name):
    spec = tiny_spec(sampler=name, seed=2)
    store = StudyStore.create_or_continue(storage, spec)
    sampler = build_sampler(spec, plan_cost(spec), 0)
    for number in range(12):
        claimed = ask(store, spec, sampler, {"frequency": 0.0} if number % 2 else {})
        if claimed.params["frequency"] == 0:
            assert {field: claimed.params[field] for field in SCHEDULE_FIELDS} == {
                field: spec.search[field].canonical for field in SCHEDULE_FIELDS
            }
        tell(store, spec, claimed)
    assert sum(trial.rival is not None for trial in store.trials().completed) >= 6


@pytest.mark.parametrize("name", ["tpe", "nsga2", "gp", "random"])
def test_the_next_launch_does_not_draw_the_first_launch_again(tmp_path, name):
    first = []
    for launch_number in (0, 0, 5):
        spec = tiny_spec(sampler=name, seed=3)
        store = StudyStore.create_or_continue(open_storage(f"sqlite:///{tmp_path / f'{len(first)}.db'}"), spec)
        sampler = build_sampler(spec, plan_cost(spec), launch_number)
        first.append([ask(store, spec, sampler).params for _ in range(3)])
    assert first[0] == first[1]
    assert first[0] != first[2]


def test_the_rivals_come_first_and_stay_a_fifth():
    spec = tiny_spec()
    proposer, ledger = SearchProposer(spec), Ledger()
    marks = []
    for root in range(40):
        proposal = proposer.propose(ledger)
        marks.append(proposal.rival)
        params = spec.baseline_params() | {"frequency": 0.5} | proposal.fixed
        ledger.add(root, Proposal(params | {"lr": 0.02 + root / 1000} if proposal.rival is None else params, proposal.rival))
    # 0.75, 0.5 and 0.35 of four epochs are 3, 2 and (rounded into the domain) 2.
    assert marks[:3] == ["baseline", "shorter", "shorter"]
    for length in range(1, 41):
        assert sum(mark is not None for mark in marks[:length]) >= length / 5


def test_start_points_are_not_proposed_again():
    spec = tiny_spec()
    ledger = Ledger()
    for root, (params, rival) in enumerate(spec.start_points()):
        ledger.add(root, Proposal(spec.search.complete(params), rival))
    assert SearchProposer(spec).propose(ledger).rival is None


def test_a_failed_start_point_is_proposed_again():
    spec = tiny_spec()
    ledger = Ledger()
    for root, (params, rival) in enumerate(spec.start_points()):
        ledger.add(root, Proposal(spec.search.complete(params), rival))
    ledger.drop(0)
    assert SearchProposer(spec).propose(ledger).rival == "baseline"
