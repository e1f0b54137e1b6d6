"""What a study file means: its space, its rivals, its names, and that it survives the way into the database and back."""

import dataclasses
import itertools
import json
import math
import random
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import studies
from studies import StudySpec, builtin_names, load_study
from studies.configs import MEANING_KEYS, RIVAL_FRAC, meaning_differences, next_is_rival
from studies.domains import parse_domain
from studies.files import study_name
from studies.space import FIELDS, METHOD_FIELDS, Choice, Fixed, Range, canonical_params, possible_steps
from studies.spec import OBJECTIVES, parse_duration, url_has_password
from trainers.checks import check_number
from trainers.config import DataConfig, TrainConfig
from trainers.errors import InputError
from trainers.methods.settings import SETTINGS, Grouping, WeightSampling
from trainers.schedule import Schedule, Step

MINIMAL = {"name": "small", "dataset": {"name": "digits"}, "model": "cifar_resnet8", "search": {"frequency": [0.0, 0.5]}}
steady = settings(max_examples=60, deadline=None, derandomize=True)
BUILTIN_FILES = sorted((Path(studies.__file__).parent / "files").glob("*.yaml"))


def spec_with(search=None, training=None, **keys):
    search = {"frequency": [0.0, 0.5]} | (search or {})
    return StudySpec.from_json_dict(MINIMAL | {"search": search, "training": training or {}} | keys)


def random_params(space, rng):
    """Points as a sampler gives them: on the steps of a range, with the sampler's own float arithmetic."""
    params = {}
    for field, domain in space.searched.items():
        if isinstance(domain, Choice):
            params[field] = rng.choice(domain.values)
        elif domain.members is None:
            params[field] = rng.uniform(domain.low, domain.high)
        elif domain.is_integer:
            params[field] = rng.choice(domain.members)
        else:
            params[field] = domain.low + rng.randrange(len(domain.members)) * domain.step
    return params


def test_import_loads_neither_torch_nor_ray_nor_optuna():
    code = "import sys, studies; studies.load_study('digits'); print([name for name in ('torch', 'ray', 'optuna') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Built-in files


def test_builtin_names_are_the_files_of_the_package():
    assert builtin_names() == sorted(path.stem for path in BUILTIN_FILES)
    assert set(builtin_names()) >= {"digits", "cifar10", "cifar10-resnet18", "imagenet-resnet50"}


@pytest.mark.parametrize("path", BUILTIN_FILES, ids=lambda path: path.stem)
class TestBuiltinFile:
    def test_name_is_the_files_and_its_header_says_what_it_is_for(self, path):
        assert load_study(path.stem).name == path.stem
        header = list(itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines()))
        assert len(header) == 2
        assert "Time:" in header[1]

    def test_survives_json(self, path):
        spec = load_study(str(path))
        through_json = json.loads(json.dumps(spec.to_json_dict()))
        assert StudySpec.from_json_dict(through_json) == spec
        assert meaning_differences(through_json, spec.to_json_dict()) == []

    def test_searches_every_field_that_earns_it(self, path):
        # Growing batches pay on a GPU only, and the CPU studies have too few trials for more fields; methods have costs that no price has,
        # and presets are known schedules, not parts of one.
        left_out = {"side_multiple"} if load_study(path.stem).resources.gpus else {"side_multiple", "pooled_layers", "batch_growth"}
        assert set(load_study(path.stem).search.searched) == set(FIELDS) - left_out.union(METHOD_FIELDS, {"preset"})

    def test_start_points_are_the_baseline_and_shorter_runs_inside_the_space(self, path):
        spec = load_study(path.stem)
        points = spec.start_points()
        assert [mark for _, mark in points] == ["baseline"] + ["shorter"] * 3
        for params, _ in points:
            assert set(params) == set(spec.search.searched)
            assert all(spec.search[field].contains(value) for field, value in params.items())
            assert spec.search.is_full_resolution(params)
            assert (params["lr"], params["weight_decay"]) == (spec.training.lr, spec.training.weight_decay)
        epochs = [params["epochs"] for params, _ in points]
        assert epochs[0] == spec.training.epochs
        assert epochs == sorted(set(epochs), reverse=True)

    def test_random_points_train_with_valid_configurations(self, path):
        spec = load_study(path.stem)
        rng = random.Random(1)
        for seed in range(50):
            params = random_params(spec.search, rng)
            config = spec.train_config(params, seed)
            assert isinstance(config, TrainConfig)
            assert (config.model, config.data, config.batch_size) == (spec.model, spec.dataset, spec.training.batch_size)
            assert (config.epochs, config.lr, config.weight_decay) == (params["epochs"], params["lr"], params["weight_decay"])
            assert (config.seed, config.schedule.seed, config.schedule.kernel) == (seed, seed, params["kernel"])
            assert len(str(config.schedule.frequency)) <= 4

    def test_plans_take_no_step_that_is_not_foreseen(self, path):
        spec = load_study(path.stem)
        foreseen = possible_steps(spec.search, spec.dataset.full_px)
        rng = random.Random(2)
        for seed in range(60):
            plan = spec.train_config(random_params(spec.search, rng), seed).schedule.plan(97, spec.dataset.full_px, 40)
            assert set(plan) <= foreseen


