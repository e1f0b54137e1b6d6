"""What confirmation says of a front, worked by hand."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from filled import confirm_filled, filled_store
from rich.console import Console
from scipy import stats

from trainers.errors import InputError, RunError
from tuner.cli import app
from tuner.results.answer import best_answer, best_details, best_trial
from tuner.results.best import best_for_drop
from tuner.results.confirmation import confirmation_of, confirmation_words, confirmed_front, confirmed_points, points_to_confirm
from tuner.results.export import front_json, front_table, render
from tuner.results.front import StudyFront
from tuner.results.plots import front_picture
from tuner.storage.opening import open_storage
from tuner.storage.trials import CompletedTrial

OBJECTIVES = {"relative_time": "minimize", "val_accuracy": "maximize"}


def trial(number, time, accuracy, rival=None, test_accuracy=None):
    return CompletedTrial(
        number=number, root=number, attempt=1, params={"frequency": 0.0 if rival else 0.5, "epochs": 4},
        values={"relative_time": time, "val_accuracy": accuracy}, rival=rival, seed=number, curve=[accuracy], counts={"32/full": 1},
        seconds={"train": 1.0}, observed_over_calibrated=None, test_accuracy=test_accuracy, device="", versions={}, commit="",
    )  # fmt: skip


def repeats(point, *tests):
    return [dataclasses.replace(point, test_accuracy=test) for test in tests]


def front(*trials, objectives=OBJECTIVES):
    return StudyFront(study="small", model="cifar_resnet8", full_px=32, objectives=objectives, completed=list(trials))


def test_a_point_that_was_there_by_luck_leaves():
    # In the search 0.6 looked better than 0.5; fresh seeds say otherwise, so the slower one is dominated.
    fast, lucky, slow = trial(0, 0.5, 0.80), trial(1, 0.6, 0.85), trial(2, 1.0, 0.90, "baseline")
    points = confirmed_points([fast, lucky, slow], [repeats(fast, 0.79, 0.81), repeats(lucky, 0.77, 0.79), repeats(slow, 0.90, 0.92)])
    assert [point.stays for point in points] == [True, False, True]
    assert [point.to_dict()["test_mean"] for point in points] == pytest.approx([0.80, 0.78, 0.91])
    assert points[0].to_dict()["test_deviation"] == pytest.approx(0.02 / 2**0.5)


def test_the_interval_is_students():
    point = trial(0, 0.5, 0.8)
    tests = [0.78, 0.80, 0.81, 0.79, 0.83]
    (confirmed,) = confirmed_points([point], [repeats(point, *tests)])
    # Two-sided 95 % of Student's t with 4 degrees of freedom is 2.776; the standard error of these five is 0.0086.
    assert confirmed.interval == pytest.approx((0.802 - 2.776 * 0.008602, 0.802 + 2.776 * 0.008602), abs=1e-5)
    assert stats.ttest_1samp(tests, confirmed.interval[0]).pvalue == pytest.approx(0.05)


def test_equal_repeats_have_an_interval_of_no_width():
    point = trial(0, 0.5, 0.8)
    assert confirmed_points([point], [repeats(point, 0.7, 0.7)])[0].interval == (0.7, 0.7)


def test_a_confirmation_is_strict_json():
    point = trial(0, 0.5, 0.8)
    written = json.dumps(confirmed_points([point], [repeats(point, 0.7, 0.8)])[0].to_dict(), allow_nan=False)
    assert json.loads(written)["test_accuracy"] == [0.7, 0.8]


def test_the_front_its_rivals_and_the_baseline_are_confirmed_once_each():
    best, beaten = trial(0, 0.4, 0.9), trial(1, 0.8, 0.85)
    baseline, shorter, useless = trial(2, 1.0, 0.88, "baseline"), trial(3, 0.5, 0.86, "shorter"), trial(4, 0.9, 0.5, "full")
    chosen = points_to_confirm(front(beaten, best, useless, baseline, shorter))
    assert [point.number for point in chosen] == [0, 3, 2]


def test_nothing_to_confirm_is_said():
    with pytest.raises(RunError, match="no completed trial yet"):
        points_to_confirm(front())
    with pytest.raises(InputError, match="confirm needs relative_time and val_accuracy"):
        points_to_confirm(front(trial(0, 0.5, 0.8), objectives={"val_loss": "minimize"}))


# Who says whether a front is confirmed


def confirmed(results, tests):
    """The front with the repeats' test accuracies of each trial number in `tests`."""
    chosen = [trial for trial in points_to_confirm(results) if trial.number in tests]
    points = confirmed_points(chosen, [repeats(trial, *tests[trial.number]) for trial in chosen])
    return dataclasses.replace(results, confirmation=confirmation_of(points, results))


# On the searched front: 1, 2 and the baseline. Fresh seeds say that 2 was there by luck; 3, full resolution, is on no front.
SEARCHED = front(trial(0, 1.0, 0.92, "baseline"), trial(1, 0.5, 0.88), trial(2, 0.62, 0.90), trial(3, 0.7, 0.87, "shorter"))
TESTS = {0: (0.90, 0.92), 1: (0.89, 0.91), 2: (0.87, 0.89), 3: (0.84, 0.86)}


