"""Studies and schedules beside each other: figures worked by hand, and refusals of what can't be compared."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction

import pytest
from filled import TINY, filled_store, pricing, tiny_spec
from yaml import safe_dump

from studies import StudySpec
from trainers import Schedule
from trainers.errors import InputError, RunError
from tuner.cli import app
from tuner.commands.compare import ComparedStudy, comparison, holds_schedule, sentences
from tuner.commands.compare_schedules import strip
from tuner.launching.timing import COST_TABLES, DATASET_FACTS
from tuner.results.front import StudyFront
from tuner.storage.opening import open_storage
from tuner.storage.trials import CompletedTrial

OBJECTIVES = {"relative_time": "minimize", "val_accuracy": "maximize"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def tuner(*arguments):
    app(list(map(str, arguments)), standalone_mode=False)


def trial(number, time, accuracy, rival=None):
    return CompletedTrial(
        number=number, root=number, attempt=1, params={"frequency": 0.0 if rival else 0.5, "epochs": 4},
        values={"relative_time": time, "val_accuracy": accuracy}, rival=rival, seed=number, curve=[accuracy], counts={"32/full": 1},
        seconds={"train": 1.0}, observed_over_calibrated=None, test_accuracy=None, device="", versions={}, commit="",
    )  # fmt: skip


def study(name, *trials, objectives=OBJECTIVES, devices=("here",), **changes):
    results = StudyFront(study=name, model="cifar_resnet8", full_px=32, objectives=objectives, completed=list(trials))
    return ComparedStudy(results, StudySpec.from_json_dict({**TINY, "name": name, **changes}).to_json_dict(), list(devices))


def baseline(accuracy=0.90):
    return trial(0, 1.0, accuracy, "baseline")


# Studies


def test_the_faster_at_equal_accuracy_is_named():
    one = study("one", baseline(0.91), trial(1, 0.6, 0.91), trial(2, 0.5, 0.894))
    other = study("other", baseline(0.89), trial(3, 0.7, 0.90), trial(4, 0.3, 0.88))
    found = comparison([one, other])
    # The accuracy to reach is the mean of both baselines', then half a point, one and two points less.
    assert found["baseline_accuracy"] == pytest.approx(0.90)
    assert [row["accuracy"] for row in found["at_equal_accuracy"]] == pytest.approx([0.90, 0.895, 0.89, 0.88])
    least = [{name: at and (at["trial"], at["relative_time"]) for name, at in row["least"].items()} for row in found["at_equal_accuracy"]]
    assert least == [
        {"one": (1, 0.6), "other": (3, 0.7)},
        {"one": (1, 0.6), "other": (3, 0.7)},
        {"one": (2, 0.5), "other": (3, 0.7)},
        {"one": (2, 0.5), "other": (4, 0.3)},
    ]
    assert [row["faster"] for row in found["at_equal_accuracy"]] == ["one", "one", "one", "other"]


def test_the_hypervolumes_have_a_reference_in_common():
    one = study("one", baseline(), trial(1, 0.5, 0.8), trial(2, 0.75, 0.9))
    other = study("other", baseline(), trial(1, 0.9, 0.5), trial(2, 0.8, 0.6, "shorter"))
    first, second = comparison([one, other])["studies"]
    # From the baseline's time and no accuracy: 0.5 x 0.8 and another 0.25 x 0.1; the baseline itself lies on the border.
    assert first["hypervolume"] == pytest.approx(0.425)
    assert first["full_resolution_hypervolume"] == 0
    assert second["hypervolume"] == second["full_resolution_hypervolume"] == pytest.approx(0.12)
    assert first["most_saved"] == pytest.approx(0.5)


def test_a_draw_and_an_accuracy_that_nobody_reaches_have_no_faster_one():
    one, other = study("one", baseline()), study("other", baseline(), trial(1, 1.0, 0.95))
    found = comparison([one, other])
    assert {row["faster"] for row in found["at_equal_accuracy"]} == {None}
    low = study("low", baseline(0.80))
    row = comparison([one, low])["at_equal_accuracy"][0]
    assert (row["least"]["low"], row["faster"]) == (None, "one")
    assert "'low' does not reach it" in sentences(comparison([one, low]))[0]


def test_the_answer_comes_first():
    one, other = study("one", baseline(), trial(1, 0.6, 0.9)), study("other", baseline(), trial(1, 0.7, 0.9), devices=["there"])
    said, *confirmed, warning = sentences(comparison([one, other]))
    assert said.startswith("At the baseline's accuracy of 90.00 %: 'one' needs 60.0 % of the baseline's time, 'other' needs 70.0 %")
    assert said.endswith("'one' is the faster at every accuracy looked at.")
    assert confirmed == [
        f"'{name}': one seed a point on the validation split, not confirmed (tuner confirm {name})." for name in ("one", "other")
    ]
    assert "different devices (here, there)" in warning


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dataset": {**TINY["dataset"], "split_seed": 1}}, "dataset.split_seed: 0 -> 1"),
        ({"dataset": {**TINY["dataset"], "val_images": 61}}, "dataset.val_images: 60 -> 61"),
        ({"dataset": {"name": "cifar10"}}, 'dataset.name: "digits" -> "cifar10"'),
        ({"training": {**TINY["training"], "lr": 0.06}}, "training.lr: 0.05 -> 0.06"),
        ({"model": "resnet18"}, 'model: "cifar_resnet8" -> "resnet18"'),
    ],
)
def test_what_means_something_else_is_refused_in_one_sentence(changes, reason):
    with pytest.raises(InputError, match="'one' and 'other' can't be compared") as refused:
        comparison([study("one", baseline()), study("other", baseline(), **changes)])
    assert reason in str(refused.value)
    assert str(refused.value).isprintable()


def test_what_only_says_how_the_search_goes_on_is_no_obstacle():
    changes = {"search": {**TINY["search"], "scale": [0.5, 0.75]}, "sampler": "tpe", "seed": 3, "budget": {"trials": 99}}
    moved = {"dataset": {**TINY["dataset"], "root": "elsewhere"}}
    assert comparison([study("one", baseline()), study("other", baseline(), **changes, **moved)])["studies"]
    photos = [{"dataset": {"name": "folder", "root": root, "side_px": 32}} for root in ("here", "there")]
    with pytest.raises(InputError, match=r"dataset\.root"):
        comparison([study(f"study{number}", baseline(), **changes) for number, changes in enumerate(photos)])


def test_studies_without_a_baseline_or_with_other_objectives_are_refused():
    with pytest.raises(RunError, match="study 'other' can't be compared yet, because its baseline has not completed"):
        comparison([study("one", baseline()), study("other", trial(1, 0.5, 0.9))])
    with pytest.raises(InputError, match="because its objectives are val_loss"):
        comparison([study("one", baseline()), study("other", baseline(), objectives={"val_loss": "minimize"})])
    with pytest.raises(InputError, match="study 'one' is given twice"):
        comparison([study("one", baseline()), study("one", baseline())])


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Two studies that differ in what they searched, and one that was trained otherwise."""
    path = tmp_path_factory.mktemp("database") / "tuner.db"
    storage = open_storage(f"sqlite:///{path}")
    store = filled_store(storage, 8)
    store.set_attr(COST_TABLES, [pricing(tiny_spec()).reference.to_dict()])
    store.set_attr(DATASET_FACTS, {"steps_per_epoch": 5})
    filled_store(storage, 9, name="other", search={**TINY["search"], "kernel": "full"})
    filled_store(storage, 3, name="third", training={**TINY["training"], "lr": 0.06})
    storage.engine.dispose()
    return path