def test_digits_file_explains_every_key_of_a_study():
    text = (Path(studies.__file__).parent / "files" / "digits.yaml").read_text()
    written = yaml.safe_load(text)
    spec = StudySpec.from_json_dict(load_study("digits").to_json_dict())
    assert set(written) == set(StudySpec.model_fields)
    assert set(written["search"]) == set(FIELDS)
    assert set(written["training"]) == set(dict(spec.training))
    assert all(field.name in text for field in dataclasses.fields(DataConfig))
    assert all(name in text for name in OBJECTIVES)


# Files, names and overrides


def test_a_file_is_read_by_path_and_wins_over_a_builtin_name(tmp_path, monkeypatch):
    (tmp_path / "digits").write_text(yaml.safe_dump(MINIMAL))
    (tmp_path / "mine.yml").write_text(yaml.safe_dump(MINIMAL | {"name": "mine"}))
    monkeypatch.chdir(tmp_path)
    assert load_study("digits").name == "small"
    assert load_study("digits.yaml").name == "digits"
    assert load_study(str(tmp_path / "mine.yml")).name == "mine"


def test_study_name_of_file_builtin_and_plain_name(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | {"name": "inside"}))
    assert study_name(str(path)) == "inside"
    assert study_name("cifar10.yaml") == "cifar10"
    assert study_name("digits") == "digits"
    assert study_name("some-older_study.2") == "some-older_study.2"


def test_numbers_with_an_exponent_and_no_point_are_numbers(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(MINIMAL) + "training: {weight_decay: 5e-4, lr: 1E-1}\n")
    spec = load_study(str(path), ["training.lr=2e+0"])
    assert (spec.training.weight_decay, spec.training.lr) == (0.0005, 2.0)


def test_overrides_change_existing_add_missing_and_replace_whole_keys():
    spec = load_study(
        "digits",
        [
            "name=other",
            "budget.trials=3",
            "budget.trials=5",
            "search.lr.high=0.8",
            "search.scale=[0.5, 0.75]",
            "training.augment=[flip]",
            "seed = 7",
        ],
    )
    assert (spec.name, spec.budget.trials, spec.seed, spec.training.augment) == ("other", 5, 7, ("flip",))
    assert spec.search["lr"] == Range(0.05, 0.8, log=True)
    assert spec.search["scale"] == Choice((0.5, 0.75))
    assert load_study("cifar10", ["resources.cpus=2", "storage=sqlite:///a=b.db"]).storage == "sqlite:///a=b.db"


