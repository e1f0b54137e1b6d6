"""A study as its live page asks for it: made anew when something has ended, never waited for, and said where it can't be read."""

from __future__ import annotations

import gzip
import json
import threading
import time

import pytest
from filled import confirm_filled, filled_store, tiny_spec
from optuna.samplers import RandomSampler
from starlette.requests import Request
from test_report import HALF, told

from trainers.errors import RunError
from tuner.launching.launch import ASKED
from tuner.results.confirmation import confirmation_name
from tuner.serving import live
from tuner.serving.live import AWAY, BROKEN, GONE, NOTHING_YET, UNPICTURED, LiveStudy
from tuner.serving.packed import Packed
from tuner.serving.under_way import time_left, under_way_words
from tuner.storage.distributions import distributions
from tuner.storage.opening import DatabaseAway, open_storage
from tuner.storage.store import StudyStore
from tuner.storage.trials import RunningTrial
from tuner.storage.watching import WatchedTrial

PATIENCE_S = 20


@pytest.fixture
def store(tmp_path, monkeypatch):
    for name in ("LOOK_S", "PAUSE_S", "_PAUSES"):
        monkeypatch.setattr(live, name, 0.0)
    store = filled_store(open_storage(f"sqlite:///{tmp_path / 'tuner.db'}"), 4)
    yield store
    store.storage.engine.dispose()


