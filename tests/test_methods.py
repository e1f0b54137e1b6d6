"""Every method that may join a training, found in the settings: it ends, resumes bit-same, survives a study file, and has its card."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
import yaml

import trainers.methods
from benchmarks import joining
from benchmarks.methods import JOINED
from benchmarks.trainings import Where
from studies import load_study
from trainers import Schedule, TrainConfig, TrainResult, train
from trainers.config import DataConfig
from trainers.data import load_data
from trainers.evaluation import evaluate
from trainers.loop import Training
from trainers.methods.joined import METHODS
from trainers.methods.settings import SETTINGS, WeightSampling

HEADINGS = ["Source", "Published", "Our own choice", "Cost", "When it hurts", "Interactions", "Evidence"]
NAMES = [(key, name) for key, settings in SETTINGS.items() for name in get_args(get_type_hints(settings)["name"]) if name != "none"]
# So that there is something to do within few steps.
SOON = {"weight_sampling": {"every": 2}}
CONFIG = TrainConfig(
    model="cifar_resnet8",
    data=DataConfig(name="digits", train_images=48, val_images=40),
    schedule=Schedule(frequency=0.5, kernel="pooled"),
    epochs=2,
    batch_size=16,
    lr=0.05,
    augment=("crop",),
    seed=7,
    device="cpu",
    threads=1,
)

each_method = pytest.mark.parametrize(("key", "name"), NAMES)


def joined_by(key: str, name: str) -> TrainConfig:
    return dataclasses.replace(CONFIG, **{key: SETTINGS[key](name=name, **SOON.get(key, {}))})


@functools.cache
def undisturbed(key: str, name: str) -> TrainResult:
    return train(joined_by(key, name))


def bits(result: TrainResult) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in result.model.state_dict().items()}


def test_every_method_of_the_settings_is_registered():
    assert list(METHODS) == list(SETTINGS)
    assert {key for key, _ in NAMES} == set(SETTINGS)
    fields = {field.name: field.default_factory for field in dataclasses.fields(TrainConfig)}
    assert {key: fields[key] for key in SETTINGS} == SETTINGS


@each_method
def test_it_ends_beside_reduced_steps(key, name):
    result = undisturbed(key, name)
    assert {step.kernel for step in result.counts} == {"full", "pooled"}
    assert len(result.curve) == 2
    assert all(0 <= accuracy <= 1 for accuracy in result.curve)


@each_method
def test_resumed_it_ends_bit_same(key, name, tmp_path):
    broken = dataclasses.replace(joined_by(key, name), checkpoint=str(tmp_path))
    Training(broken).run_epoch()
    resumed, whole = train(broken), undisturbed(key, name)
    assert bits(resumed) == bits(whole)
    assert (resumed.curve, resumed.val_loss, resumed.figures) == (whole.curve, whole.val_loss, whole.figures)
    assert all(whole.figures)
    assert len(whole.figures) == 2


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, name in NAMES if key != "weight_sampling"])
def test_beside_averaged_weights_it_ends_and_resumes_bit_same(key, name, tmp_path):
    config = dataclasses.replace(joined_by(key, name), weight_sampling=WeightSampling(name="pwalks", every=1))
    whole = train(config)
    broken = dataclasses.replace(config, checkpoint=str(tmp_path))
    Training(broken).run_epoch()
    assert bits(train(broken)) == bits(whole)
    # What the training results in is what was evaluated last, though it may have other layers by then.
    again = evaluate(whole.model, load_data(CONFIG.data, torch.device("cpu")).val, CONFIG.batch_size)
    assert again == (pytest.approx(whole.val_accuracy, abs=1 / 40), pytest.approx(whole.val_loss, rel=1e-4))


@each_method
def test_it_comes_through_a_study_file(key, name, tmp_path):
    settings = joined_by(key, name)
    wanted = dataclasses.asdict(getattr(settings, key))
    content = {"name": "small", "dataset": {"name": "digits"}, "model": "cifar_resnet8", "search": {"frequency": [0.0, 0.5]}}
    for written in (wanted, name):
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content | {"training": {key: written}}))
        spec = load_study(str(tmp_path / "study.yaml"))
        assert type(spec).from_json_dict(spec.to_json_dict()) == spec
        found = getattr(spec.train_config(spec.baseline_params(), 0), key)
        assert found == (getattr(settings, key) if written == wanted else SETTINGS[key](name=name))


@pytest.mark.parametrize("key", SETTINGS)
def test_its_card_has_every_heading(key):
    card = (Path(trainers.methods.__file__).parent / f"{key}.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == HEADINGS
    assert all(f"`{field.name}`" in card for field in dataclasses.fields(SETTINGS[key])), "a setting that the card does not explain"
    assert all(f"`{name}`" in card for name in get_args(get_type_hints(SETTINGS[key])["name"]) if name != "none")


# -- what a method takes beside the steps


def test_the_overhead_is_that_of_the_same_round():
    # Plain rounds of 10 and 20 s, one of them on a slower machine: a tenth more in steps, a twentieth in evaluation.
    spans = [
        {
            "plain": {"train": 10.0, "evaluation": 1.0},
            "pswa": {"train": 11.0, "evaluation": 1.5},
        },
        {
            "plain": {"train": 20.0, "evaluation": 2.0},
            "pswa": {"train": 22.0, "evaluation": 3.0},
        },
    ]
    found = joining.overhead(spans, "pswa")
    assert found == {name: pytest.approx(value) for name, value in {
        "time": 0.15, "time_quartiles": [0.15, 0.15], "in_steps": 0.1, "in_evaluation": 0.05}.items()}  # fmt: skip


def test_kept_tensors_are_counted_wherever_they_are():
    state = {"samples": {"kept": [[torch.zeros(3), torch.zeros(2)]], "count": 1}, "buffers": None}
    assert joining.tensor_bytes(state) == 5 * 4


def test_every_method_that_joins_is_measured():
    spec = load_study("digits", ["dataset.train_images=640", "dataset.val_images=100"])
    found = joining.measured(spec, Where("cpu", 1), rounds=1)
    assert set(found) == set(JOINED)
    # One average and running statistics; two samples, of ten steps each.
    assert 1 < found["pswa"]["kept"] < 1.1
    assert 2 < found["pwalks"]["kept"] < 2.1
    assert found["filter_sparsity"]["in_evaluation"] > 0