# The spec


@pytest.mark.parametrize(
    ("objectives", "sampler"),
    [(["val_accuracy", "relative_time"], "known_cost"), (["relative_time", "val_loss"], "tpe"), (["val_accuracy"], "tpe")],
)
def test_the_default_sampler_takes_the_objectives(objectives, sampler):
    spec = StudySpec.from_json_dict(MINIMAL | {"objectives": objectives})
    assert spec.sampler == sampler
    assert StudySpec.from_json_dict(spec.to_json_dict()) == spec


def test_defaults_are_those_of_the_training_and_the_schedule():
    spec = StudySpec.from_json_dict(MINIMAL)
    plain = TrainConfig(model="cifar_resnet8", data=DataConfig(name="digits"))
    assert all(getattr(plain, field) == value for field, value in spec.training)
    assert spec.objectives == ("relative_time", "val_accuracy")
    assert (spec.sampler, spec.budget.trials, spec.budget.timeout_s, spec.seed, spec.storage) == ("known_cost", 50, None, 0, None)
    assert (spec.resources.cpus, spec.resources.gpus) == (1, 0)
    baseline = spec.train_config(spec.baseline_params(), 3, device="cpu", threads=2, checkpoint="c.pt")
    expected = dataclasses.replace(plain, schedule=Schedule(seed=3), seed=3, device="cpu", threads=2, checkpoint="c.pt")
    assert baseline == expected


def test_every_objective_has_a_direction_and_one_alone_makes_a_study():
    assert {name: OBJECTIVES[name] for name in ("relative_time", "val_accuracy", "train_seconds", "val_loss", "peak_memory")} == {
        "relative_time": "minimize",
        "val_accuracy": "maximize",
        "train_seconds": "minimize",
        "val_loss": "minimize",
        "peak_memory": "minimize",
    }
    assert spec_with(objectives=["val_loss"]).objectives == ("val_loss",)


