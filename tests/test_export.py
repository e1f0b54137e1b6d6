"""Exports read back with the tools their readers use, and pictures read back from the figure objects."""

from __future__ import annotations

import csv
import dataclasses
import html
import html.parser
import io
import itertools
import json
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import yaml
from rich.console import Console

from studies import load_study
from trainers.errors import InputError
from trainers.methods.settings import WeightSampling
from trainers.schedule import Schedule
from tuner.commands.train import _config_of_file
from tuner.results.describe import describe_schedule, describe_share, describe_training, describe_value, schedule_of
from tuner.results.export import front_csv, front_json, front_table, render, save_schedule, write_export
from tuner.results.front import StudyFront
from tuner.results.plots import PICTURED_STEPS, front_picture, schedules_picture, staircase
from tuner.results.plots_html import front_figure, schedules_figure
from tuner.results.plots_image import front_drawing
from tuner.storage.trials import CompletedTrial

TWO = {"relative_time": "minimize", "val_accuracy": "maximize"}
SCHEDULE = {
    "policy": "deterministic",
    "frequency": 0.5,
    "scale": 0.5,
    "kernel": "pooled",
    "batch_norm": "shared",
    "window_start": 0.0,
    "window_length": 0.8,
    "growth": "constant",
    "side_multiple": 4,
}
EVIL = "</script><script>alert('x')</script><img src=x> & $\\frac$ [red] %{y}"


def trial(number, time, accuracy, rival=None, **changes):
    params = (
        SCHEDULE | ({"frequency": 0.0, "kernel": "full"} if rival else {}) | {"epochs": 12, "lr": 0.1 + number / 3, "weight_decay": 5e-4}
    )
    fields = {
        "number": number,
        "root": number,
        "attempt": 0,
        "params": params,
        "values": {"relative_time": time, "val_accuracy": accuracy},
        "rival": rival,
        "seed": 100 + number,
        "curve": [0.1, accuracy],
        "counts": {"32/full": 30, "16/pooled": 20},
        "seconds": {"train": 10.125, "data": 1.5, "evaluation": 0.1 + 0.2, "checkpoint": 0.25},
        "observed_over_calibrated": 1.04,
        "test_accuracy": None,
        "device": "cpu x86_64",
        "versions": {"torch": "2.15.0"},
        "commit": "0123abc",
        "metrics": {"val_loss": 1.25},
    }
    return CompletedTrial(**(fields | changes))


# Front: 3 and its duplicate 4, 1, 0. Full-resolution front: 2, 1, 0. Trial 5 is dominated.
TRIALS = [
    trial(5, 0.9, 0.61),
    trial(0, 1.0, 0.7, "baseline"),
    trial(1, 0.75, 0.1 + 0.2 + 0.35, "shorter"),
    trial(2, 0.6, 0.55, "full"),
    trial(3, 0.45, 0.62),
    trial(4, 0.45, 0.62),
]


def study(trials=TRIALS, name="small", objectives=TWO):
    return StudyFront(study=name, model="resnet8", full_px=32, objectives=objectives, completed=list(trials))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "every 2nd step at 0.5 side, window 0-80 %, pooled kernels"),
        ({"frequency": 0.25, "kernel": "full"}, "every 4th step at 0.5 side, window 0-80 %"),
        ({"frequency": 0.05, "kernel": "full"}, "every 20th step at 0.5 side, window 0-80 %"),
        ({"frequency": 1, "kernel": "full", "window_length": 1.0}, "every step at 0.5 side"),
        ({"frequency": 1.0, "policy": "stochastic", "kernel": "full"}, "every step at 0.5 side, window 0-80 %"),
        ({"frequency": 0.37, "scale": 0.625, "kernel": "full"}, "37 % of steps, evenly spread at 0.625 side, window 0-80 %"),
        ({"policy": "stochastic", "frequency": 0.3}, "a random 30 % of steps at 0.5 side, window 0-80 %, pooled kernels"),
        ({"frequency": 1.0, "growth": "linear", "kernel": "full"}, "every step, side growing from 0.5, window 0-80 %"),
        ({"window_start": 0.29, "window_length": 0.29, "kernel": "full"}, "every 2nd step at 0.5 side, window 29-58 %"),
        ({"window_start": 0.5, "window_length": 0.8, "kernel": "full"}, "every 2nd step at 0.5 side, window 50-100 %"),
        ({"batch_norm": "separate"}, "every 2nd step at 0.5 side, window 0-80 %, pooled kernels, separate batch norm"),
        (
            {"pooled_layers": "largest_maps", "batch_growth": "constant_work"},
            "every 2nd step at 0.5 side, window 0-80 %, pooled kernels in the largest maps, batches grow",
        ),
        ({"pooled_layers": "most_saved"}, "every 2nd step at 0.5 side, window 0-80 %, pooled kernels where they save most"),
        ({"pooled_layers": "most_saved", "kernel": "full"}, "every 2nd step at 0.5 side, window 0-80 %"),
        ({"frequency": 0.0}, "full resolution"),
        ({"window_length": 0.0}, "full resolution"),
        ({"scale": 1.0}, "full resolution"),
        ({"epochs": 12, "lr": 0.1}, "every 2nd step at 0.5 side, window 0-80 %, pooled kernels"),
    ],
)
def test_describe_schedule(changes, expected):
    assert describe_schedule(SCHEDULE | changes) == expected


