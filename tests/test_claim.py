"""The claim's and the methods' runner on trainings of seconds: resumed, shared, priced, and judged as worked by hand."""

import argparse
import dataclasses
import json
import math
from pathlib import Path

import pytest

from benchmarks import claim, methods, trainings
from benchmarks.prices import read_prices
from benchmarks.trainings import (
    Recipe,
    Suite,
    Where,
    calibrate_suite,
    config_of,
    kinds_of,
    recorded_lines,
    shorter_recipes,
    train_suite,
)
from benchmarks.trainings_report import Estimate, Row, bootstrapped, rows_of
from studies import load_study
from trainers.cost import CostTable, StepCost
from trainers.errors import InputError, RunError
from trainers.schedule import Schedule, Step

TINY = load_study("digits", ["dataset.train_images=40", "dataset.val_images=20", "training.batch_size=20", "training.epochs=2",
                             "search.epochs=[1, 2]"])  # fmt: skip
OPTIONS = argparse.Namespace(seeds=2, schedule=None, calibrate=False)
CPU = Where(device="cpu")
FULL, HALF, POOLED = Step(32, "full"), Step(16, "full"), Step(16, "pooled")
SIDES = {Step(side_px, "full") for side_px in (20, 24, 28)}


def prices(**relative):
    costs = {FULL: 1.0, HALF: 0.2, POOLED: 0.08} | dict.fromkeys(SIDES, 0.5)
    table = {kind: StepCost(cost, 0.9 * cost, 1.1 * cost) for kind, cost in costs.items()}
    return CostTable({"device": "abacus"}, full_ms=50.0, costs=table, rounds=4, others_frac=0.0)


def tiny_claim(folder, costs=None, **options):
    return claim.claim_suite(TINY, folder, costs or prices(), argparse.Namespace(**vars(OPTIONS) | options))


# -- what is trained


def test_reduced_steps_are_as_many_as_save_what_is_claimed():
    # 0.23 / (1 - 0.08) = 0.25 of the steps, in 80 % of them 0.3125; with full kernels 0.23 / 0.8 = 0.2875.
    recipes = claim.claim_recipes(load_study("claim-resnet20"), prices())
    for name, frequency in ((claim.INTERLEAVED, 0.25), (claim.THEN_FULL, 0.3125), ("interleaved, full kernels", 0.2875)):
        schedule = recipes[name].schedule
        assert schedule.frequency == pytest.approx(frequency, abs=1.01e-4)
        counts = schedule.plan(15 * 78, 32, 78).counts()
        assert prices().relative_time(counts, 15 * 78) == pytest.approx(0.77, abs=0.002)
    assert recipes[claim.INTERLEAVED].schedule.kernel == recipes[claim.THEN_FULL].schedule.kernel == "pooled"


def test_steps_that_cost_too_much_cannot_save_it():
    dear = dataclasses.replace(prices(), costs=prices().costs | {POOLED: StepCost(0.9, 0.8, 1.0)})
    with pytest.raises(InputError, match=r"^a step at .* pooled kernels costs 90% of a full one, so reducing 100% of the .* save 23%"):
        claim.saving_frequency(dear, 32, "pooled", 1.0)


def test_the_claims_trainings():
    spec = load_study("claim-resnet20")
    recipes = claim.claim_recipes(spec, prices())
    full = [recipe.epochs for recipe in recipes.values() if recipe.schedule == Schedule()]
    assert full == [15, 12, 10, 8, 6]
    assert {recipe.epochs for recipe in recipes.values() if recipe.schedule != Schedule()} == {15}
    assert recipes["half side in the first 70%"].schedule.plan(10, 32) == (HALF,) * 7 + (FULL,) * 3
    config = config_of(Suite("claim", spec, recipes, Path()), recipes[claim.INTERLEAVED], 3, CPU)
    assert (config.model, config.data.train_images, config.batch_size, config.epochs, config.seed) == ("cifar_resnet20", 10_000, 128, 15, 3)
    assert load_study("claim-resnet18").model == "cifar_resnet18"


