"""The page of a study: its data by hand and by brute force, and the page itself in a real browser."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from filled import COSTS, STEPS_PER_EPOCH, filled_store, pricing, record, tiny_spec
from optuna.distributions import CategoricalDistribution
from optuna.samplers import RandomSampler
from optuna.trial import create_trial

from trainers.cost import CostTable
from trainers.errors import RunError
from trainers.schedule import Schedule
from tuner.launching.timing import COST_TABLES, DATASET_FACTS
from tuner.report import document, page
from tuner.report.command import write_report
from tuner.report.details import strip
from tuner.report.document import study_document
from tuner.report.headline import headline
from tuner.results.describe import five_digits, percent, schedule_of
from tuner.results.front import StudyFront, hypervolume
from tuner.storage.distributions import distributions
from tuner.storage.opening import open_storage
from tuner.storage.store import StudyStore
from tuner.storage.trials import CompletedTrial

EVIL = "<img src=x onerror=\"document.title='run'\"></script><script>document.title='run'</script><!--<script><b>\u202e\x1b[2J"
OBJECTIVES = {"relative_time": "minimize", "val_accuracy": "maximize"}
FULL = {"frequency": 0.0, "policy": "deterministic", "kernel": "full", "batch_norm": "shared", "window_length": 1.0, "lr": 0.05}
HALF = FULL | {"frequency": 1.0, "window_length": 0.5}


def told(store, params, rival=None, accuracy=0.8, **changes):
    """A completed trial with these parameters, whose record is changed so."""
    space = distributions(store.spec.search)
    claimed = store.create_trial(fixed=params, distributions=space, sampler=RandomSampler(seed=0), rival=rival)
    values, stored = pricing(store.spec).values(record(store.spec, claimed.params, claimed.number, accuracy), alone=False)
    assert store.complete(claimed.number, values, stored | changes)
    return claimed.number


def stopped(store):
    """A trial that was stopped after one full epoch and one at half side."""
    space = distributions(store.spec.search)
    claimed = store.create_trial(fixed=HALF | {"epochs": 4}, distributions=space, sampler=RandomSampler(seed=0), rival=None)
    counts = {"32/full": STEPS_PER_EPOCH, "16/full": STEPS_PER_EPOCH}
    assert store.prune(claimed.number, {"curve": [0.3, 0.5], "counts": counts, "seconds": {"train": 1.0}, "seed": 3})
    return claimed.number


def priced(store):
    """The study with the costs that its trials were priced with."""
    store.set_attr(COST_TABLES, [CostTable({"device": "a made-up one"}, 100.0, COSTS, 25, 0.0).to_dict()])
    store.set_attr(DATASET_FACTS, {"steps_per_epoch": STEPS_PER_EPOCH})
    return store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    store = priced(filled_store(open_storage(f"sqlite:///{folder / 'tuner.db'}"), 16))
    stopped(store)
    told(store, HALF | {"epochs": 2}, accuracy=0.2)
    store.storage.engine.dispose()
    return folder


@pytest.fixture(scope="module")
def store(folder):
    store = StudyStore.load(open_storage(f"sqlite:///{folder / 'tuner.db'}"), "tiny")
    yield store
    store.storage.engine.dispose()


@pytest.fixture(scope="module")
def made(store):
    """Its document as a page reads it: keys of mappings are texts."""
    return json.loads(json.dumps(study_document(store), allow_nan=False))


# -- the document


def test_every_finished_trial_is_a_column_entry(made, store):
    trials = made["trials"]
    assert trials["number"] == list(range(18))
    # 0 is the full training, 1 and 2 are its shorter starts: of four epochs there are no four kinds.
    assert trials["marks"][:3] == "bff"
    assert trials["marks"][16:] == "sr"
    # Full epochs of five steps and one at a quarter of the cost, of the twenty steps of the full training; the last accuracy so far.
    assert (trials["time"][16], trials["accuracy"][16], trials["saved"][16]) == (0.3125, 0.5, None)
    assert made["counts"] == {"completed": 17, "stopped": 1, "running": 0, "handed_out": 0, "failed": 0, "interrupted": 0}
    assert trials["schedule"]["texts"][trials["schedule"]["of"][17]] == "every step at 0.5 side, window 0-50 %"
    assert trials["training"]["texts"][trials["training"]["of"][17]] == "2 epochs, lr 0.05, weight decay 0.0005"


def test_fronts_and_savings_are_those_of_brute_force(made, store):
    points = {trial.number: trial.values for trial in store.trials().completed}
    rivals = {trial.number for trial in store.trials().completed if trial.rival}

    def beats(one, other):
        ahead = one["relative_time"] <= other["relative_time"], one["val_accuracy"] >= other["val_accuracy"]
        return all(ahead) and one != other

    def best(numbers):
        return {number for number in numbers if not any(beats(points[other], points[number]) for other in numbers)}

    assert set(made["front"]) == best(set(points))
    assert set(made["rival_front"]) == best(rivals)
    saved = dict(zip(made["trials"]["number"], made["trials"]["saved"], strict=True))
    for number, values in points.items():
        times = [points[rival]["relative_time"] for rival in rivals if points[rival]["val_accuracy"] >= values["val_accuracy"]]
        assert saved[number] == (pytest.approx(1 - values["relative_time"] / min(times), rel=1e-3, abs=1e-4) if times else None)


def test_a_curve_runs_over_time_not_over_epochs(made):
    # The first of two epochs is at half side for a quarter of the cost: 5 / 4 and 5 of the full training's 20 steps.
    assert made["details"]["17"]["curve"] == {"time": [0.0625, 0.3125], "accuracy": [0.1, 0.2], "priced": True}
    # Two of four epochs, the first two of which are at half side; together they took what the steps that were made cost.
    assert made["details"]["16"]["curve"]["time"] == pytest.approx([0.3125 / 2, 0.3125])


def test_without_costs_epochs_are_equally_long_and_that_is_said(tmp_path):
    store = filled_store(open_storage(f"sqlite:///{tmp_path / 'tuner.db'}"), 1)
    made = study_document(store)
    assert made["details"][0]["curve"]["time"] == [0.25, 0.5, 0.75, 1.0]
    assert made["details"][0]["curve"]["priced"] is False
    assert made["costs"] == []


def test_a_strip_names_the_kind_of_every_step():
    # Every second step of the first half of 200.
    found = strip(Schedule(frequency=0.5, scale=0.5, kernel="pooled", window_length=0.5), 32)
    assert found == {"kinds": [[32, False], [16, True]], "steps": "01" * 50 + "0" * 100}
    # Batches that grow are still batches: the axis is the progress of the training.
    assert strip(Schedule(frequency=1.0, scale=0.5, batch_growth="constant_work"), 32)["steps"] == "0" * 200


def test_trials_that_were_only_interrupted_or_handed_out_are_counted_as_such(tmp_path):
    store = filled_store(open_storage(f"sqlite:///{tmp_path / 'tuner.db'}"), 1)
    space = distributions(store.spec.search)

    def born(seed):
        return store.create_trial(fixed={}, distributions=space, sampler=RandomSampler(seed=seed), rival=None).number

    for kind in ("interrupted", "interrupted", "lost", "error"):
        assert store.fail(born(store.trial_count()), kind, "why")
    # One of the two that were interrupted is gone on with.
    going_on = store.claim_retry(store.retries()[0], space)
    store.beat([going_on.number], {going_on.number: (0.3,)})
    born(9)
    assert study_document(store)["counts"] == {"completed": 1, "stopped": 0, "running": 1, "handed_out": 1, "failed": 2, "interrupted": 1}


def test_the_schedule_file_is_the_trials_schedule(made, store, tmp_path):
    for trial in store.trials().completed:
        path = tmp_path / "schedule.yaml"
        path.write_text(made["details"][str(trial.number)]["file"])
        assert Schedule.load(path) == schedule_of(trial)


def test_details_are_for_the_fronts_and_the_newest_only(store, monkeypatch):
    monkeypatch.setattr(document, "NEWEST", 2)
    made = study_document(store)
    assert made["details"].keys() == {*made["front"], *made["rival_front"], 0, 16, 17}
    assert len(made["details"]) < 18


def test_the_hypervolume_only_rises_and_ends_at_that_of_all_trials(made, store):
    counts, values = made["hypervolume"]["trials"], made["hypervolume"]["values"]
    assert counts == sorted(counts)
    assert values == sorted(set(values))
    completed = store.trials().completed
    for count, value in zip(counts, values, strict=True):
        assert value == pytest.approx(hypervolume(completed[:count], OBJECTIVES), rel=1e-4)
    assert values[-1] == pytest.approx(hypervolume(completed, OBJECTIVES), rel=1e-4)


def test_costs_and_origin_are_those_of_the_study(made):
    assert [(row["side"], row["kernel"], row["relative"], row["ms"]) for row in made["costs"][0]["rows"]] == [
        (32, "plain", 1.0, 100.0), (16, "plain", 0.25, 25.0), (16, "pooled", 0.2, 20.0),
    ]  # fmt: skip
    assert made["origins"] == [{"device": "a made-up one", "versions": "torch 0.0", "commit": "0123456789ab", "trials": 17}]
    assert ["trainings' seeds", "0 to 17, 17 different ones"] in made["facts"]
    assert made["timing_doubt"] is None
    assert "timing" not in dict(made["facts"])


# -- the headline


def point(number, time, accuracy, rival=None, epochs=4):
    return CompletedTrial(
        number=number, root=number, attempt=1, params={"frequency": 0.0 if rival else 0.5, "epochs": epochs},
        values={"relative_time": time, "val_accuracy": accuracy}, rival=rival, seed=number, curve=[accuracy], counts={},
        seconds={}, observed_over_calibrated=None, test_accuracy=None, device="", versions={}, commit="",
    )  # fmt: skip


RIVALS = [point(0, 1.0, 0.90, "baseline"), point(1, 0.5, 0.86, "shorter", 2), point(2, 0.75, 0.91, "full", 3)]


@pytest.mark.parametrize(
    ("trials", "best", "saved", "meaning"),
    [
        # As accurate as the baseline in 0.375; the fastest full-resolution trial that is needs 0.75.
        ([*RIVALS, point(3, 0.375, 0.90), point(4, 0.2, 0.89)], 3, 0.5, "at least as accurate"),
        # No rival reaches 0.95: what is saved is stated at the baseline's accuracy, not against the baseline's own time.
        ([*RIVALS, point(3, 0.375, 0.95)], 3, 0.5, "none is as accurate as trial 3"),
        # The rival is the fastest itself, and no schedule is faster at any accuracy.
        ([*RIVALS, point(3, 0.9, 0.95)], 2, 0.0, "no schedule is faster there than full resolution, trial 2"),
        # So it is here, and what stands beside it is the most accurate of the schedules that are faster.
        ([*RIVALS, point(3, 0.6, 0.88), point(4, 0.4, 0.85)], 3, 0.0, "trial 2; trial 3, the nearest schedule that is faster"),
    ],
)
def test_the_headline_is_the_time_saved_at_the_baselines_accuracy(trials, best, saved, meaning):
    found = headline(StudyFront(study="small", model="", full_px=32, objectives=OBJECTIVES, completed=trials))
    assert (found["trial"], found["baseline"]) == (best, 0)
    assert found["saved"] == pytest.approx(saved)
    assert found["meaning"].startswith("less training time at no less accuracy than the baseline's")
    assert meaning in found["meaning"]
    assert not found["confirmed"]
    assert "not confirmed" in found["statement"]


def test_the_headline_says_how_its_time_splits_and_what_would_take_the_offer():
    def statement(*trials):
        found = headline(StudyFront(study="small", model="", full_px=32, objectives=OBJECTIVES, completed=[*RIVALS, *trials]))
        return found["statement"].split("worth. ")[1]

    # Two of the baseline's four epochs at 0.3 of its time cost 0.6 each; against the rival's three they are a third fewer.
    needs = "Mind that its figures need epochs=2 in your training."
    assert statement(point(3, 0.3, 0.90, epochs=2)) == (
        f"How it is saved: the schedule alone saves 40.0 %, 2 epochs instead of 3 alone 33.3 %. {needs}"
    )
    offer = "trial 3 takes 70.0 % less time than the baseline at 2.0 points less accuracy (tuner best small --max-drop 0.02)"
    assert statement(point(3, 0.3, 0.88, epochs=2)) == (
        f"By a wider rule {offer}: the schedule alone saves 40.0 %, 2 epochs instead of 4 alone 50.0 %. {needs}"
    )


def test_without_a_baseline_there_is_no_figure():
    results = StudyFront(study="small", model="", full_px=32, objectives=OBJECTIVES, completed=[point(3, 0.4, 0.9)])
    found = headline(results)
    assert found["saved"] is None
    assert "has not completed" in found["meaning"]


SEARCHED = [
    (FULL | {"epochs": 4}, "baseline", 0.90),
    (HALF | {"epochs": 4}, None, 0.88),
    (HALF | {"epochs": 4, "window_length": 0.75}, None, 0.86),
]
ANEW = [(0.89, 0.91), (0.92, 0.90), (0.93, 0.69)]


def confirmed_store(folder, points):
    """A study of three trials on the front, the first `points` of which have been trained again with two seeds."""
    storage = open_storage(f"sqlite:///{folder / 'tuner.db'}")
    store = priced(StudyStore.create_or_continue(storage, tiny_spec()))
    again = StudyStore.create_or_continue(storage, tiny_spec(name="tiny.confirm"))
    for place, (params, rival, accuracy) in enumerate(SEARCHED):
        told(store, params, rival, accuracy)
        for seed, test in enumerate(ANEW[place] if place < points else ()):
            told(again, params, rival, 0.5, test_accuracy=test, seed=seed)
    return store


def test_a_confirmed_front_has_the_headline_of_the_fresh_seeds(tmp_path):
    made = study_document(confirmed_store(tmp_path, 3))
    # Of 20 steps half cost a quarter: 0.625. Its mean of 0.91 is above the baseline's 0.90, whose time is 1; no rival reaches 0.91.
    assert (made["headline"]["confirmed"], made["headline"]["trial"]) == (True, 1)
    assert (made["headline"]["saved"], made["headline"]["accuracy"]) == (pytest.approx(0.375), pytest.approx(0.91))
    # Student's t with one degree of freedom is 12.706, the standard error of 0.92 and 0.90 is 0.01.
    assert made["confirmed"][1] == {
        "mean": pytest.approx(0.91), "low": pytest.approx(0.91 - 0.12706, abs=1e-4), "high": pytest.approx(0.91 + 0.12706, abs=1e-4),
        "seeds": 2, "stays": True,
    }  # fmt: skip


def test_a_front_that_is_confirmed_in_part_has_the_searchs_own_headline(tmp_path):
    found = study_document(confirmed_store(tmp_path, 2))["headline"]
    # By the search only the baseline is as accurate as the baseline, and trial 1 comes nearest.
    assert (found["confirmed"], found["partly"], found["trial"], found["saved"]) == (False, True, 1, 0.0)
    assert "trial 0; trial 1, the nearest" in found["meaning"]
    assert "ot confirmed yet: trial 2" in found["statement"]


# -- the file


def test_no_completed_trial_is_one_sentence(tmp_path):
    url = f"sqlite:///{tmp_path / 'tuner.db'}"
    StudyStore.create_or_continue(open_storage(url), tiny_spec())
    with pytest.raises(RunError, match=r"study 'tiny' has no completed trial yet, so there is nothing to report"):
        write_report("tiny", url, str(tmp_path / "report.html"))
    assert not (tmp_path / "report.html").exists()


def test_the_file_is_named_after_the_study(folder, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    write_report("tiny", f"sqlite:///{folder / 'tuner.db'}", None)
    assert capsys.readouterr().out == "tiny-report.html\n"
    assert (tmp_path / "tiny-report.html").read_text().startswith("<!DOCTYPE html>")


def test_texts_can_neither_end_the_data_nor_name_another_place():
    text = page.embedded_json({"device": EVIL})
    assert "<" not in text
    assert json.loads(text) == {"device": EVIL}
    assert text.isascii()
    with pytest.raises(ValueError, match="not JSON compliant"):
        page.embedded_json({"accuracy": float("nan")})


def test_every_file_of_the_page_is_installed_and_used():
    folder = Path(page.__file__).parent
    files = {path for path in folder.iterdir() if path.suffix in {".html", ".css", ".js"}}
    patterns = tomllib.loads((folder.parent.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["tuner"]
    assert files == {path for pattern in patterns for path in folder.parent.glob(pattern)}
    assert {path.name for path in files} == {*page.LIVE_SCRIPTS, "page.html", "page.css"}
    # A module that is named later than where it is used would be found missing by a browser only.
    for place, name in enumerate(page.LIVE_SCRIPTS):
        assert set(re.findall(r'from "\./(\w+\.js)"', (folder / name).read_text())) <= set(page.LIVE_SCRIPTS[:place])
    assert not re.search(r"^(import|export)\b", page.page_script(page.LIVE_SCRIPTS), re.MULTILINE)
    assert "fetch(" in page.page_script(page.LIVE_SCRIPTS)
    assert "fetch(" not in page.page_script(page.SCRIPTS)


# -- in a browser


@pytest.fixture(scope="module")
def report(folder):
    write_report("tiny", f"sqlite:///{folder / 'tuner.db'}", str(folder / "report.html"))
    return (folder / "report.html").as_uri()


@pytest.fixture
def opened(browser, report, request):
    """The page in a new tab; it must have asked for nothing else and said nothing on the console by the end of the test."""
    said, asked = [], []
    context = browser.new_context(**getattr(request, "param", {"viewport": {"width": 1280, "height": 900}}))
    tab = context.new_page()
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda asking: asked.append(asking.url))
    tab.goto(report)
    tab.wait_for_selector(".point.front")
    yield tab
    assert said == []
    assert asked == [report]
    context.close()


def selected(tab):
    return [int(card.get_attribute("data-number")) for card in tab.locator(".card").all()]


def in_time_order(made):
    """Numbers of the points that the keyboard reaches."""
    times = dict(zip(made["trials"]["number"], made["trials"]["time"], strict=True))
    return sorted({*made["front"], *made["rival_front"], 0}, key=lambda number: (times[number], number))


def test_the_page_says_what_the_study_says(opened, made):
    assert opened.title() == opened.inner_text("h1") == "tiny"
    assert opened.inner_text("#counts").startswith("17 completed trials, 1 stopped early")
    assert "not confirmed" in opened.inner_text("#verdict")
    assert f"{100 * made['headline']['saved']:.0f} %" in opened.inner_text("#figures")
    assert len(opened.locator("#table tbody tr").all()) == len(made["front"])
    assert "a made-up one" in opened.inner_text("#origin")
    assert "25.0 %" in opened.inner_text("#costs")


def test_the_page_rounds_as_the_tables_do(opened):
    shares = [five_digits(place / 9973) for place in range(-2000, 12000, 7)] + [0.0625, 0.3125, 0.9265, 0.0735]
    written = opened.evaluate("(shares) => shares.map((share) => [(100 * share).toFixed(1), (100 * share).toFixed(2)])", shares)
    assert [[percent(share), percent(share, 2)] for share in shares] == written


def test_a_click_shows_a_point_and_shift_compares(opened, made):
    reduced = [number for number in made["front"] if made["trials"]["marks"][number] == "r"]
    for number, options in ((reduced[0], {}), (reduced[1], {"modifiers": ["Shift"]})):
        opened.locator(f'.point[data-number="{number}"]').click(**options)
    assert selected(opened) == reduced[:2]
    card = opened.locator(".card").first
    assert card.locator("svg.strip path").count() > 0
    assert f"trial-{reduced[0]:04d}.yaml" in card.locator("pre").inner_text()
    assert made["trials"]["schedule"]["texts"][made["trials"]["schedule"]["of"][reduced[0]]] in card.inner_text()
    assert opened.locator("#curves path.line").count() == 2
    with opened.expect_download() as download:
        card.get_by_text("Download").click()
    assert download.value.path().read_text() == made["details"][str(reduced[0])]["file"]


def test_keys_reach_every_point_of_the_fronts(opened, made):
    reachable = in_time_order(made)
    opened.locator('.point[tabindex="0"]').focus()
    opened.keyboard.press("Home")
    for number in reachable[1:3]:
        opened.keyboard.press("ArrowRight")
        opened.keyboard.press("Enter")
        assert selected(opened) == [number]
        # The drawing is new, and the focus is where it was.
        assert opened.evaluate("document.activeElement.dataset.number") == str(number)
    opened.keyboard.press("End")
    opened.keyboard.press("Shift+Enter")
    assert selected(opened) == [reachable[2], reachable[-1]]
    opened.locator('.point[aria-pressed="true"]').first.focus()
    assert opened.locator('.point[aria-pressed="true"]').count() == 2


def test_every_trial_is_shown_by_its_number_and_a_stopped_one_as_such(opened):
    opened.fill("#trial-number", "16")
    opened.keyboard.press("Enter")
    assert selected(opened) == [16]
    assert "stopped early" in opened.inner_text(".card")
    assert "Download" not in opened.inner_text(".card")
    opened.fill("#trial-number", "99")
    opened.keyboard.press("Enter")
    assert "Trial 99 is no finished trial" in opened.inner_text("#shown")


def test_filters_hide_points_and_rows(opened, made):
    accurate = [number for number in made["front"] if made["trials"]["accuracy"][number] >= 0.8]
    fast = [number for number in accurate if made["trials"]["time"][number] <= 0.8]
    assert 0 < len(fast) < len(accurate) < len(made["front"])
    rows = opened.locator("#table tbody tr")
    opened.fill("#least-accuracy", "80")
    assert rows.count() == len(accurate)
    opened.fill("#most-time", "80")
    assert rows.count() == len(fast)
    assert {int(one.get_attribute("data-number")) for one in opened.locator(".point[data-number]").all()} & set(made["front"]) == set(fast)
    opened.click("button[type=reset]")
    rows.nth(len(made["front"]) - 1).wait_for()


@pytest.mark.parametrize("opened", [{"viewport": {"width": 360, "height": 740}, "has_touch": True}], indirect=True)
def test_a_phone_shows_everything_without_scrolling_sideways(opened, made):
    assert opened.evaluate("document.documentElement.scrollWidth") == 360
    # The front's table is folded, not cut off; the words of a row have its whole width.
    box, row = opened.locator("#table"), opened.locator("#table tbody tr").first
    assert box.evaluate("box => box.scrollWidth <= box.clientWidth")
    assert row.locator("td").last.bounding_box()["width"] == row.bounding_box()["width"]
    number = made["front"][0]
    opened.locator(f'.point[data-number="{number}"]').tap()
    assert selected(opened) == [number]
    assert opened.evaluate("document.documentElement.scrollWidth") == 360


def test_confirmed_points_are_drawn_with_their_intervals_and_doubt_about_times_is_said(tmp_path, browser):
    store = confirmed_store(tmp_path, 2)
    store.set_attr(COST_TABLES, [CostTable({"device": "a made-up one"}, 100.0, COSTS, 25, 0.51).to_dict()])
    store.storage.engine.dispose()
    write_report("tiny", f"sqlite:///{tmp_path / 'tuner.db'}", str(tmp_path / "report.html"))
    tab = browser.new_page()
    tab.goto((tmp_path / "report.html").as_uri())
    assert "partly confirmed" in tab.inner_text("#verdict")
    for place in ("#verdict", "#origin"):
        assert "Relative times are worth less, because other processes used 51%" in tab.inner_text(place)
    assert tab.locator(".point[data-number]").count() == 3
    tab.check("#anew")
    assert tab.locator(".point[data-number]").count() == 2
    # Each interval is a line between two ends.
    assert tab.locator(".interval").get_attribute("d").count("V") == 2
    assert "91.00 % (78.29–103.71)" in tab.inner_text("#table")  # noqa: RUF001
    tab.close()


def test_texts_of_strangers_are_texts(tmp_path, browser):
    url = f"sqlite:///{tmp_path / 'tuner.db'}"
    store = filled_store(open_storage(url), 4)
    number = told(store, HALF | {"epochs": 4}, None, 0.99, device=EVIL, commit=EVIL, versions={"torch": EVIL}, seconds={EVIL: 1.0})
    kinds = {EVIL[:60]: CategoricalDistribution([EVIL])}
    store.study.add_trial(create_trial(values=[0.01, 0.995], params={EVIL[:60]: EVIL}, distributions=kinds))
    store.storage.engine.dispose()
    write_report("tiny", url, str(tmp_path / "report.html"))
    tab = browser.new_page()
    tab.goto((tmp_path / "report.html").as_uri())
    for shown in (number, number + 1):
        tab.fill("#trial-number", str(shown))
        tab.keyboard.press("Enter")
        for summary in tab.locator("summary").all():
            summary.click()
        assert "<img src=x onerror" in tab.inner_text(".card")
    assert "</script><script>" in tab.inner_text("#origin")
    assert "\\x1b[2J" in tab.inner_text("#origin")
    assert tab.evaluate("document.querySelectorAll('img, b, body script').length") == 2  # the data and the page's own
    assert tab.title() == "tiny"
    tab.close()