def test_points_that_were_there_by_luck_are_named_and_rivals_that_never_were_are_not():
    results = confirmed(SEARCHED, TESTS)
    assert (results.confirmation.lucky, results.confirmation.missing, results.confirmation.seeds) == ([2], [], 2)
    assert confirmation_words(results) == "confirmed on 2 fresh seeds of the test split; on the front by luck: trial 2"
    assert confirmation_words(SEARCHED) == "one seed a point on the validation split, not confirmed (tuner confirm small)"


def test_a_front_that_went_on_after_its_confirmation_is_confirmed_in_part():
    results = confirmed(SEARCHED, {number: TESTS[number] for number in (0, 1)})
    assert confirmation_words(results) == "confirmed on 2 fresh seeds of the test split; not confirmed yet: trial 2"
    assert front_picture(results).title.endswith("on the front, confirmed in part")
    # The search's own figures decide as long as some of the front is not confirmed.
    assert best_trial(results, lambda trials: best_for_drop(trials, 0.02)).number == 2


def test_the_answer_is_what_a_person_would_say():
    assert best_answer(SEARCHED.completed[1], SEARCHED) == (
        "50.0 % less time than the baseline (all by the schedule, in the same 4 epochs) at 4.0 points less accuracy, "
        "one seed, not confirmed"
    )
    slow = trial(4, 1.049, 0.9203)
    longer = front(*SEARCHED.completed, slow)
    words = best_answer(slow, longer)
    assert words.startswith("4.9 % more time than the baseline (")
    assert words.endswith(") at the same accuracy, one seed, not confirmed")
    assert best_details(SEARCHED.completed[1], SEARCHED).endswith(
        "50.0 % of the baseline's time at 88.00 % validation accuracy (-4.00 points); 50.0 % less time than full resolution needs for it"
    )


def test_a_confirmed_answer_uses_the_means_and_names_the_interval():
    results = confirmed(SEARCHED, TESTS)
    # Means 0.90 and 0.91; with one degree of freedom t is 12.706, the standard error of (0.89, 0.91) is 0.01.
    assert best_answer(SEARCHED.completed[1], results) == (
        "50.0 % less time than the baseline (all by the schedule, in the same 4 epochs) at 1.0 points less accuracy, "
        "confirmed on 2 seeds (90.00 % test accuracy, 95 % interval 77.29 to 102.71 %)"
    )
    assert best_answer(SEARCHED.completed[2], results).endswith("; on the front by luck: another confirmed trial beats it")


def test_a_confirmed_front_is_chosen_from_by_its_means():
    results = confirmed(SEARCHED, TESTS)
    # In the search only trial 2 lost at most two points; with fresh seeds trial 1 does too, and it is faster.
    assert best_trial(SEARCHED, lambda trials: best_for_drop(trials, 0.02)).number == 2
    taken = best_trial(results, lambda trials: best_for_drop(trials, 0.02))
    assert taken is SEARCHED.completed[1]


def test_every_place_that_shows_a_front_says_whether_it_is_confirmed():
    for results in (SEARCHED, confirmed(SEARCHED, TESTS)):
        words, is_confirmed = confirmation_words(results), results.confirmation is not None
        console = Console(file=io.StringIO(), width=200)
        console.print(front_table(results))
        for shown in (console.file.getvalue(), render(results, "html")):
            assert words in shown
            assert ("88.00 % (75.29-100.71), by luck" in shown) is is_confirmed
        found = json.loads(front_json(results))
        assert found["confirmed"] == words
        assert (found["confirmation"] or {}).get("by_luck") == ([2] if is_confirmed else None)
        assert front_picture(results).title.endswith("confirmed on 2 seeds: 1 there by luck" if is_confirmed else "not confirmed")


def test_the_stored_confirmation_of_a_study_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    storage = open_storage("sqlite:///tuner.db")
    store = filled_store(storage, 8)
    assert confirmed_front(store).confirmation is None
    confirm_filled(store, 3)
    results = confirmed_front(store)
    assert {point.trial.number for point in results.confirmation.points} == {point.number for point in points_to_confirm(results)}
    assert {tuple(point.test) for point in results.confirmation.points} == {(0.5, 0.501, 0.502)}
    # All means are equal, so only the fastest stays.
    assert results.confirmation.lucky == [point.number for point in results.front[1:]]
    app(["status", "tiny"], standalone_mode=False)
    assert "confirmed on 3 fresh seeds of the test split; on the front by luck:" in capsys.readouterr().out
    app(["best", "tiny", "--max-drop", "0"], standalone_mode=False)
    answer = capsys.readouterr().out.splitlines()[0]
    assert " at the same accuracy, confirmed on 3 seeds (50.10 % test accuracy, 95 % interval 49.85 to 50.35 %)" in answer
    storage.engine.dispose()