def test_a_spec_can_not_be_changed():
    spec = StudySpec.from_json_dict(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        spec.seed = 1
    with pytest.raises(ValueError, match="frozen"):
        spec.training.lr = 1.0


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("90m", 5400), ("2h", 7200), ("1h30m", 5400), ("1h1m1s", 3661), ("0h5s", 5)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds
    assert spec_with(budget={"timeout": text}).budget.timeout_s == seconds


@pytest.mark.parametrize(
    ("url", "has_password"),
    [
        ("sqlite:///tuner.db", False),
        ("sqlite:////data/a:b@c.db", False),
        ("postgresql://user@host/db", False),
        ("postgresql://host:5432/db", False),
        ("postgresql://user@host:5432/db?options=a@b", False),
        ("postgresql://user@host/db?passfile=/home/u/.pgpass&sslmode=require", False),
        ("postgresql://user:@host/db", False),
        ("postgresql://user:pw@host/db", True),
        ("postgresql+psycopg://user:p%40w@host/db", True),
        ("postgresql://user:p/w@host/db", True),
        ("postgresql://user:p?w#x@host/db", True),
        ("postgresql://user:p@w:x@host/db", True),
        ("postgresql://user:p[w@host/db", True),
        ("postgresql://:pw@host/db", True),
        ("postgresql:///db?host=h&password=pw", True),
        ("postgresql:///db?PassWord=pw", True),
        ("postgresql:///db?pass%77ord=pw", True),
        ("postgresql://h/db?x=1#&password=pw", True),
        ("mysql:///db?passwd=pw", True),
    ],
)
def test_passwords_in_urls_are_seen(url, has_password):
    assert url_has_password(url) is has_password


# Domains


decimals = st.integers(-5000, 5000).map(lambda thousandths: thousandths / 1000)


@steady
@given(low=decimals, steps=st.integers(1, 60), step=st.integers(1, 500).map(lambda thousandths: thousandths / 1000))
def test_members_of_a_stepped_range_are_decimal_numbers_and_what_optuna_takes(low, steps, step):
    high = float(Decimal(str(low)) + steps * Decimal(str(step)))
    domain = parse_domain("search.x", {"low": low, "high": high, "step": step}, lambda _, value: value)
    by_hand = tuple(float(Decimal(str(low)) + index * Decimal(str(step))) for index in range(steps + 1))
    assert domain.members == by_hand
    assert (domain.canonical, domain.lowest, domain.highest) == (low, low, high)
    distribution = optuna.distributions.FloatDistribution(domain.low, domain.high, step=domain.step)
    assert distribution.high == high
    assert all(distribution._contains(member) for member in domain.members)


@steady
@given(low=st.integers(0, 20), steps=st.integers(1, 20), step=st.integers(1, 5), value=st.floats(-10, 200))
def test_nearest_member_is_the_nearest_by_brute_force(low, steps, step, value):
    domain = Range(low, low + steps * step, step=step)
    distance = min(abs(member - value) for member in range(low, low + steps * step + 1, step))
    assert domain.nearest(value) in range(low, low + steps * step + 1, step)
    assert abs(domain.nearest(value) - value) == pytest.approx(distance)
    assert isinstance(domain.nearest(value), int)
    assert Choice(domain.members).nearest(value) == domain.nearest(value)


def test_nearest_of_two_is_the_smaller_one():
    assert Range(0, 10).nearest(2.5) == 2
    assert Choice((4, 3)).nearest(3.5) == 3


@steady
@given(low=decimals, length=st.floats(0.001, 10), value=st.floats(-20, 20))
def test_a_continuum_contains_what_lies_between_its_ends(low, length, value):
    domain = Range(low, low + length)
    assert domain.members is None
    assert domain.contains(value) == (low <= value <= low + length)
    assert domain.nearest(value) == max(low, min(low + length, value))


def test_domains_are_read_as_they_are_written():
    def read(raw):
        return parse_domain("search.x", raw, lambda key, value: check_number(key, value) or value)

    assert read(0.5) == Fixed(0.5)
    assert read([0.5]) == Fixed(0.5)
    assert read([2.0, 1.0]) == Choice((2.0, 1.0))
    assert read([2.0, 1.0]).canonical == 2.0
    assert read({"low": 0.1, "high": 1.0, "log": True, "step": None}) == Range(0.1, 1.0, log=True)
    assert read({"low": 1, "high": 3}).members == (1, 2, 3)
    for raw in (0.5, [2.0, 1.0], {"low": 0.1, "high": 1.0, "log": True}, {"low": 0.0, "high": 1.0, "step": 0.25}):
        assert read(raw).to_json() == raw


# The search space


def test_frequency_comes_first_and_every_field_is_there():
    space = spec_with({"scale": [0.5, 0.75], "epochs": {"low": 2, "high": 12}}).search
    assert next(iter(space)) == "frequency"
    assert set(space) == {field.name for field in dataclasses.fields(Schedule)} - {"seed"} | {"epochs", "lr", "weight_decay", *SETTINGS}
    assert list(space.searched) == ["frequency", "scale", "epochs"]


@pytest.mark.parametrize(
    ("written", "domain"),
    [
        (0.5, Choice((0.0, 0.5))),
        ([0.25, 0.5], Choice((0.0, 0.25, 0.5))),
        ([0.25, 0], Choice((0.25, 0.0))),
        (0, Fixed(0.0)),
        ({"low": 0, "high": 1, "step": 0.1}, Range(0.0, 1.0, step=0.1)),
    ],
)
def test_frequency_always_holds_0(written, domain):
    assert spec_with({"frequency": written}).search["frequency"] == domain


@pytest.mark.parametrize(
    ("epochs", "domain"), [(2, Range(1, 2)), (3, Range(1, 3)), (10, Range(3, 10)), (12, Range(4, 12)), (30, Range(9, 30))]
)
def test_epochs_reach_from_three_tenths_to_the_baselines_by_default(epochs, domain):
    assert spec_with(training={"epochs": epochs}).search["epochs"] == domain


def test_start_points_are_rounded_into_the_epochs_and_come_once():
    def epochs(search, trained):
        return [params["epochs"] for params, _ in spec_with({"epochs": search}, {"epochs": trained}).start_points()]

    assert epochs({"low": 1, "high": 20}, 12) == [12, 9, 6, 4]
    assert epochs({"low": 6, "high": 24, "step": 6}, 12) == [12, 6]
    assert epochs([7, 12, 2], 12) == [12, 7, 2]
    assert epochs([1, 2], 2) == [2, 1]


def test_shorter_runs_on_the_bound_are_enough():
    assert spec_with({"epochs": [6, 10]}, {"epochs": 10}).search["epochs"] == Choice((6, 10))


def test_complete_adds_fixed_fields_and_repairs_a_samplers_arithmetic():
    space = spec_with({"frequency": {"low": 0, "high": 1, "step": 0.1}, "scale": 0.75, "epochs": {"low": 2, "high": 10}}).search
    complete = space.complete({"frequency": 0.1 + 0.2, "epochs": 4.0})
    assert list(complete) == list(FIELDS)
    assert repr(complete["frequency"]) == "0.3"
    assert (complete["scale"], complete["kernel"], complete["lr"], repr(complete["epochs"])) == (0.75, "full", 0.2, "4")
    assert space.complete(complete) == complete


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"frequency": 0.5}, "'epochs' is missing"),
        ({"frequency": 0.33, "epochs": 4}, "'frequency' is 0.33"),
        ({"frequency": 0.5, "epochs": 11}, "'epochs' is 11"),
        ({"frequency": math.nan, "epochs": 4}, "'frequency' is nan"),
        ({"frequency": 0.5, "epochs": 4, "kernel": "pooled"}, "'kernel' is 'pooled'"),
        ({"frequency": 0.5, "epoch": 4}, "nearest valid name is 'epochs'"),
    ],
)
def test_parameters_outside_the_space_are_refused(params, said):
    space = spec_with({"frequency": {"low": 0, "high": 1, "step": 0.1}, "epochs": {"low": 2, "high": 10}}).search
    with pytest.raises(InputError) as caught:
        space.complete(params)
    assert said in str(caught.value)