def test_a_schedule_file_brings_the_method_it_was_found_with(tmp_path):
    Schedule(frequency=0.5).save(tmp_path / "found.yaml", found_with={"study": "digits", "weight_sampling": "pswa", "epochs": 4})
    config = _config_of_file(None, str(tmp_path / "found.yaml"), None, None)
    assert (config.weight_sampling, config.epochs, config.schedule.frequency) == (WeightSampling(name="pswa"), 4, 0.5)


def test_describe_training_and_values():
    assert (
        describe_training({"epochs": 12, "lr": 0.12345, "weight_decay": 0.0005, "scale": 1}) == "12 epochs, lr 0.123, weight decay 0.0005"
    )
    assert describe_training({}) == ""
    assert describe_training({"epochs": 12, "weight_sampling": "pswa", "grouping": "none"}) == "12 epochs, pswa"
    assert describe_training(dict(load_study("digits", ["training.grouping=groupable"]).training)).endswith(
        "weight decay 0.0005, groupable"
    )
    assert describe_value("relative_time", 0.4312) == "43.1 %"
    assert describe_value("val_accuracy", 0.91236) == "91.24 %"
    # Of five digits, as the page gets them: one figure in every place.
    assert (describe_value("relative_time", 0.92649996), describe_share(0.07350004)) == ("92.7 %", "7.3 %")
    assert describe_value("train_seconds", 12.3456) == "12.35 s"
    assert describe_value("val_loss", 0.5) == "0.5"


def test_schedule_of_takes_the_trials_seed_and_leaves_training_parameters_out():
    assert schedule_of(TRIALS[4]) == Schedule.from_dict(SCHEDULE | {"seed": 103})


def strict_json(text):
    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_json_reads_back_exactly():
    content = strict_json(front_json(study()))
    assert content["study"] == "small"
    assert content["objectives"] == TWO
    assert [point["number"] for point in content["front"]] == [3, 4, 1, 0]
    assert [point["number"] for point in content["full_resolution_front"]] == [2, 1, 0]
    assert content["baseline"] == content["front"][3]
    first = content["front"][0]
    known = dataclasses.asdict(TRIALS[4])
    expected = known.pop("params") | known.pop("values") | known
    saved = first.pop("time_saved_vs_full_resolution")
    assert first.pop("schedule") == "every 2nd step at 0.5 side, window 0-80 %, pooled kernels"
    assert first == expected
    assert saved == pytest.approx(0.4)
    assert [point["time_saved_vs_full_resolution"] for point in content["front"][2:]] == [0, 0]


def test_json_is_strict_where_measurements_are_not_finite():
    odd = trial(0, 0.5, 0.7, metrics={"val_loss": math.inf}, curve=[math.nan, 0.7], observed_over_calibrated=math.nan)
    point = strict_json(front_json(study([odd])))["front"][0]
    assert point["metrics"] == {"val_loss": None}
    assert point["curve"] == [None, 0.7]
    assert point["observed_over_calibrated"] is None
    assert point["time_saved_vs_full_resolution"] is None


def test_json_of_an_empty_study():
    content = strict_json(front_json(study([])))
    assert (content["baseline"], content["front"], content["full_resolution_front"]) == (None, [], [])