@pytest.fixture
def stored(database, folder):
    shutil.copy(database, folder / "tuner.db")


def test_stored_studies_are_compared_by_name_and_by_file(stored, folder, capsys):
    (folder / "tiny.yaml").write_text(safe_dump(TINY))
    tuner("compare", "tiny.yaml", "other")
    by_file = capsys.readouterr().out
    tuner("compare", "tiny", "other")
    assert capsys.readouterr().out == by_file
    assert by_file.startswith("At the baseline's accuracy of 90.00 %")
    assert "hypervolume" in by_file
    tuner("compare", "tiny", "other", "--json")
    found = json.loads(capsys.readouterr().out)
    assert [(one["study"], one["completed"]) for one in found["studies"]] == [("tiny", 8), ("other", 9)]


BAD = [
    (["tiny"], "needs two or more", "given: tiny"),
    (["tiny", "othr"], "study 'othr' is unknown", "'other'"),
    (["tiny", "third"], "can't be compared", "training.lr: 0.05 -> 0.06"),
    (["tiny", "a.yaml"], "'a.yaml' is a schedule and 'tiny' not", "studies or schedule files"),
    (["tiny", "other", "--study", "tiny"], "--study 'tiny' prices schedule files", "'tiny' is none"),
    (["a.yaml", "nowhere.yaml"], "schedule file 'nowhere.yaml' cannot be read", "No such file"),
    (["a.yaml", "broken.yaml"], "schedule field 'scal' is unknown", "'scale'"),
    (
        ["a.yaml", "quarter.yaml", "--study", "tiny"],
        "'quarter.yaml' takes steps of 8/full, not timed on a made-up one",
        "leave out --study",
    ),
    (["a.yaml", "a.yaml", "--study", "other"], "study 'other' has timed no steps yet", "leave out --study"),
]