@pytest.mark.parametrize("nothing", [{"frequency": 0.0}, {"window_length": 0.0}, {"window_start": 1.0}, {"scale": 1.0}])
def test_full_resolution_is_written_in_one_way(nothing):
    wide = {"frequency": [0.5, 0], "policy": ["stochastic", "deterministic"], "scale": [0.75, 0.5, 1.0], "kernel": ["pooled", "full"]}
    wide |= {"window_start": {"low": 0.25, "high": 1}, "window_length": [0.5, 0.0, 1.0], "epochs": [3, 10, 5]}
    space = spec_with(wide).search
    reduced = {
        "frequency": 0.5,
        "policy": "deterministic",
        "scale": 0.5,
        "kernel": "full",
        "window_start": 0.5,
        "window_length": 1.0,
        "epochs": 5,
    }
    assert canonical_params(space, reduced) == reduced
    assert not space.is_full_resolution(reduced)
    expected = {
        "frequency": 0.0,
        "policy": "stochastic",
        "scale": 0.75,
        "kernel": "pooled",
        "window_start": 0.25,
        "window_length": 0.5,
        "epochs": 5,
    }
    assert space.is_full_resolution(reduced | nothing)
    assert canonical_params(space, reduced | nothing) == expected
    assert canonical_params(space, expected) == expected