def waited(study, holds):
    """The study's state once it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds(state := study.state()):
        assert time.monotonic() < deadline, state
        time.sleep(0.02)
    return state


def settled(study):
    """The state once nothing is left to be read."""
    while True:
        state = waited(study, lambda state: not state["is_reading"])
        if state == study.state():
            return state


@pytest.fixture
def made(monkeypatch):
    """How often the document was made; the next times wait for `gate`, or fail with `error`."""

    class Made:
        count = 0
        error: Exception | None = None
        gate = threading.Event()

    made, genuine = Made(), live.study_document
    made.gate.set()

    def counted(store):
        made.count += 1
        assert made.gate.wait(PATIENCE_S)
        if made.error is not None:
            raise made.error
        return genuine(store)

    monkeypatch.setattr(live, "study_document", counted)
    return made


def test_the_document_is_made_when_something_has_ended_and_not_else(store, made):
    study = LiveStudy(store)
    first = settled(study)
    assert (made.count, first["document"], first["waiting"], first["problem"]) == (1, study.document.etag, "", "")
    assert json.loads(study.document.text)["counts"]["completed"] == 4
    claimed = store.create_trial(fixed={}, distributions=distributions(store.spec.search), sampler=RandomSampler(seed=1), rival=None)
    assert [one["number"] for one in settled(study)["running"]] == [claimed.number]
    assert study.state()["under_way"] == "1 trial is handed out and has told no epoch yet."
    store.beat([claimed.number], {claimed.number: (0.4,)})
    assert study.state()["under_way"] == "1 trial is running."
    assert made.count == 1
    assert store.fail(claimed.number, "error", "it broke")
    assert settled(study)["document"] != first["document"]
    assert made.count == 2


def test_who_asks_while_it_is_made_gets_the_former_one_at_once(store, made):
    study = LiveStudy(store)
    former = settled(study)["document"]
    made.gate.clear()
    number = told(store, HALF | {"epochs": 2})
    state = waited(study, lambda state: state["is_reading"])
    assert state["document"] == former == study.document.etag
    assert (study.state()["is_reading"], state["is_behind"], state["finished"]) == (True, True, 5)
    # More that ends meanwhile asks for no second one beside it.
    told(store, HALF | {"epochs": 2})
    study.state()
    assert made.count == 2
    made.gate.set()
    waited(study, lambda state: number + 1 in json.loads(study.document.text)["trials"]["number"])
    assert not settled(study)["is_behind"]


def test_it_is_made_no_more_often_than_every_few_seconds_but_for_a_page_that_is_opened(store, made, monkeypatch):
    study = LiveStudy(store)
    monkeypatch.setattr(live, "PAUSE_S", 1000.0)
    settled(study)
    told(store, HALF | {"epochs": 2})
    assert [settled(study)[name] for name in ("problem", "is_behind")] == ["", True]
    assert made.count == 1
    study.hurry()
    assert not waited(study, lambda state: made.count > 1 and not state["is_reading"])["is_behind"]


def test_nobody_waits_behind_somebody_elses_look(store, monkeypatch):
    study = LiveStudy(store)
    former = settled(study)
    asked, gate = threading.Event(), threading.Event()
    monkeypatch.setattr(live, "study_version", lambda *_: asked.set() or gate.wait(PATIENCE_S) or "version")
    looking = threading.Thread(target=study.state)
    looking.start()
    assert asked.wait(PATIENCE_S)
    assert study.state() == former
    gate.set()
    looking.join()


def test_a_database_that_is_away_is_said_without_its_words(store, monkeypatch, capsys):
    study = LiveStudy(store)
    former = settled(study)

    def away(*_):
        raise DatabaseAway("the database postgresql://tuner:***@host/db has not answered")

    with monkeypatch.context() as patched:
        patched.setattr(live, "study_version", away)
        assert study.state() == former | {"problem": AWAY}
    assert "has not answered" in capsys.readouterr().err
    assert study.state() == former


def test_a_study_that_can_not_be_read_is_said_and_tried_again(store, made, capsys):
    study = LiveStudy(store)
    former = settled(study)["document"]
    made.error = ValueError("bad \x1b[2J")
    told(store, HALF | {"epochs": 2})
    state = waited(study, lambda state: state["problem"])
    # Nothing newer is about to come, so nobody need wait for it.
    assert (state["problem"], state["document"], state["is_behind"]) == (BROKEN, former, False)
    tries = made.count
    waited(study, lambda state: made.count > tries + 1)
    assert capsys.readouterr().err == "warning: ValueError: bad \\x1b[2J\n"
    made.error = None
    state = waited(study, lambda state: not state["problem"])
    assert state["document"] != former


def test_a_study_that_was_deleted_is_said(store):
    study = LiveStudy(store)
    former = settled(study)
    StudyStore.delete(store.storage, "tiny")
    assert study.state()["problem"] == GONE
    assert study.state()["document"] == former["document"]


def test_a_study_without_a_completed_trial_comes_alive(tmp_path, store):
    empty = StudyStore.create_or_continue(store.storage, tiny_spec(name="empty"))
    study = LiveStudy(empty)
    state = settled(study)
    assert (state["document"], state["waiting"], study.document) == (None, NOTHING_YET, None)
    told(empty, HALF | {"epochs": 2})
    assert waited(study, lambda state: state["document"])["waiting"] == ""


def test_pictures_are_drawn_anew_when_the_front_has_changed(store, monkeypatch):
    drawn = []
    monkeypatch.setattr(live, "attach_plots", drawn.append)
    study = LiveStudy(store)
    settled(study)
    assert len(drawn) == 1
    worse = told(store, HALF | {"epochs": 4}, accuracy=0.0001)
    waited(study, lambda state: worse in json.loads(study.document.text)["trials"]["number"])
    assert worse not in json.loads(study.document.text)["front"]
    settled(study)
    assert len(drawn) == 1
    told(store, HALF | {"epochs": 2}, accuracy=0.99)
    waited(study, lambda state: len(drawn) == 2)


def test_who_may_not_write_sees_the_study_without_new_pictures(store, made, monkeypatch, capsys):
    def refused(store):
        raise RunError("the database refuses: permission denied")

    monkeypatch.setattr(live, "attach_plots", refused)
    study = LiveStudy(store)
    state = waited(study, lambda state: state["problem"])
    assert (state["problem"], state["document"]) == (UNPICTURED, study.document.etag)
    assert settled(study) == state | {"is_reading": False}
    assert (made.count, capsys.readouterr().err) == (1, "warning: RunError: the database refuses: permission denied\n")


def watched(epochs=0, abandoned=""):
    trial = RunningTrial(number=0, root=0, attempt=1, params={}, rival=None, seed=None, owner={}, curve=[0.5] * epochs)
    return WatchedTrial(trial, abandoned)


BEGUN, HANDED_OUT, STALE = watched(epochs=2), watched(), watched(epochs=2, abandoned="its driver is gone")


@pytest.mark.parametrize(
    ("trials", "words"),
    [
        ([], "No trial is running."),
        ([BEGUN], "1 trial is running."),
        ([BEGUN, BEGUN, HANDED_OUT], "2 trials are running, 1 more is handed out and has told no epoch yet."),
        ([BEGUN, HANDED_OUT, HANDED_OUT], "1 trial is running, 2 more are handed out and have told no epoch yet."),
        ([HANDED_OUT, HANDED_OUT], "2 trials are handed out and have told no epoch yet."),
        ([STALE], "No trial is running. 1 trial is stale."),
        ([BEGUN, STALE, STALE], "1 trial is running. 2 trials are stale."),
    ],
)
def test_a_trial_runs_once_it_has_told_an_epoch(trials, words):
    assert under_way_words(trials) == words


@pytest.mark.parametrize(
    ("asked", "finished", "alive", "durations_s", "words"),
    [
        # 30 trials at two at a time, of a minute each: a quarter of an hour.
        (40, 10, 2, [50.0, 60.0, 70.0], "about 15 min left"),
        # Three trials of 17 s: 51 s.
        (40, 37, 1, [17.0] * 3, "about 50 s left"),
        (40, 10, 2, [60.0, 60.0], ""),
        (40, 10, 0, [60.0] * 3, ""),
        (40, 40, 2, [60.0] * 3, ""),
        (None, 3, 2, [60.0] * 3, ""),
    ],
)
def test_the_time_left_is_told_where_it_can_be(asked, finished, alive, durations_s, words):
    assert time_left(asked, finished, [*[BEGUN, HANDED_OUT][:alive], STALE], durations_s) == words


def test_a_confirmation_is_told_while_it_is_not_done(store):
    study = LiveStudy(store)
    assert study.state()["confirming"] == ""
    confirm_filled(store, 1)
    confirmation = StudyStore.load(store.storage, confirmation_name("tiny"))
    done = confirmation.finished_count()
    assert study.state()["confirming"] == ""
    confirmation.set_attr(ASKED, done + 2)
    told_so_far = f"tuner confirm: {done} of {done + 2} trainings with fresh seeds are finished."
    assert study.state()["confirming"] == f"{told_so_far} No training is under way: it is starting, or was stopped."
    space = distributions(store.spec.search)
    claimed = confirmation.create_trial(fixed={}, distributions=space, sampler=RandomSampler(seed=1), rival=None)
    confirmation.beat([claimed.number], {claimed.number: (0.4,)})
    assert study.state()["confirming"] == f"{told_so_far} 1 training is running."
    assert confirmation.fail(claimed.number, "error", "it broke")
    confirmation.set_attr(ASKED, done)
    assert study.state()["confirming"] == ""
    settled(study)


def request(**headers):
    return Request({"type": "http", "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]})


def test_an_answer_is_compressed_and_sent_once():
    packed = Packed.of("é" * 1000, "text/plain", {"X-More": "1"})
    plain = packed.response(request())
    assert (plain.body.decode(), plain.headers.get("Content-Encoding")) == ("é" * 1000, None)
    zipped = packed.response(request(accept_encoding="gzip, br"))
    assert (gzip.decompress(zipped.body).decode(), zipped.headers["Content-Encoding"]) == ("é" * 1000, "gzip")
    assert len(zipped.body) < 100
    for same in (packed.etag, f'"x", {packed.etag}'):
        known = packed.response(request(if_none_match=same))
        assert (known.status_code, known.body, known.headers["ETag"], known.headers["X-More"]) == (304, b"", packed.etag, "1")
    assert packed.response(request(if_none_match='W/"x"')).status_code == 200
    assert Packed.of("é" * 999, "text/plain").etag != packed.etag


def test_a_look_that_fails_for_another_reason_is_not_swallowed(store, monkeypatch):
    study = LiveStudy(store)
    settled(study)

    def broken(*_):
        raise KeyError("x")

    monkeypatch.setattr(live, "watched_trials", broken)
    with pytest.raises(KeyError):
        study.state()