@pytest.mark.parametrize(("arguments", "rule", "way_out"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_is_one_sentence(stored, folder, arguments, rule, way_out):
    Schedule(frequency=0.5).save("a.yaml")
    Schedule(frequency=0.5, scale=0.25).save("quarter.yaml")
    (folder / "broken.yaml").write_text("frequency: 0.5\nscal: 0.5\n")
    with pytest.raises(InputError) as refused:
        tuner("compare", *arguments)
    assert rule in str(refused.value)
    assert way_out in str(refused.value)
    assert str(refused.value).isprintable()


# Schedules


def test_a_study_file_is_no_schedule(folder):
    (folder / "mine.yaml").write_text(safe_dump(TINY))
    Schedule().save("schedule.yaml", found_with={"study": "tiny"})
    assert [holds_schedule(name) for name in ("mine.yaml", "schedule.yaml", "digits.yaml", "digits", "gone.yaml")] == [
        False, True, False, False, True,
    ]  # fmt: skip


def test_costs_by_pixels_are_worked_by_hand(capsys):
    Schedule(frequency=0.5).save("half.yaml")
    Schedule(frequency=1, window_length=0.2, scale=0.25).save("window.yaml")
    tuner("compare", "half.yaml", "window.yaml", "--json")
    found = json.loads(capsys.readouterr().out)
    half, window = found["schedules"]
    # Half of the steps at a quarter of the pixels; a fifth of them at a sixteenth.
    assert half["relative_cost"] == pytest.approx(float(Fraction(1, 2) + Fraction(1, 2) / 4))
    assert window["relative_cost"] == pytest.approx(float(Fraction(4, 5) + Fraction(1, 5) / 16))
    assert [(step["step"], step["share"]) for step in window["steps"]] == [("32/full", 0.8), ("8/full", 0.2)]
    assert found["prices"].startswith("by pixels at a full side of 32 px")


def test_costs_of_a_study_are_its_calibrated_ones(stored, capsys):
    Schedule(frequency=0.5, kernel="pooled").save("pooled.yaml")
    Schedule(frequency=0.5).save("full.yaml")
    tuner("compare", "pooled.yaml", "full.yaml", "--study", "tiny", "--json")
    found = json.loads(capsys.readouterr().out)
    # The made-up prices: a fifth for half the side with pooled kernels, a quarter without.
    assert [one["relative_cost"] for one in found["schedules"]] == pytest.approx([0.6, 0.625])
    # Four epochs of five steps.
    assert [step["count"] for step in found["schedules"][0]["steps"]] == [10, 10]
    assert found["prices"] == "timed on a made-up one by study 'tiny'"


def test_steps_that_take_several_batches_count_for_all_of_them(capsys):
    Schedule(frequency=1, batch_growth="constant_work").save("grown.yaml")
    Schedule(frequency=1).save("plain.yaml")
    tuner("compare", "grown.yaml", "plain.yaml", "--json")
    grown, plain = json.loads(capsys.readouterr().out)["schedules"]
    # Four batches of a quarter of the pixels a step: a quarter of the steps, each as dear as a full one.
    assert [(step["step"], step["count"], step["share"], step["relative"]) for step in grown["steps"]] == [("16/full/4", 250, 1.0, 1.0)]
    assert grown["relative_cost"] == plain["relative_cost"] == 0.25


def test_the_terminal_shows_a_strip_a_schedule_and_a_row_a_kind(capsys):
    Schedule(frequency=0.5, kernel="pooled").save("half.yaml")
    Schedule().save("full.yaml")
    tuner("compare", "half.yaml", "full.yaml")
    shown = capsys.readouterr().out
    assert "half.yaml: 62.5 % of the cost of full resolution; every 2nd step at 0.5 side, pooled kernels" in shown
    assert "█▄" * 30 in shown
    assert "█" * 60 in shown
    rows = [line for line in shown.splitlines() if "16/pooled" in line]
    assert "12.5 % (500 x 0.25)" in rows[0]
    assert rows[0].rstrip(" │").endswith("-")


def test_a_strip_shows_sides_in_eighths_and_pooled_steps():
    growing = Schedule(frequency=1, scale=0.25, growth="linear", kernel="pooled")
    sides, pooled = strip(growing, 32)
    assert sides[0] == "▂"
    assert sides == "".join(sorted(sides))
    assert len(sides) == 60
    # The last few steps have grown to the full side, where there is nothing to pool.
    assert set(pooled) == {"."}
    assert len(pooled) < 60
    assert strip(Schedule(), 32, "12345678") == ("8" * 60, "")