def test_a_field_that_means_nothing_beside_the_others_is_written_in_one_way():
    wide = {"frequency": [1.0, 0.5, 0.0], "policy": ["stochastic", "deterministic"], "kernel": ["full", "pooled"], "scale": [0.5, 0.75]}
    wide |= {"pooled_layers": ["most_saved", "all"], "batch_growth": ["constant_work", "none"]}
    space = spec_with(wide).search
    every = {"policy": "deterministic", "kernel": "pooled", "pooled_layers": "all", "batch_growth": "none"}
    meant = {"frequency": 0.5, "scale": 0.5, "epochs": 5} | every
    assert canonical_params(space, meant) == meant
    # No kernel is pooled, so the layers mean nothing.
    assert canonical_params(space, meant | {"kernel": "full"}) == meant | {"kernel": "full", "pooled_layers": "most_saved"}
    # 24 of 32 px: no second batch fits.
    assert canonical_params(space, meant | {"scale": 0.75}) == meant | {"scale": 0.75, "batch_growth": "constant_work"}
    # Every step is reduced, drawn or not.
    assert canonical_params(space, meant | {"frequency": 1.0}) == meant | {"frequency": 1.0, "policy": "stochastic"}


def test_the_images_side_decides_whether_batches_can_grow():
    search = {"frequency": [0.5, 0.0], "scale": 0.75, "batch_growth": ["none", "constant_work"]}
    grown = {"frequency": 0.5, "batch_growth": "constant_work", "epochs": 5}
    for side_px, kept in ((32, "none"), (6, "constant_work")):
        # 0.75 of 6 px is 4.5, rounded 4: two batches fit.
        space = spec_with(search, dataset={"name": "folder", "side_px": side_px}).search
        assert canonical_params(space, grown)["batch_growth"] == kept


def even_spread(domain):
    return [domain.low + share / 100 * (domain.high - domain.low) for share in range(101)]


scales = st.one_of(
    st.sampled_from([0.25, 0.5, 0.7, 1.0]),
    st.lists(st.sampled_from([0.3, 0.5, 0.6, 0.9, 1.0]), min_size=1, max_size=3, unique=True),
    st.sampled_from([{"low": 0.25, "high": 0.75}, {"low": 0.4, "high": 1.0, "step": 0.2}, {"low": 0.9, "high": 1.0}]),
)


@steady
@given(
    scale=scales,
    growth=st.sampled_from(["constant", "linear", ["linear", "constant"]]),
    kernel=st.sampled_from(["full", "pooled", ["full", "pooled"]]),
    multiple=st.sampled_from([1, 4, 5, 32]),
    full_px=st.sampled_from([28, 30, 32]),
    frequency=st.sampled_from([0, 1, [0.5, 0]]),
)
def test_possible_steps_are_just_those_that_occur(scale, growth, kernel, multiple, full_px, frequency):
    search = {"scale": scale, "growth": growth, "kernel": kernel, "side_multiple": multiple, "frequency": frequency}
    space = spec_with(search).search
    spread = {field: domain.members or even_spread(domain) for field, domain in space.searched.items() if field != "epochs"}
    points = [dict(zip(spread, values, strict=True)) | {"epochs": 10} for values in itertools.product(*spread.values())]
    taken = {Step(full_px, "full")}.union(*(space.schedule(point).plan(128, full_px) for point in points))
    assert taken == possible_steps(space, full_px)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    scale=st.sampled_from([0.25, 0.7, [0.3, 0.5, 0.6], [0.5, 1.0]]),
    growth=st.sampled_from(["constant", ["linear", "constant"]]),
    kernel=st.sampled_from(["full", "pooled", ["full", "pooled"]]),
    pooled_layers=st.sampled_from(["all", "most_saved", ["largest_maps", "all"]]),
    batch_growth=st.sampled_from(["constant_work", ["none", "constant_work"]]),
    full_px=st.sampled_from([28, 30, 32]),
)
def test_possible_steps_of_several_batches_are_just_those_that_occur(scale, growth, kernel, pooled_layers, batch_growth, full_px):
    search = {"frequency": [0, 0.5], "scale": scale, "growth": growth, "kernel": kernel}
    space = spec_with(search | {"pooled_layers": pooled_layers, "batch_growth": batch_growth}).search
    spread = {field: domain.members for field, domain in space.searched.items() if field != "epochs"}
    points = [dict(zip(spread, values, strict=True)) | {"epochs": 10} for values in itertools.product(*spread.values())]
    # Epochs of one batch leave every one over; one epoch of 800 holds at least 16 of every side.
    schedules = [space.schedule(point) for point in points]
    taken = {step for schedule in schedules for length in (1, 800) for step in schedule.plan(800, full_px, length)}
    assert taken == possible_steps(space, full_px)