def test_all_kinds_of_step_are_priced():
    # Progressive and growing sides are reduced with full kernels.
    assert kinds_of(tiny_claim(Path())) == {FULL, HALF, POOLED} | SIDES
    assert kinds_of(claim.claim_suite(TINY, Path(), None, OPTIONS)) == {FULL, HALF, POOLED} | SIDES
    suite = methods.methods_suite(load_study("cifar10"), Path(), OPTIONS)
    grown = {Step(20, "full", 2), Step(12, "full", 7), Step(12, "full"), Step(16, "full", 4), Step(24, "full", 2)}
    assert kinds_of(suite) == {FULL, HALF, POOLED} | SIDES | grown


def test_every_preset_is_in_the_table_and_a_found_schedule_may_be(tmp_path):
    Schedule(frequency=0.5).save(tmp_path / "best.yaml", found_with={"study": "digits", "epochs": 1, "lr": 0.3, "test": 0.5})
    suite = methods.methods_suite(TINY, tmp_path, argparse.Namespace(**vars(OPTIONS) | {"schedule": tmp_path / "best.yaml"}))
    names = {"interleaved", "progressive", "two_stage", "four_stage", "mixed_sizes", "multigrid", "found by a search: best"}
    assert names < suite.recipes.keys()
    assert suite.full == "full resolution, 2 epochs"
    config = config_of(suite, suite.recipes["found by a search: best"], 0, CPU)
    assert (config.epochs, config.lr, config.weight_decay, config.schedule) == (1, 0.3, 5e-4, Schedule(frequency=0.5))


def test_averaged_weights_are_tried_on_reduced_trainings_too():
    suite = methods.methods_suite(load_study("cifar10"), Path(), OPTIONS)
    config = config_of(suite, suite.recipes["half side in the first 70 %, pwalks"], 1, CPU)
    assert (config.weight_sampling.name, config.schedule.window_length, config.seed) == ("pwalks", 0.7, 1)
    # A line of results says with what it was trained.
    assert trainings._recipe_dict(suite.recipes["dgconv"])["training"]["grouping"]["name"] == "groupable"


def test_the_quick_comparison_has_a_line_a_method():
    assert set(methods.quick_suite(OPTIONS).recipes) == {
        "pswa", "pwalks", "pswm", "dgconv", "filter_sparsity", "interleaved", "progressive", "two_stage", "four_stage", "mixed_sizes",
        "multigrid", "shorter", "full",
    }  # fmt: skip


