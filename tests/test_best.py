"""The one trial to take: how its time splits, what its figures need, and what is offered where full resolution is taken."""

from __future__ import annotations

import json
import random

import pytest
from filled import COSTS, STEPS_PER_EPOCH, filled_store
from typer.testing import CliRunner

from trainers.cost import parse_step
from trainers.schedule import Schedule
from tuner.cli import app
from tuner.report.details import details
from tuner.results.answer import best_answer, best_details, best_needs, best_next, best_record
from tuner.results.best import best_for_drop, nearest_offer
from tuner.results.describe import describe_schedule, percent
from tuner.results.front import StudyFront
from tuner.results.split import TimeSplit, needed_words, split_words, time_split
from tuner.storage.opening import open_storage
from tuner.storage.trials import CompletedTrial

OBJECTIVES = {"relative_time": "minimize", "val_accuracy": "maximize"}
FOUND = {"epochs": 3, "lr": 0.22407991453498566, "weight_decay": 0.00042500740602451894, "weight_sampling": "none", "grouping": "groupable"}


def trial(number, time, accuracy, rival=None, **params):
    return CompletedTrial(
        number=number, root=number, attempt=1, params={"frequency": 0.0 if rival else 0.5, "epochs": 4} | params,
        values={"relative_time": time, "val_accuracy": accuracy}, rival=rival, seed=number, curve=[accuracy], counts={},
        seconds={}, observed_over_calibrated=None, test_accuracy=None, device="", versions={}, commit="",
    )  # fmt: skip


def study(*trials):
    return StudyFront(study="small", model="", full_px=32, objectives=OBJECTIVES, completed=list(trials))


BASELINE, SHORTER = trial(0, 1.0, 0.90, "baseline"), trial(1, 0.5, 0.87, "shorter", epochs=2)
# Three of four epochs at 0.8 of a full one's cost each.
FASTER = trial(2, 0.6, 0.887, **FOUND)
NEEDS = "its figures need epochs=3, lr=0.224, weight_decay=0.000425, grouping=groupable in your training"