def test_possible_steps_of_one_space_by_hand():
    search = {"frequency": [0, 1.0], "scale": [0.5, 0.75, 1.0], "kernel": ["full", "pooled"]}
    constant = {Step(32, "full"), Step(16, "full"), Step(16, "pooled"), Step(24, "full"), Step(24, "pooled")}
    assert possible_steps(spec_with(search).search, 32) == constant
    assert possible_steps(spec_with(search | {"growth": ["constant", "linear"]}).search, 32) == constant | {
        Step(side_px, kernel) for side_px in (20, 28) for kernel in ("full", "pooled")
    }
    assert possible_steps(spec_with({"frequency": 0}).search, 32) == {Step(32, "full")}
    assert possible_steps(spec_with(search | {"window_length": 0}).search, 32) == {Step(32, "full")}
    # Four batches of 16 px have the pixels of one of 32, of 24 px only one has.
    grown = {Step(16, "full", 4), Step(16, "pooled", 4)}
    assert possible_steps(spec_with(search | {"batch_growth": ["none", "constant_work"]}).search, 32) == constant | grown
    layers = {"frequency": [0, 1.0], "kernel": ["full", "pooled"], "pooled_layers": ["largest_maps", "most_saved"]}
    kernels = ("full", "pooled_largest_maps", "pooled_most_saved")
    assert possible_steps(spec_with(layers).search, 32) == {Step(32, "full")} | {Step(16, kernel) for kernel in kernels}


# Rivals and meaning


def test_a_fifth_of_the_trials_is_at_full_resolution_at_every_prefix():
    rivals = others = 0
    for begun in range(1, 2001):
        if next_is_rival(rivals, others):
            rivals += 1
        else:
            others += 1
        assert 5 * rivals >= begun
    assert rivals == 400
    assert RIVAL_FRAC == 0.2


@steady
@given(rivals=st.integers(0, 500), others=st.integers(0, 500))
def test_next_is_rival_only_where_another_trial_would_break_the_share(rivals, others):
    assert next_is_rival(rivals, others) == (Decimal(rivals) / Decimal(rivals + others + 1) < Decimal("0.2"))


def test_meaning_differences_are_readable_lines():
    old = spec_with({"lr": [0.1, 0.2], "scale": {"low": 0.5, "high": 0.75}}).to_json_dict()
    new = spec_with(
        {"lr": {"low": 0.1, "high": 0.2}, "scale": {"low": 0.25, "high": 0.75}}, {"batch_size": 64, "augment": ["flip"]}
    ).to_json_dict()
    assert meaning_differences(old, new) == [
        "training.batch_size: 128 -> 64",
        'training.augment: [] -> ["flip"]',
        "search.scale.low: 0.5 -> 0.25",
        'search.lr: [0.1, 0.2] -> {"low": 0.1, "high": 0.2}',
    ]
    del old["model"]
    assert meaning_differences(old, old | {"model": "resnet18"}) == ['model: nothing -> "resnet18"']