# -- resumable lines


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A whole tiny suite of three names and two seeds. Copy what you change."""
    folder = tmp_path_factory.mktemp("claim")
    recipes = shorter_recipes(TINY, (0.5,)) | {claim.INTERLEAVED: Recipe(Schedule(frequency=0.5, kernel="pooled"), 2)}
    suite = Suite("tiny", TINY, recipes, folder, seeds=2)
    train_suite(suite, CPU)
    return suite


def test_a_line_a_training_seed_by_seed(trained):
    lines = [json.loads(line) for line in trained.lines_path.read_text().splitlines()]
    names = ["full resolution, 2 epochs", "full resolution, 1 epochs", claim.INTERLEAVED]
    assert [(line["training"], line["seed"]) for line in lines] == [(name, seed) for seed in range(2) for name in names]
    assert [line["counts"] for line in lines[:3]] == [{"32/full": 4}, {"32/full": 2}, {"16/pooled": 2, "32/full": 2}]
    assert all(len(line["curve"]) == line["recipe"]["epochs"] and 0 <= line["test_accuracy"] <= 1 for line in lines)
    assert len({line["number"] for line in lines}) == 6


def test_only_what_is_missing_is_trained_and_more_may_be_asked_for(trained, tmp_path, monkeypatch):
    made = []
    real = trainings.trained
    monkeypatch.setattr(trainings, "trained", lambda suite, one, where: made.append((one.name, one.seed)) or real(suite, one, where))
    kept = trained.lines_path.read_text().splitlines(keepends=True)
    suite = dataclasses.replace(trained, folder=tmp_path)
    # A power failure tore the last line.
    suite.lines_path.write_text("".join(kept[:4]) + kept[4][:30])
    train_suite(suite, Where(device="cpu", limit_s=-1))
    assert made == []
    train_suite(suite, CPU)
    assert made == [("full resolution, 1 epochs", 1), (claim.INTERLEAVED, 1)]
    own, other = ([{**line, "train_s": 0} for line in recorded_lines(one)] for one in (suite, trained))
    assert own == other
    half = Recipe(Schedule(frequency=1.0), 1)
    train_suite(dataclasses.replace(suite, recipes=suite.recipes | {"half": half}, seeds=1), CPU)
    assert made[2:] == [("half", 0)]


def test_another_plan_under_the_same_name_is_refused(trained):
    changed = trained.recipes | {claim.INTERLEAVED: Recipe(Schedule(frequency=0.51, kernel="pooled"), 2)}
    with pytest.raises(InputError, match=r"^training 'interleaved, pooled kernels' in .* is of another plan: move that file away"):
        train_suite(dataclasses.replace(trained, recipes=changed), CPU)


def test_trainings_need_prices_where_they_depend_on_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.execve", lambda *_: None)
    options = argparse.Namespace(**vars(OPTIONS), report=False, threads=1, device="cpu", root="data", limit_s=math.inf)
    with pytest.raises(SystemExit) as ended:
        trainings.run_suite("benchmarks.claim", options, lambda costs: tiny_claim(tmp_path, costs), claim.report, priced_first=True)
    assert ended.value.code == 2
    assert "digits.cost.json are missing, they must be measured first: give --calibrate" in capsys.readouterr().err


def test_a_calibration_is_kept_and_read(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("trainers.calibration.calibrate", lambda config, kinds: asked.append((config, kinds)) or prices())
    suite = claim.claim_suite(TINY, tmp_path / "new", None, OPTIONS)
    assert read_prices(suite.cost_path) is None
    calibrate_suite(suite, CPU)
    ((config, kinds),) = asked
    assert (config.schedule, config.batch_size, kinds) == (Schedule(), 20, kinds_of(suite))
    assert read_prices(suite.cost_path) == prices()


# -- the report


def told(folder, accuracies):
    """A suite with made-up lines. accuracies: name -> accuracy by seed."""
    recipes = {
        "full resolution, 4 epochs": Recipe(Schedule(), 4),
        "full resolution, 2 epochs": Recipe(Schedule(), 2),
        claim.INTERLEAVED: Recipe(Schedule(frequency=0.25, kernel="pooled"), 4),
        "all half": Recipe(Schedule(frequency=1.0), 4),
    }
    counts = [{"32/full": 400}, {"32/full": 200}, {"32/full": 300, "16/pooled": 100}, {"16/full": 400}]
    suite = Suite("told", TINY, recipes, folder)
    lines = []
    for (name, values), plan in zip(accuracies.items(), counts, strict=False):
        for seed, value in enumerate(values):
            recipe = trainings._recipe_dict(recipes[name])
            lines.append({"number": len(lines), "training": name, "seed": seed, "recipe": recipe, "test_accuracy": value,
                          "curve": [], "counts": plan, "train_s": 10.0, "device": "abacus"})  # fmt: skip
    suite.lines_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return suite


ACCURACIES = {
    "full resolution, 4 epochs": [0.80, 0.82, 0.84],
    "full resolution, 2 epochs": [0.60, 0.62, 0.64],
    claim.INTERLEAVED: [0.79, 0.81, 0.83],
    "all half": [0.5, 0.5],
}


def test_rows_are_paired_and_compared_with_as_long_a_training(tmp_path):
    full, short, interleaved, half = rows_of(told(tmp_path, ACCURACIES), prices())
    assert (full.time.mean, short.time.mean, half.time.mean) == (1.0, 0.5, pytest.approx(0.2))
    # 300 full steps and 100 at 0.08 of 400; prices are known to a tenth.
    assert interleaved.time == Estimate(pytest.approx(0.77), pytest.approx(0.693), pytest.approx(0.847))
    assert full.accuracy.mean == pytest.approx(0.82)
    # All three seeds lose one point, so the interval has no width although the accuracies differ by four.
    assert interleaved.against_full == Estimate(*[pytest.approx(-0.01)] * 3)
    # Full resolution at 0.77 of the time: 0.60 + 0.20 x 0.27 / 0.5 = 0.708 with the first seed.
    assert interleaved.against_shorter == Estimate(*[pytest.approx(0.79 - 0.708)] * 3)
    assert full.against_shorter is None
    # No full-resolution training is as short.
    assert (half.against_shorter, half.seeds) == (None, 2)


def test_a_report_needs_the_full_training_only(tmp_path):
    found = rows_of(told(tmp_path, {"full resolution, 4 epochs": [0.8]}), prices())
    assert [row.name for row in found] == ["full resolution, 4 epochs"]
    with pytest.raises(RunError, match=r"^'full resolution, 4 epochs' has not been trained yet"):
        rows_of(told(tmp_path, {}), prices())


def test_the_bootstrap_is_that_of_a_mean():
    # Of two values the mean of a resample is the lower one, the middle or the higher one.
    assert bootstrapped([0.0, 1.0]) == Estimate(0.5, 0.0, 1.0)
    many = bootstrapped([0.0, 1.0] * 200)
    assert (many.high - many.low) / 2 == pytest.approx(1.96 * 0.5 / 20, rel=0.05)


@pytest.mark.parametrize(
    ("against_full", "against_shorter", "words"),
    [
        ((-0.002, -0.004, 0.001), (0.01, 0.005, 0.02), ["+0.20 [-0.10, +0.40] points", "the claim holds.", "more accurate than full"]),
        ((-0.02, -0.03, -0.006), (-0.01, -0.02, -0.001), ["+2.00 [+0.60, +3.00]", "the claim does not hold.", "less accurate than"]),
        ((-0.02, -0.03, -0.004), (-0.01, -0.02, 0.001), ["the claim is undecided.", "no different from", "(-1.00 [-2.00, +0.10] points)"]),
        ((0.02, 0.01, 0.03), None, ["-2.00 [-3.00, -1.00]", "the claim holds."]),
    ],
)
def test_the_verdict_follows_from_the_intervals(against_full, against_shorter, words):
    row = Row("interleaved", Estimate(0.77, 0.76, 0.78), Estimate(0.8, 0.8, 0.8), Estimate(*against_full),
              against_shorter and Estimate(*against_shorter), 5, 10.0)  # fmt: skip
    said = claim.verdict(row)
    assert said.startswith("interleaved: 23.0 % less training time")
    assert all(word in said for word in words)
    assert ("trained for as long" in said) == (against_shorter is not None)


def test_a_report_is_a_section_with_a_verdict_and_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.trainings_report.DOCS", tmp_path)
    (tmp_path / "images").mkdir()
    begin, end = "<!-- told: written by a benchmark -->\n", "<!-- end of told -->\n"
    for page in ("claim", "methods"):
        (tmp_path / f"{page}.md").write_text(f"# Page\n{begin}{end}")
    suite = told(tmp_path, ACCURACIES)
    text = claim.report(suite, prices())
    assert (tmp_path / "claim.md").read_text() == f"# Page\n{begin}{text}{end}"
    assert (
        "| interleaved, pooled kernels | 77.0 [69.3, 84.7] | 81.00 [79.00, 83.00] | -1.00 [-1.00, -1.00] | +8.20 [+8.20, +8.20] | 3 | 10 |"
        in text
    )
    assert "the claim does not hold. It is more accurate than full resolution trained for as long" in text
    assert (tmp_path / "images" / "claim-told.png").read_bytes().startswith(b"\x89PNG")
    assert "(images/claim-told.png)" in text
    plain = methods.report(suite, prices())
    assert plain == text[: text.index(claim.INTERLEAVED + ":")] + "![test accuracy over training time](images/methods-told.png)\n"
    assert (tmp_path / "methods.md").read_text() == f"# Page\n{begin}{plain}{end}"
