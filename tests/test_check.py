"""`tuner check`: every way in which a study can break its promise, made by hand, is found by name and mended where that can be."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import optuna
import pytest
from filled import filled_store, pricing, record
from optuna.samplers import RandomSampler
from optuna.storages._rdb import models
from sqlalchemy import select, text

from trainers.places import RESULT_NAME
from tuner.checking.check import check_study
from tuner.checking.repair import repair, show_check
from tuner.checking.snapshot import Snapshot
from tuner.launching.launch import ASKED
from tuner.launching.places import CHECKPOINTS, root_place
from tuner.launching.timing import COST_TABLES, DATASET_FACTS
from tuner.results.stored import front_roots
from tuner.samplers.canonical import CanonicalSampler
from tuner.storage import rows
from tuner.storage import store as store_module
from tuner.storage.distributions import distributions
from tuner.storage.opening import GRACE_S, open_storage
from tuner.storage.owner import this_owner
from tuner.storage.store import StudyStore

TRIALS = 6
TABLES = models.BaseModel.metadata.sorted_tables
MADE_WITH_THE_TABLES = ("version_info",)
ELSEWHERE = {"host": "elsewhere", "machine": "m", "boot_id": "b", "pid_namespace": "n", "pid": 1, "started": 1}


@pytest.fixture(scope="module")
def finished_rows(tmp_path_factory):
    """What a database holds of a study with six finished trials: copied, because making it anew for each test takes long."""
    storage = open_storage(f"sqlite:///{tmp_path_factory.mktemp('finished') / 'tuner.db'}")
    filled_store(storage, TRIALS)
    return {table.name: content for table in TABLES if (content := rows_of(storage, table))}


@pytest.fixture
def store(storage_url, finished_rows, tmp_path):
    """A study as a launch leaves it: six trials asked for and finished, their results beside them on disk."""
    storage = open_storage(storage_url)
    with storage.engine.begin() as connection:
        for table in [table for table in TABLES if table.name in finished_rows and table.name not in MADE_WITH_THE_TABLES]:
            connection.execute(table.insert(), finished_rows[table.name])
            (key,) = table.primary_key
            if connection.dialect.name == "postgresql":
                last = max(row[key.name] for row in finished_rows[table.name])
                connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table.name}', '{key.name}'), {last})"))
    return launched(StudyStore.load(storage, "tiny"), tmp_path)


def rows_of(storage, table):
    with storage.engine.connect() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def launched(store, tmp_path):
    store.set_attr(ASKED, TRIALS)
    store.set_attr(CHECKPOINTS, str(tmp_path / "place"))
    store.set_attr(COST_TABLES, [pricing(store.spec).reference.to_dict()])
    store.set_attr(DATASET_FACTS, {"steps_per_epoch": 5})
    for trial in store.trials().completed:
        place(store, trial.root).write_result(trial.attempt, worker_record(store, trial, trial.values["val_accuracy"]))
    return store


def worker_record(store, trial, accuracy):
    return record(store.spec, trial.params, trial.number if trial.seed is None else trial.seed, accuracy)


def place(store, root):
    return root_place(store.get_attr(CHECKPOINTS), root)


def create(store, fixed=None, **keys):
    """A RUNNING trial of this process."""
    space = distributions(store.spec.search)
    sampler = CanonicalSampler(RandomSampler(seed=8), store.spec.search)
    return store.create_trial(fixed=fixed or {}, distributions=space, sampler=sampler, **({"rival": None} | keys))


def abandoned(store, monkeypatch, owner=ELSEWHERE, silent_s=0.0):
    """A RUNNING trial of another process."""
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "this_owner", lambda: owner)
        claimed = create(store)
    with rows.transaction(store.storage) as session:
        now = rows._database_time(session)
    then = now - timedelta(seconds=silent_s)
    execute(store, "UPDATE trial_heartbeats SET heartbeat = :then WHERE trial_id = :id", then=then, id=claimed.trial_id)
    return claimed


def complete(store, claimed, accuracy=0.7):
    told = worker_record(store, claimed, accuracy)
    assert store.complete(claimed.number, *pricing(store.spec).values(told, alone=False))
    place(store, claimed.root).write_result(claimed.attempt, told)


def execute(store, statement, **values):
    with store.storage.engine.begin() as connection:
        connection.execute(text(statement), values)


def set_attribute(store, number, key, **changes):
    """Changes keys of a JSON attribute of a trial, whatever its state."""
    attributes, trial_id = models.TrialUserAttributeModel, trial_id_of(store, number)
    with rows.transaction(store.storage) as session:
        query = select(attributes).where(attributes.trial_id == trial_id, attributes.key == key)
        row = session.execute(query).scalar_one()
        row.value_json = json.dumps(json.loads(row.value_json) | changes)


def trial_id_of(store, number):
    return store.storage.get_trial_id_from_study_id_trial_number(store.study_id, number)


def checkpoint(store, root, attempt=1):
    place(store, root).write(attempt, "epoch-00002.pt", b"weights")


def found(store):
    return [violation.kind for violation in check_study(store).violations]


def everything(store):
    """All that database and disk hold."""
    tables = {table.name: sorted(map(repr, rows_of(store.storage, table))) for table in TABLES}
    folder = Path(store.get_attr(CHECKPOINTS))
    return tables, {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def repaired(store):
    """What the repair did; a second one changes nothing."""
    done, check = repair(store)
    before = everything(store)
    again, same = repair(store)
    assert again == []
    assert everything(store) == before
    assert same.violations == check.violations
    return done


def off_front(store):
    """A root trial that is finished and not on the front."""
    trials = store.trials().completed
    return next(trial.root for trial in trials if trial.root not in front_roots(store.spec, trials))


class TestWithoutViolations:
    def test_a_study_as_a_launch_leaves_it(self, store):
        check = check_study(store)
        assert check.violations == []
        assert check.holds
        assert [one.ok for one in check.checked] == [True] * 8
        assert (check.asked, check.completed, check.pruned, check.failed, check.running) == (6, 6, 0, 0, 0)
        assert (check.lost, check.doubled, check.zombies) == (0, 0, 0)
        assert "6 completed trials against their counts, 6 of them against their workers' records" in words(check, "values")
        assert repaired(store) == []

    def test_failures_and_retries_are_none(self, store):
        store.set_attr(ASKED, TRIALS + 1)
        lost = create(store)
        store.fail(lost.number, "lost", "its worker died")
        complete(store, store.claim_retry(store.retries()[0], distributions(store.spec.search)))
        hopeless = create(store)
        store.fail(hopeless.number, "error", "it can't work")
        check = check_study(store)
        assert check.violations == []
        assert (check.completed, check.failed) == (7, 2)

    def test_a_running_launch_is_none(self, store, monkeypatch):
        store.set_attr(ASKED, TRIALS + 3)
        own, told = create(store), create(store)
        abandoned(store, monkeypatch, silent_s=GRACE_S / 2)
        place(store, own.root).write_result(1, worker_record(store, own, 0.7))
        place(store, own.root).write(1, "epoch-00002.pt.77.tmp", b"half")
        store.fail(told.number, "interrupted", "killed")
        place(store, told.root).write_result(1, worker_record(store, told, 0.7))
        checkpoint(store, off_front(store))
        check = check_study(store)
        assert check.violations == []
        assert check.goes_on
        assert (check.running, check.lost, check.zombies) == (2, 0, 0)
        before = everything(store)
        assert repair(store)[0] == []
        assert everything(store) == before

    def test_a_place_that_is_elsewhere_is_said(self, store, tmp_path):
        checkpoint(store, off_front(store))
        store.set_attr(CHECKPOINTS, str(tmp_path / "on another machine"))
        check = check_study(store)
        assert check.violations == []
        assert [one.what for one in check.checked if one.ok is None] == ["results", "leftovers"]
        assert "is not on this machine" in words(check, "results")
        assert "0 of them against their workers' records" in words(check, "values")

    def test_a_place_that_does_not_answer_is_said(self, store, tmp_path):
        (tmp_path / "place" / "root-00003" / "attempt-2").mkdir(parents=True)
        (tmp_path / "place" / "root-00003" / "attempt-2" / RESULT_NAME).mkdir()
        check = check_study(store)
        assert check.violations == []
        assert "attempt-2/result.json can't be read" in words(check, "leftovers")

    def test_a_study_that_was_never_launched(self, storage_url):
        check = check_study(filled_store(open_storage(storage_url), 2))
        assert check.violations == []
        assert (check.asked, check.lost, check.doubled) == (None, 0, 0)
        assert [one.what for one in check.checked if one.ok is None] == ["number", "results", "leftovers"]

    def test_surplus_results_are_none(self, store):
        late = create(store)
        store.fail(late.number, "interrupted", "silent")
        place(store, late.root).write_result(1, worker_record(store, late, 0.7))
        assert found(store) == []
        assert repaired(store) == []


def words(check, what):
    return next(one.sentence for one in check.checked if one.what == what)


def only(check):
    """The one violation there is."""
    (violation,) = check.violations
    return violation


class TestDrivers:
    @pytest.mark.parametrize("case", ["silent elsewhere", "gone from this host"])
    def test_a_trial_whose_driver_is_gone(self, store, monkeypatch, case):
        store.set_attr(ASKED, TRIALS + 1)
        # No process has this id: it is beyond the kernel's largest.
        owner = ELSEWHERE if case == "silent elsewhere" else this_owner() | {"pid": 2**30}
        claimed = abandoned(store, monkeypatch, owner, silent_s=GRACE_S + 5 if case == "silent elsewhere" else 0)
        check = check_study(store)
        assert found(store) == ["zombie", "unfinished"]
        assert (check.zombies, check.lost) == (1, 1)
        assert f"trial {claimed.number} is RUNNING, but its driver" in check.violations[0].sentence
        (line,) = repaired(store)
        assert line.startswith(f"failed trial {claimed.number}")
        assert found(store) == ["unfinished"]
        assert [retry.root for retry in store.retries()] == [claimed.root]

    def test_a_dead_driver_beside_a_live_one(self, store, monkeypatch):
        store.set_attr(ASKED, TRIALS + 2)
        own = create(store)
        dead = abandoned(store, monkeypatch, silent_s=GRACE_S + 5)
        assert found(store) == ["zombie"]
        repair(store)
        states = {number: state.name for number, state in store.states([own.number, dead.number]).items()}
        assert states == {own.number: "RUNNING", dead.number: "FAIL"}
        assert found(store) == []


class TestNumber:
    def test_too_few(self, store):
        store.set_attr(ASKED, TRIALS + 2)
        check = check_study(store)
        assert only(check).kind == "unfinished"
        assert only(check).sentence.startswith("6 of 8 trials asked for are finished")
        assert check.lost == 2
        assert repaired(store) == []

    def test_too_many(self, store):
        store.set_attr(ASKED, TRIALS - 1)
        check = check_study(store)
        assert only(check).kind == "too_many"
        assert (check.lost, check.doubled) == (0, 1)
        assert repaired(store) == []


class TestStates:
    def test_a_trial_that_nobody_starts(self, store):
        optuna.load_study(study_name=store.name, storage=store.storage).enqueue_trial({"frequency": 0.5})
        violation = only(check_study(store))
        assert (violation.kind, violation.trial) == ("waiting", 6)
        assert repaired(store) == ["failed trial 6, which nobody would have started"]
        assert found(store) == []
        assert store.retries() == []

    def test_another_programs_result(self, store):
        store.set_attr(ASKED, TRIALS + 1)
        optuna.load_study(study_name=store.name, storage=store.storage).add_trial(optuna.create_trial(values=[0.5, 0.5]))
        assert (only(check_study(store)).kind, only(check_study(store)).trial) == ("no_record", 6)
        assert repaired(store) == []

    @pytest.mark.parametrize("sentence", ["val_accuracy is missing", "val_accuracy is inf"])
    def test_a_finished_trial_without_its_values(self, store, sentence):
        where = "WHERE objective = 1 AND trial_id = :id"
        statement = (
            f"DELETE FROM trial_values {where}"
            if "missing" in sentence
            else f"UPDATE trial_values SET value = NULL, value_type = 'INF_POS' {where}"
        )
        execute(store, statement, id=trial_id_of(store, 3))
        check = check_study(store)
        violation = next(one for one in check.violations if one.kind == "no_values")
        assert violation.trial == 3
        assert sentence in violation.sentence
        assert repaired(store) == []

    @pytest.mark.parametrize("state", ["FAIL", "PRUNED"])
    def test_an_ended_trial_with_values(self, store, state):
        execute(store, f"UPDATE trials SET state = '{state}' WHERE trial_id = :id", id=trial_id_of(store, 4))
        violation = next(one for one in check_study(store).violations if one.kind == "stray_values")
        assert violation.trial == 4
        assert f"trial 4 is {state}, but has the values [" in violation.sentence


class TestAttempts:
    def test_two_results_of_one_root_trial(self, store):
        store.set_attr(ASKED, TRIALS + 1)
        complete(store, second := create(store))
        set_attribute(store, second.number, rows.LINEAGE, root=2, attempt=2)
        place(store, 2).write_result(2, place(store, 6).result()[1])
        check = check_study(store)
        violation = only(check)
        assert (violation.kind, violation.trial, violation.root) == ("finished_twice", 6, 2)
        assert violation.sentence == "root trial 2 has the result of trial 6 besides that of trial 2, which was first"
        assert (check.lost, check.doubled) == (0, 1)
        assert repaired(store) == []

    def test_numbers_with_a_gap(self, store):
        store.set_attr(ASKED, TRIALS + 1)
        store.fail((first := create(store)).number, "lost", "died")
        second = store.claim_retry(store.retries()[0], distributions(store.spec.search))
        complete(store, second)
        set_attribute(store, second.number, rows.LINEAGE, attempt=3)
        violation = only(check_study(store))
        assert (violation.kind, violation.root) == ("attempts", first.number)
        assert "numbered 1 and 3, they must count up from 1" in violation.sentence

    def test_two_trainings_of_one_root_trial(self, store):
        store.set_attr(ASKED, TRIALS + 1)
        first, second = create(store), create(store)
        set_attribute(store, second.number, rows.LINEAGE, root=first.number, attempt=2)
        violation = only(check_study(store))
        assert (violation.kind, violation.root, violation.repairable) == ("trained_twice", first.number, False)
        assert f"is being trained by trials {first.number} and {second.number} at once" in violation.sentence

    def test_a_training_of_what_has_a_result(self, store, monkeypatch):
        again = abandoned(store, monkeypatch, silent_s=GRACE_S + 5)
        set_attribute(store, again.number, rows.LINEAGE, root=1, attempt=2)
        assert found(store) == ["zombie", "trained_twice"]
        assert len(repaired(store)) == 1
        assert found(store) == []


class TestConfigurations:
    def test_a_start_point_twice(self, store):
        store.set_attr(ASKED, TRIALS + 1)
        baseline = store.trials().completed[0]
        assert baseline.rival == "baseline"
        complete(store, create(store, baseline.params, rival="baseline"))
        check = check_study(store)
        assert (only(check).kind, only(check).trial) == ("duplicate", 6)
        assert check.doubled == 1
        assert repaired(store) == []

    def test_the_same_parameters_and_seed_twice(self, store):
        store.set_attr(ASKED, TRIALS + 2)
        trial = store.trials().completed[4]
        complete(store, create(store, trial.params, seed=99))
        assert found(store) == ["unfinished"]
        complete(store, create(store, trial.params, seed=trial.seed))
        assert (only(check_study(store)).kind, only(check_study(store)).trial) == ("duplicate", 7)

    def test_a_start_point_with_several_chosen_seeds_is_none(self, store):
        store.set_attr(ASKED, TRIALS + 2)
        for seed in (100, 101):
            complete(store, create(store, store.trials().completed[0].params, rival="baseline", seed=seed))
        assert found(store) == []


class TestValues:
    def test_a_value_that_is_not_what_was_kept(self, store):
        execute(store, "UPDATE trial_values SET value = 0.99 WHERE objective = 1 AND trial_id = :id", id=trial_id_of(store, 3))
        violation = only(check_study(store))
        assert (violation.kind, violation.trial, violation.root) == ("values", 3, 3)
        assert violation.sentence.startswith("trial 3: its val_accuracy is 0.99, what is kept of its training says 0.")
        assert repaired(store) == []

    def test_a_price_that_is_not_that_of_the_counts(self, store):
        trial = store.trials().completed[0]
        # The baseline: 20 full steps, of which one more costs a twentieth.
        set_attribute(store, 0, "record", counts=trial.counts | {"32/full": 21})
        assert "its relative_time is 1.0, its counts cost 1.05" in only(check_study(store)).sentence
        set_attribute(store, 0, "record", counts={"7/full": 20})
        assert "can't be priced" in only(check_study(store)).sentence

    @pytest.mark.parametrize("name", ["val_accuracy", "val_loss", "curve", "seed"])
    def test_a_worker_that_measured_something_else(self, store, name):
        trial = store.trials().completed[3]
        told = worker_record(store, trial, trial.values["val_accuracy"])
        changed = {"seed": 77, "curve": [*told["curve"][:-1], 0.5]}.get(name, 0.123)
        place(store, 3).write_result(1, told | {name: changed})
        violation = only(check_study(store))
        assert (violation.kind, violation.trial) == ("values", 3)
        assert violation.sentence.startswith(f"trial 3: {name} ")
        assert violation.sentence.endswith("in its worker's record (attempt 1)")

    def test_any_record_of_its_root_trial_will_do(self, store):
        trial = store.trials().completed[3]
        told = worker_record(store, trial, trial.values["val_accuracy"])
        place(store, 3).write_result(1, told | {"val_loss": 0.123})
        place(store, 3).write_result(2, told)
        assert found(store) == []

    def test_values_that_json_lacks_are_equal(self, store):
        store.set_attr(ASKED, TRIALS + 1)
        claimed = create(store)
        told = worker_record(store, claimed, 0.7) | {"val_loss": float("nan")}
        assert store.complete(claimed.number, *pricing(store.spec).values(told, alone=False))
        place(store, claimed.root).write_result(1, told)
        assert found(store) == []

    def test_a_damaged_or_missing_record_can_not_be_compared(self, store):
        place(store, 3).write(1, RESULT_NAME, b'{"sha256": "0", "record": {}}')
        place(store, 4).remove(1, RESULT_NAME)
        check = check_study(store)
        assert check.violations == []
        assert "4 of them against their workers' records" in words(check, "values")


class TestResults:
    def untold(self, store, kind="interrupted", accuracy=0.77):
        """A root trial that was trained and whose driver never told it."""
        store.set_attr(ASKED, TRIALS + 1)
        claimed = create(store)
        place(store, claimed.root).write_result(1, worker_record(store, claimed, accuracy))
        store.fail(claimed.number, kind, "the launch ended")
        return claimed

    @pytest.mark.parametrize("kind", ["interrupted", "error"])
    def test_one_that_was_not_told(self, store, kind):
        claimed = self.untold(store, kind)
        checkpoint(store, claimed.root)
        assert "untold" in found(store)
        lines = repaired(store)
        assert lines[0] == f"told the result of root trial {claimed.root}, which is trial {claimed.number + 1} now"
        told = store.trials().completed[-1]
        assert (told.root, told.attempt, told.params, told.values["val_accuracy"]) == (claimed.root, 2, claimed.params, 0.77)
        assert told.commit != ""
        assert found(store) == []

    def test_one_of_a_trial_whose_driver_died(self, store, monkeypatch):
        store.set_attr(ASKED, TRIALS + 1)
        claimed = abandoned(store, monkeypatch, silent_s=GRACE_S + 5)
        place(store, claimed.root).write_result(1, worker_record(store, claimed, 0.77))
        assert found(store) == ["zombie", "unfinished", "untold"]
        assert [line.split()[0] for line in repaired(store)] == ["failed", "told"]
        assert found(store) == []

    def test_one_whose_values_are_refused(self, store):
        claimed = self.untold(store, accuracy=float("nan"))
        assert found(store) == ["unfinished", "untold"]
        (line,) = repaired(store)
        told = f"failed trial {claimed.number + 1} with the result of root trial {claimed.root}"
        assert line == f"{told}: its val_accuracy is nan, it must be a finite number"
        assert found(store) == ["unfinished"]
        assert store.retries() == []

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_one_that_another_driver_takes_meanwhile(self, store, monkeypatch, when):
        """Before or after the repair has read the trials."""
        self.untold(store)

        class Reading(Snapshot):
            def __init__(self, store):
                retry = store.retries()[0]
                for moment in ("before", "after"):
                    if moment == when:
                        store.claim_retry(retry, distributions(store.spec.search))
                    if moment == "before":
                        super().__init__(store)

        monkeypatch.setattr("tuner.checking.repair.Snapshot", Reading)
        assert repair(store)[0] == []
        assert (store.running_count(), store.finished_count()) == (1, TRIALS)

    def test_without_a_cost_table_it_is_left_to_a_launch(self, store):
        self.untold(store)
        store.set_attr(COST_TABLES, None)
        check = check_study(store)
        assert [(one.kind, one.repairable) for one in check.violations] == [("unfinished", False), ("untold", False)]
        assert repaired(store) == []


class TestLeftovers:
    @pytest.mark.parametrize("keep", ["running", "front", "all"])
    def test_checkpoints_of_finished_trials(self, storage_url, tmp_path, keep):
        store = launched(filled_store(open_storage(storage_url), TRIALS, checkpoints={"keep": keep}), tmp_path)
        on_front = min(front_roots(store.spec, store.trials().completed))
        for root in (on_front, off_front(store)):
            checkpoint(store, root)
        left = {"running": {on_front, off_front(store)}, "front": {off_front(store)}, "all": set()}[keep]
        assert {(violation.kind, violation.root) for violation in check_study(store).violations} == {("checkpoints", root) for root in left}
        assert len(repaired(store)) == len(left)
        assert found(store) == []
        assert len(place(store, on_front).checkpoints()) == (keep != "running")
        assert len(place(store, off_front(store)).checkpoints()) == (keep == "all")
        assert place(store, off_front(store)).result() is not None

    def test_checkpoints_of_what_is_retried_stay_and_of_what_is_given_up_go(self, store):
        store.set_attr(ASKED, TRIALS + 1)
        retried, given_up = create(store), create(store)
        store.fail(retried.number, "lost", "died")
        store.fail(given_up.number, "error", "it can't work")
        for claimed in (retried, given_up):
            checkpoint(store, claimed.root)
        assert [(one.kind, one.root) for one in check_study(store).violations][1:] == [("checkpoints", given_up.root)]
        assert repaired(store) == [f"removed the checkpoints of root trial {given_up.root}"]
        assert len(place(store, retried.root).checkpoints()) == 1

    def test_files_of_killed_writers(self, store):
        place(store, 2).write(1, "epoch-00001.pt.7.tmp", b"half")
        place(store, 2).write(2, "result.json.7.tmp", b"half")
        violation = only(check_study(store))
        assert (violation.kind, violation.root) == ("temporary_files", 2)
        assert "attempt-1/epoch-00001.pt.7.tmp, attempt-2/result.json.7.tmp" in violation.sentence
        assert repaired(store) == ["removed the temporary files of root trial 2"]
        assert found(store) == []
        assert place(store, 2).result() is not None

    def test_what_can_not_be_removed_is_said(self, store, monkeypatch):
        checkpoint(store, off_front(store))

        def refuse(self):
            raise OSError("the disk is read-only")

        monkeypatch.setattr("trainers.places.RootPlace.remove_checkpoints", refuse)
        done, check = repair(store)
        assert done == [f"could not remove files of root trial {off_front(store)}: the disk is read-only"]
        assert only(check).kind == "checkpoints"


class TestCommand:
    def run(self, capsys, storage_url, *, as_json=False, mend=False):
        """Exit code and output."""
        code = 0
        try:
            show_check("tiny", storage_url, as_json, mend)
        except SystemExit as ended:
            code = ended.code
        return code, capsys.readouterr().out.rstrip()

    def test_what_holds_is_one_table_and_exit_code_0(self, store, storage_url, capsys):
        code, shown = self.run(capsys, storage_url)
        assert code == 0
        assert shown.count("✓") == 8
        assert shown.endswith("study 'tiny': nothing is lost, nothing is counted twice")
        document = json.loads(self.run(capsys, storage_url, as_json=True)[1])
        assert document.pop("checked")[0] == {"what": "states", "ok": True, "sentence": "6 trials: 6 COMPLETE"}
        counts = {"study": "tiny", "asked": 6, "completed": 6, "pruned": 0, "failed": 0, "running": 0}
        assert document == counts | {"violations": [], "holds": True}

    def test_what_does_not_hold_is_exit_code_1_and_mended_on_demand(self, store, storage_url, capsys):
        store.set_attr(ASKED, TRIALS - 1)
        place(store, 2).write(1, "epoch-00001.pt.7.tmp", b"half")
        code, shown = self.run(capsys, storage_url)
        assert code == 1
        assert shown.count("✗") == 2
        assert "temporary_files: root trial 2 has files" in shown
        assert shown.endswith("study 'tiny': 2 violations; --repair mends 1 of them")
        code, shown = self.run(capsys, storage_url, as_json=True, mend=True)
        assert code == 1
        document = json.loads(shown)
        assert document["repaired"] == ["removed the temporary files of root trial 2"]
        assert [violation["kind"] for violation in document["violations"]] == ["too_many"]
        code, shown = self.run(capsys, storage_url, mend=True)
        assert code == 1
        assert "too_many: 6 of 5 trials asked for are finished: 1 too many; nothing is deleted" in shown

    def test_an_unfinished_study_says_that_this_is_all(self, store, storage_url, capsys):
        store.set_attr(ASKED, TRIALS + 1)
        code, shown = self.run(capsys, storage_url)
        assert code == 1
        assert shown.endswith("study 'tiny' is unfinished; nothing else is wrong: give tuner launch again")

    def test_a_text_that_would_steer_the_terminal_is_shown(self, store, storage_url, capsys):
        place(store, 2).write(1, "\x1b[2J.tmp", b"half")
        assert "attempt-1/\\x1b[2J.tmp" in self.run(capsys, storage_url)[1]


def test_the_command_line(tmp_path):
    storage_url = f"sqlite:///{tmp_path / 'tuner.db'}"
    filled_store(open_storage(storage_url), 1)
    command = [str(Path(sys.executable).parent / "tuner"), "check", "tiny", "--storage", storage_url, "--json", "--repair"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["repaired"] == []