def test_only_what_changes_a_values_meaning_is_compared():
    old = StudySpec.from_json_dict(MINIMAL)
    new = spec_with(
        sampler="gp", stopper="dominance", budget={"trials": 9}, resources={"cpus": 2}, seed=5, storage="sqlite:///other.db", name="other"
    )
    assert meaning_differences(old.to_json_dict(), new.to_json_dict()) == []
    changes = {
        "dataset": {"name": "digits", "split_seed": 1},
        "model": "resnet18",
        "training": {"lr_curve": "cosine"},
        "search": {"frequency": 0.25},
        "objectives": ["val_accuracy", "relative_time"],
    }
    assert set(changes) == set(MEANING_KEYS)
    for key, value in changes.items():
        lines = meaning_differences(old.to_json_dict(), StudySpec.from_json_dict(MINIMAL | {key: value}).to_json_dict())
        assert lines
        assert all(line.startswith(key) for line in lines)


def test_a_spec_from_before_a_key_existed_means_what_it_meant():
    spec = StudySpec.from_json_dict(load_study("digits").to_json_dict())
    old = json.loads(json.dumps(spec.to_json_dict()))
    for section, key in (
        ("training", "compile"),
        ("training", "accumulate"),
        ("search", "pooled_layers"),
        ("search", "batch_growth"),
        ("search", "preset"),
    ):
        del old[section][key]
    for key in SETTINGS:
        del old["training"][key], old["search"][key]
    assert StudySpec.from_json_dict(old) == spec
    assert meaning_differences(old, spec.to_json_dict()) == meaning_differences(spec.to_json_dict(), old) == []
    new = load_study("digits", ["training.accumulate=2", "search.batch_growth=[none, constant_work]"])
    assert meaning_differences(old, new.to_json_dict()) == [
        "training.accumulate: 1 -> 2",
        'search.batch_growth: "none" -> ["none", "constant_work"]',
    ]


def test_compilation_and_micro_batches_reach_the_training():
    spec = spec_with(training={"compile": True, "accumulate": 4})
    config = spec.train_config(spec.baseline_params(), 0)
    assert (config.compile, config.accumulate) == (True, 4)


def test_a_method_is_a_name_or_a_mapping_and_may_be_searched():
    named, with_settings = {"weight_sampling": "pswa"}, {"weight_sampling": {"name": "pswa", "every": 5}}
    for training, sampling in ((named, WeightSampling(name="pswa")), (with_settings, WeightSampling(name="pswa", every=5))):
        spec = spec_with(training=training)
        assert spec.search["weight_sampling"] == Fixed("pswa")
        assert spec.train_config(spec.baseline_params(), 0).weight_sampling == sampling
    assert spec_with({"weight_sampling": None}, named) == spec_with(training=named)
    spec = spec_with({"weight_sampling": ["none", "pwalks", "pswa"], "grouping": "none"}, with_settings)
    assert spec.search["weight_sampling"] == Choice(("none", "pwalks", "pswa"))
    for params, mark in spec.start_points():
        assert (params["weight_sampling"], "grouping" in params, mark in ("baseline", "shorter")) == ("pswa", False, True)
    point = spec.baseline_params() | {"weight_sampling": "pwalks"}
    config = spec.train_config(point, 0)
    assert (config.weight_sampling, config.grouping) == (WeightSampling(name="pwalks", every=5), Grouping())
    # A method is no part of the schedule: full resolution has several.
    assert canonical_params(spec.search, point) == point
    assert StudySpec.from_json_dict(json.loads(json.dumps(spec.to_json_dict()))) == spec
    assert meaning_differences(spec_with().to_json_dict(), spec_with(training=named).to_json_dict()) == [
        'training.weight_sampling.name: "none" -> "pswa"',
        'search.weight_sampling: "none" -> "pswa"',
    ]


def test_a_default_written_out_is_no_difference():
    assert meaning_differences(spec_with().to_json_dict(), spec_with({"scale": 0.5, "lr": 0.2}, {"momentum": 0.9}).to_json_dict()) == []