def test_csv_reads_back_exactly():
    rows = list(csv.DictReader(io.StringIO(front_csv(study()))))
    assert [int(row["number"]) for row in rows] == [3, 4, 1, 0]
    assert [row["rival"] for row in rows] == ["", "", "shorter", "baseline"]
    for row, number in zip(rows, (3, 4, 1, 0), strict=True):
        known = next(trial for trial in TRIALS if trial.number == number)
        for name in ("frequency", "window_length", "lr", "weight_decay"):
            assert float(row[name]) == known.params[name]
        assert (float(row["relative_time"]), float(row["val_accuracy"])) == tuple(known.values.values())
        assert {part: float(row[f"seconds_{part}"]) for part in known.seconds} == known.seconds
        assert (int(row["seed"]), row["device"], row["commit"]) == (known.seed, "cpu x86_64", "0123abc")
        assert float(row["observed_over_calibrated"]) == 1.04
    assert float(rows[0]["time_saved_vs_full_resolution"]) == pytest.approx(0.4)


def test_csv_columns_keep_their_order_whatever_the_trials_hold():
    header = front_csv(study([])).splitlines()[0]
    assert header == (
        "number,rival,relative_time,val_accuracy,time_saved_vs_full_resolution,seconds_train,seconds_data,seconds_evaluation,"
        "seconds_checkpoint,observed_over_calibrated,test_accuracy,seed,device,commit"
    )
    shuffled = trial(0, 0.5, 0.5, params={"zeta": 1, "epochs": 3, "alpha": 2, "scale": 0.5, "policy": "deterministic"})
    assert front_csv(study([shuffled])).startswith("number,rival,policy,scale,epochs,alpha,zeta,relative_time,")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_csv_text_is_never_a_formula_and_numbers_are_untouched(start):
    odd = trial(0, -0.5, 0.7, device=f"{start}HYPERLINK('x')", commit='a,"b"\n=c')
    (row,) = csv.DictReader(io.StringIO(front_csv(study([odd])), newline=""))
    assert row["device"] == f"'{start}HYPERLINK('x')"
    assert row["commit"] == 'a,"b"\n=c'
    assert row["relative_time"] == "-0.5"


def test_table_shows_the_front_in_percent():
    text = render(study(name="odd [red]name"), "table")
    assert "odd [red]name: 4 of 6 completed trials on the front" in text
    rows = [line.rstrip().split(maxsplit=8) for line in text.splitlines() if " % " in line]
    assert [row[0] for row in rows] == ["3", "4", "1", "0"]
    assert rows[0][1:] == ["45.0", "%", "62.00", "%", "40.0", "%", "12", "every 2nd step at 0.5 side, window 0-80 %, pooled kernels"]
    assert rows[3][1:] == ["100.0", "%", "70.00", "%", "0.0", "%", "12", "full resolution (baseline)"]


def test_table_shows_a_dash_where_no_full_resolution_trial_is_as_accurate():
    (row,) = (line.split() for line in render(study([trial(0, 0.5, 0.7)]), "table").splitlines() if "70.00 %" in line)
    assert row[:7] == ["0", "50.0", "%", "70.00", "%", "-", "12"]


def test_table_of_a_narrow_terminal_loses_no_number():
    console = Console(file=io.StringIO(), width=60)
    console.print(front_table(study()))
    assert all(number in console.file.getvalue() for number in ("45.0 %", "62.00 %", "40.0 %"))


def test_schedules_are_one_file_a_front_point(tmp_path):
    folder = tmp_path / "new" / "schedules"
    paths = write_export(study(), "schedules", folder)
    assert write_export(study(), "schedules", folder) == paths
    assert sorted(path.name for path in folder.iterdir()) == ["trial-0000.yaml", "trial-0001.yaml", "trial-0003.yaml", "trial-0004.yaml"]
    assert Schedule.load(folder / "trial-0003.yaml") == Schedule.from_dict(SCHEDULE | {"seed": 103})
    assert Schedule.load(folder / "trial-0000.yaml").frequency == 0
    assert yaml.safe_load((folder / "trial-0003.yaml").read_text())["found_with"] == {
        "study": "small",
        "trial": 3,
        "model": "resnet8",
        "epochs": 12,
        "lr": 1.1,
        "weight_decay": 5e-4,
        "relative_time": 0.45,
        "val_accuracy": 0.62,
    }