# -- how time splits


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A study of sixteen trials: its URL and what completed."""
    url = f"sqlite:///{tmp_path_factory.mktemp('best') / 'tuner.db'}"
    store = filled_store(open_storage(url), 16)
    completed = store.trials().completed
    store.storage.engine.dispose()
    return url, completed


def test_the_split_is_that_of_the_steps_that_were_made(stored):
    _, completed = stored
    splits = set()
    for one in completed:
        split = time_split(one, completed[0])
        prices = [COSTS[parse_step(name)].relative for name, count in one.counts.items() for _ in range(count)]
        assert (split.epochs, split.full_epochs) == (len(prices) / STEPS_PER_EPOCH, 4)
        assert split.epoch_cost == pytest.approx(sum(prices) / len(prices))
        assert (1 - split.schedule_saves) * (1 - split.epochs_save) == pytest.approx(one.values["relative_time"])
        splits.add((split.epochs, round(split.epoch_cost, 6)))
    assert len(splits) > 6


def test_by_hand_three_of_four_epochs_at_four_fifths_of_the_cost():
    split = time_split(FASTER, BASELINE)
    assert (split.schedule_saves, split.epochs_save) == (pytest.approx(0.2), pytest.approx(0.25))
    # The rival took two epochs, so against it the third one costs.
    against_shorter = time_split(FASTER, SHORTER)
    assert (against_shorter.schedule_saves, against_shorter.epochs_save) == (pytest.approx(0.2), pytest.approx(-0.5))


@pytest.mark.parametrize(
    "other",
    [None, trial(3, 0.0, 0.9), trial(3, float("nan"), 0.9), trial(3, 1.0, 0.9, epochs="4"), trial(3, 1.0, 0.9, epochs=0)],
)
def test_without_times_and_epochs_nothing_splits(other):
    assert time_split(FASTER, other) is None


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (TimeSplit(3, 4, 0.8), "the schedule alone saves 20.0 %, 3 epochs instead of 4 alone 25.0 %"),
        (TimeSplit(4, 4, 0.8), "all by the schedule, in the same 4 epochs"),
        (TimeSplit(3, 4, 1.0), "all by 3 epochs instead of 4"),
        (TimeSplit(5, 4, 0.5), "the schedule alone saves 50.0 %, 5 epochs instead of 4 alone nothing (it takes 25.0 % more)"),
        (TimeSplit(2, 4, 1.1), "the schedule alone saves nothing (it takes 10.0 % more), 2 epochs instead of 4 alone 50.0 %"),
    ],
)
def test_a_split_in_words(split, words):
    assert split_words(split) == words


def test_a_methods_name_is_needed_too_and_none_is_not_said():
    assert needed_words(FASTER) == NEEDS
    assert needed_words(trial(5, 0.5, 0.9, epochs="\x1b[2J")) == "its figures need epochs=\\x1b[2J in your training"


# -- what is said


def test_an_answer_says_how_the_time_splits_and_what_its_figures_need():
    results = study(BASELINE, SHORTER, FASTER)
    assert best_answer(FASTER, results) == (
        "40.0 % less time than the baseline (the schedule alone saves 20.0 %, 3 epochs instead of 4 alone 25.0 %) "
        "at 1.3 points less accuracy, one seed, not confirmed"
    )
    assert best_needs(FASTER, results) == f"{NEEDS}; the schedule alone saves 20.0 % of the time"
    assert best_next(FASTER, results) is None
    shown = details(FASTER, 0.6, results, None)
    assert shown["needs"] == f"These lines set the schedule only: {NEEDS}; the schedule alone saves 20.0 % of the time."


def test_where_full_resolution_is_taken_the_next_thing_to_do_is_said():
    results = study(BASELINE, SHORTER, FASTER)
    assert best_answer(BASELINE, results) == (
        "no schedule is better by this rule than the baseline itself, full resolution for all epochs, one seed, not confirmed"
    )
    more = "more trials may find a better one (tuner launch small --trials N)"
    # 0.90 - 0.887 is 0.013, and the shorter run loses more.
    offer = "trial 2 takes 40.0 % less time than the baseline at 1.3 points less accuracy (tuner best small --max-drop 0.013)"
    assert best_next(BASELINE, results) == f"the nearest schedule that is faster: {offer}; {more}"
    assert best_answer(SHORTER, results) == (
        "no schedule is better by this rule than full resolution, trial 1: 50.0 % less time than the baseline "
        "(all by 2 epochs instead of 4) at 3.0 points less accuracy, one seed, not confirmed"
    )
    assert best_next(SHORTER, results) == f"no schedule is faster so far; {more}"
    assert "full resolution needs for it" not in best_details(BASELINE, results)


def test_a_program_gets_what_is_said():
    results = study(BASELINE, SHORTER, FASTER)
    found = json.loads(json.dumps(best_record(BASELINE, results), allow_nan=False))
    assert found["offer"] == {"trial": 2, "max_drop": 0.013, "relative_time": 0.6, "accuracy": 0.887}
    assert (found["rival"], found["next"]) == ("baseline", best_next(BASELINE, results))
    found = best_record(FASTER, results)
    assert (found["offer"], found["next"], found["train_with"]) == (None, None, FOUND)
    assert found["split"] == {
        "epochs": 3, "full_resolution_epochs": 4, "epoch_cost": pytest.approx(0.8),
        "schedule_alone_saves": pytest.approx(0.2), "epochs_alone_save": pytest.approx(0.25),
    }  # fmt: skip
    assert Schedule.from_dict(found["schedule"]) == Schedule(frequency=0.5, seed=2)


# -- the offer


def test_the_offer_is_the_first_schedule_that_a_wider_rule_takes():
    draw, kinds = random.Random(1), [None, "full", "shorter"]
    offers, asked = 0, 0
    for _ in range(12):
        others = [trial(n, draw.randint(2, 20) / 20, draw.randint(700, 905) / 1000, draw.choice(kinds)) for n in range(1, 14)]
        trials = [BASELINE, *others]
        taken = [(best_for_drop(trials, drop / 1000), drop / 1000) for drop in range(201)]
        for chosen in (one for one in trials if one.rival):
            time = chosen.values["relative_time"]
            first = next(((one, drop) for one, drop in taken if one.rival is None and one.values["relative_time"] < time), None)
            assert nearest_offer(trials, chosen) == first
            offers, asked = offers + (first is not None), asked + 1
    assert 10 < offers < asked


def test_an_offer_is_worth_a_figure_and_needs_a_baseline():
    assert nearest_offer([BASELINE, trial(1, 0.9996, 0.89)], BASELINE) is None
    assert nearest_offer([BASELINE, trial(1, 0.999, 0.8996)], BASELINE).max_drop == 0.001
    assert nearest_offer([SHORTER, trial(3, 0.1, 0.8)], SHORTER) is None


# -- figures and words that hold in every place


def test_where_a_growing_side_is_full_is_said_as_the_strip_shows_it():
    # Of 32 px 0.875 is 28, and 30 px are rounded to 32: halfway through the window.
    growing = {"frequency": 1.0, "scale": 0.875, "growth": "linear", "window_length": 0.85}
    assert describe_schedule(growing, 32) == "every step, side growing from 0.875, window 0-85 %, rounded to full from 42.5 %"
    assert describe_schedule(growing) == "every step, side growing from 0.875, window 0-85 %"
    for fields, full_px in (({}, 32), ({"window_start": 0.4}, 32), ({"scale": 0.5, "side_multiple": 32}, 224), ({"scale": 0.6}, 33)):
        schedule = Schedule(**growing | fields)
        steps = schedule.batch_by_batch(2000, full_px)
        last = max(index for index, step in enumerate(steps) if step.side_px < full_px)
        said = float(describe_schedule(growing | fields, full_px).split("full from ")[1].removesuffix(" %"))
        assert said == pytest.approx(100 * (last + 1) / 2000, abs=0.11)


def test_halves_and_the_sixth_digit_are_rounded_as_on_the_page():
    # As a browser writes (100 * share).toFixed(1) of five digits: 92.65 and 31.25 are exact or above in binary, 7.35 is below.
    shares = {0.92649996: "92.7", 0.07350004: "7.3", 0.3125: "31.3", 0.9264: "92.6", -0.3125: "-31.3", 0.0: "0.0", 1.0: "100.0"}
    assert {share: percent(share) for share in shares} == shares
    assert percent(0.943333) == "94.3"
    assert percent(0.943333, 2) == "94.33"


# -- the command


def best(stored, *arguments):
    return CliRunner().invoke(app, ["best", "tiny", "--storage", stored[0], *arguments])


def test_json_is_one_document_with_the_sentences_answer(stored, tmp_path):
    found = json.loads(best(stored, "--knee", "--json", "--out", str(tmp_path / "best.yaml")).stdout)
    assert found["answer"] == best(stored, "--knee").stdout.splitlines()[0]
    assert found["written"] == str(tmp_path / "best.yaml")
    assert Schedule.from_dict(found["schedule"]) == Schedule.load(tmp_path / "best.yaml")
    assert found["trial"] in {one.number for one in stored[1]}


def test_a_wide_drop_is_taken_with_a_warning_in_points(stored):
    (warning,) = best(stored, "--max-drop", "0.5").stderr.splitlines()
    assert warning == "warning: --max-drop 0.5 allows 50 points less accuracy than the baseline's; half a point is 0.005"
    assert best(stored, "--max-drop", "0.05").stderr == ""
    assert best(stored, "--max-time", "0.5").stderr == ""


def test_help_has_an_example_of_each_share():
    shown = " ".join(CliRunner().invoke(app, ["best", "--help"], env={"COLUMNS": "200"}).stdout.split())
    assert "0.005 is half a point" in shown
    assert "0.7 is 70 %" in shown
    assert "--json" in shown
    assert "one of --max-drop, --max-time and --knee" in shown