@pytest.mark.parametrize("export_format", ["table", "csv", "json", "html", "svg"])
def test_files_hold_what_render_gives(tmp_path, export_format):
    path = tmp_path / "new" / "front"
    assert write_export(study(), export_format, path) == [path]
    assert [entry.name for entry in path.parent.iterdir()] == ["front"]
    if export_format != "svg":  # matplotlib draws fresh ids each time
        assert path.read_bytes().decode() == render(study(), export_format)


def test_unwritable_paths_are_bad_input_and_leave_nothing(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "front.json", tmp_path / "folder"):
        with pytest.raises(InputError, match="cannot be written"):
            write_export(study(), "json", path)
    with pytest.raises(InputError, match="cannot be written"):
        write_export(study(), "schedules", tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"):
        save_schedule(TRIALS[0], study(), tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_write_that_fails_half_way_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "front.csv"
    path.write_text("old")

    def full_disk(self, data):
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
    with pytest.raises(InputError, match="No space left"):
        write_export(study(), "csv", path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["front.csv"]


def test_a_reader_of_the_old_file_never_sees_half_of_the_new_one(tmp_path):
    path, reader = tmp_path / "front.csv", tmp_path / "reader"
    path.write_text("old")
    reader.hardlink_to(path)
    write_export(study(), "csv", path)
    assert reader.read_text() == "old"
    assert path.read_text().startswith("number,")


def test_unknown_format_names_the_nearest():
    with pytest.raises(InputError, match=r"'jsn'.*'json'"):
        write_export(study(), "jsn", "x")


def series(results):
    return {part.label: part for part in front_picture(results).series}


def test_front_picture_holds_every_trial_in_percent():
    drawn = series(study())
    assert sorted(zip(drawn["reduced steps"].x, drawn["reduced steps"].y, strict=True)) == [(45.0, 62.0), (45.0, 62.0), (90.0, 61.0)]
    assert drawn["full resolution"].x == [75.0, 60.0]
    assert drawn["full resolution"].y == pytest.approx([65.0, 55.0])
    assert (drawn["baseline"].x, drawn["baseline"].y) == ([100.0], [70.0])
    assert drawn["reduced steps, on the front"].x == [45.0, 45.0]
    assert drawn["full resolution, on the front"].x == [75.0]
    assert drawn["front"].x == [45, 45, 75, 75, 100, 100, 100]
    assert drawn["front"].y == pytest.approx([55, 62, 62, 65, 65, 70, 70])
    assert drawn["front of full resolution"].x == [60, 60, 75, 75, 100, 100, 100]
    assert drawn["front of full resolution"].dashed
    assert not drawn["front"].dashed
    assert drawn["baseline"].hover == (
        "trial 0 (baseline)\ntraining time: 100.0 %\nvalidation accuracy: 70.00 %\nfull resolution\n12 epochs, lr 0.1, weight decay 0.0005",
    )


@pytest.mark.parametrize(
    "directions", [("minimize", "maximize"), ("minimize", "minimize"), ("maximize", "minimize"), ("maximize", "maximize")]
)
def test_staircase_is_the_border_of_what_is_dominated(directions):
    def at_least_as_good(a, b):
        return all((x <= y if way == "minimize" else x >= y) for x, y, way in zip(a, b, directions, strict=True))

    generator = np.random.default_rng(5)
    points = [(float(x), float(y)) for x, y in generator.integers(0, 20, size=(30, 2))]
    worst = tuple(20.0 if way == "minimize" else -1.0 for way in directions)
    x, y = staircase(points, directions, worst)
    corners = list(zip(x, y, strict=True))
    assert all(any(at_least_as_good(point, corner) for point in points) for corner in corners)
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in itertools.pairwise(corners))
    undominated = {p for p in points if not any(q != p and at_least_as_good(q, p) for q in points)}
    assert undominated <= set(corners)
    assert (corners[0][1], corners[-1][0]) == (worst[1], worst[0])


def test_staircase_of_nothing_is_empty():
    assert staircase([], ("minimize", "maximize"), (1.0, 0.0)) == ([], [])


def test_plotly_draws_the_pictures_points():
    figure = front_figure(study())
    drawn = {trace.name: trace for trace in figure.data}
    for label, part in series(study()).items():
        assert list(drawn[label].x) == part.x
        assert list(drawn[label].y) == part.y
    assert drawn["front of full resolution"].line.dash == "dash"
    assert [note.text for note in figure.layout.annotations] == ["baseline"]


def test_matplotlib_draws_the_pictures_points():
    axes = front_drawing(study()).axes[0]
    drawn = {line.get_label(): line for line in axes.get_lines()}
    for label, part in series(study()).items():
        assert list(drawn[label].get_xdata()) == part.x
        assert list(drawn[label].get_ydata()) == part.y
    assert drawn["front of full resolution"].get_linestyle() == "--"


def test_schedules_picture_shows_each_steps_side_and_kernel():
    picture = schedules_picture(study())
    assert picture.labels[0] == "trial 3: 45.0 %, 62.00 %"
    assert picture.words[0] == "every 2nd step at 0.5 side, window 0-80 %, pooled kernels, 12 epochs"
    window = int(PICTURED_STEPS * 0.8)
    assert picture.sides[0].tolist() == [1.0, 0.5] * (window // 2) + [1.0] * (PICTURED_STEPS - window)
    assert (picture.pooled[0] == (picture.sides[0] < 1)).all()
    assert (picture.sides[3] == 1).all()
    figure = schedules_figure(study())
    assert np.array_equal(np.array(figure.data[0].z), picture.sides)
    assert len(figure.data[1].x) == picture.pooled.sum()
    meshes = [mesh.get_array() for mesh in front_drawing(study()).axes[1].collections if hasattr(mesh, "get_coordinates")]
    assert np.array_equal(np.concatenate(meshes), picture.sides)


def test_a_strip_shows_the_trainings_batches_however_many_a_step_takes():
    plain, grown = (trial(0, 0.5, 0.6, params=SCHEDULE | fields) for fields in ({}, {"batch_growth": "constant_work"}))
    layers = trial(0, 0.5, 0.6, params=SCHEDULE | {"pooled_layers": "most_saved"})
    expected = schedules_picture(study([plain]))
    for other in (grown, layers):
        picture = schedules_picture(study([other]))
        assert (picture.sides == expected.sides).all()
        assert (picture.pooled == expected.pooled).all()


@pytest.mark.parametrize(
    ("trials", "objectives"),
    [
        ([], TWO),
        (TRIALS[:1], TWO),
        (TRIALS, {"val_accuracy": "maximize"}),
        ([trial(n, 0.5, 0.5, values={"relative_time": n / 9, "val_loss": 1 / (n + 1), "peak_memory": 5.0}) for n in range(3)],
         {"relative_time": "minimize", "val_loss": "minimize", "peak_memory": "minimize"}),
    ],
)  # fmt: skip
def test_every_study_has_pictures(trials, objectives):
    results = study(trials, objectives=objectives)
    png, svg = render(results, "png"), render(results, "svg")
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert "<h1>small</h1>" in render(results, "html")


def test_one_objective_is_drawn_over_the_trial_number():
    drawn = series(study(objectives={"val_accuracy": "maximize"}))
    assert (drawn["baseline"].x, drawn["baseline"].y) == ([0.0], [70.0])
    assert sorted(drawn["reduced steps"].x) == [3.0, 4.0, 5.0]
    assert "front" not in drawn


class Page(html.parser.HTMLParser):
    """Every tag with its attributes, and the text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.inside = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.words.append(data)


def test_html_opens_without_a_network():
    page = Page(render(study(), "html"))
    assert [tag for tag, attributes in page.tags if "src" in attributes or tag in ("link", "iframe", "img")] == []
    assert "every 2nd step at 0.5 side, window 0-80 %, pooled kernels" in page.words
    assert "40.0 %" in page.words


def test_names_are_text_and_never_markup():
    page = Page(render(study(name=EVIL), "html"))
    assert "alert('x')" not in [word.strip() for word in page.words]
    assert EVIL in page.words
    assert len([tag for tag, _ in page.tags if tag == "script"]) == len(
        [tag for tag, _ in Page(render(study(), "html")).tags if tag == "script"]
    )
    assert "<script>alert" not in render(study(name=EVIL), "html")
    assert front_figure(study(name=EVIL)).layout.title.text.startswith("&lt;/script&gt;&lt;script&gt;alert('x')")
    assert EVIL in render(study(name=EVIL), "table").replace("\n", " ")
    assert front_drawing(study(name=EVIL)).axes[0].get_title(loc="left").startswith(EVIL)
    assert render(study(name=EVIL), "png").startswith(b"\x89PNG")
