"""The examples run as they are shown, and the Lightning callback takes the steps of its schedule."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from trainers import Downsampler, Schedule
from trainers.errors import InputError
from trainers.models import build_model

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
SCHEDULE = Schedule(frequency=0.5, kernel="pooled", batch_norm="separate")

with warnings.catch_warnings():
    # Its own imports warn, and differently from version to version.
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed: make test installs it")
    from trainers.lightning import DownsamplingCallback

# What Lightning thinks of its own dependencies and of small loaders is no news about ours.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("example", ["plain_loop", "lightning_training", "timm_training", "torchvision_training"])
def test_an_example_takes_every_step_of_the_schedule(example, tmp_path):
    SCHEDULE.save(tmp_path / "schedule.yaml")
    command = [sys.executable, str(EXAMPLES / f"{example}.py"), "--schedule", "schedule.yaml", "--epochs", "2", "--images", "96"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    # Twice 96 images in batches of 64.
    assert re.search(r"^(epoch 2: )?4 steps, accuracy[a-z ]* (0\.\d{3}|1\.000)$", done.stdout, re.MULTILINE), done.stdout


def test_every_example_is_tried():
    shown = {path.stem for path in EXAMPLES.glob("*.py")} - {"digit_scans"}
    assert shown == {"plain_loop", "lightning_training", "timm_training", "torchvision_training"}


def test_the_plain_loop_goes_on_where_it_was_left_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    SCHEDULE.save("schedule.yaml")

    def trained(epochs):
        monkeypatch.setattr(sys, "argv", ["plain_loop.py", "--schedule", "schedule.yaml", "--epochs", epochs, "--images", "96"])
        runpy.run_path(str(EXAMPLES / "plain_loop.py"), run_name="__main__")
        return capsys.readouterr().out

    assert trained("1").startswith("epoch 1: 2 steps")
    assert trained("1") == "going on from plain_loop.pt, which has 1 of 1 epochs\n"
    # Another length is another plan, which is refused in one sentence.
    refusal = (
        "plain_loop.pt is of another training, delete it to begin anew: total_steps is 4 here and 2 in the checkpoint, they must be equal"
    )
    with pytest.raises(SystemExit, match=refusal):
        trained("2")
    Schedule(frequency=0.25, kernel="pooled", batch_norm="separate").save("schedule.yaml")
    with pytest.raises(SystemExit, match=r"schedule field 'frequency' is 0\.25 here and 0\.5 in the checkpoint"):
        trained("1")


class Classifier(lightning.LightningModule):
    """Notes the side of what its first convolution gets: (whether it trains, side)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = build_model("cifar_resnet8", 10, 32)
        self.sides = []
        first = next(layer for layer in self.network.modules() if isinstance(layer, nn.Conv2d))
        first.register_forward_hook(lambda layer, inputs, output: self.sides.append((self.training, inputs[0].shape[-1])))

    def forward(self, images):
        return self.network(images)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.network(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    @property
    def trained_sides(self):
        return [side for training, side in self.sides if training]


class Itself(Classifier):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])


def images(count=40, side=32):
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(count, 3, side, side, generator=generator), torch.randint(10, (count,), generator=generator))


def loader(count=40):
    return DataLoader(images(count), 8)


def trainer(tmp_path, *callbacks, **options):
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 2}
    return lightning.Trainer(callbacks=list(callbacks), default_root_dir=tmp_path, **(settings | options))


def test_lightning_takes_the_plans_steps_and_validates_in_full(tmp_path):
    model, callback = Classifier(), DownsamplingCallback(SCHEDULE, 32, "network")
    trainer(tmp_path, callback).fit(model, loader(), loader(16))
    # After n steps floor(n / 2) are reduced.
    assert model.trained_sides == [32, 16] * 5
    assert {side for training, side in model.sides if not training} == {32}
    assert callback.downsampler.steps_done == 10


def test_lightning_trains_as_a_plain_loop_does(tmp_path):
    model = Classifier()
    trainer(tmp_path, DownsamplingCallback(SCHEDULE, 32, "network")).fit(model, loader())
    plain = Classifier().network
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    downsampler = Downsampler(plain, SCHEDULE, 10, 32)
    for _ in range(2):
        for batch, labels in loader():
            with downsampler.step(batch) as step_images:
                F.cross_entropy(plain(step_images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(found, expected) for found, expected in zip(model.network.parameters(), plain.parameters(), strict=True))


def test_the_batches_of_an_optimizer_step_are_of_one_kind(tmp_path):
    model, callback = Itself(), DownsamplingCallback(SCHEDULE, 32)
    trainer(tmp_path, callback, accumulate_grad_batches=2).fit(model, loader())
    # Five batches an epoch make three optimizer steps, the third of one batch.
    assert model.trained_sides == [32, 32, 16, 16, 32, 16, 16, 32, 32, 16]
    assert callback.downsampler.steps_done == len(callback.downsampler.plan) == 6


def test_lightning_goes_on_from_its_own_checkpoint(tmp_path):
    undisturbed = Classifier()
    trainer(tmp_path, DownsamplingCallback(SCHEDULE, 32, "network")).fit(undisturbed, loader())

    class Stop(lightning.Callback):
        def on_train_epoch_end(self, stopped, module):
            stopped.save_checkpoint(tmp_path / "half.ckpt")
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(tmp_path, Stop(), DownsamplingCallback(SCHEDULE, 32, "network")).fit(Classifier(), loader())
    resumed = Classifier()
    trainer(tmp_path, DownsamplingCallback(SCHEDULE, 32, "network")).fit(resumed, loader(), ckpt_path=tmp_path / "half.ckpt")
    assert resumed.trained_sides == undisturbed.trained_sides[5:]
    assert all(torch.equal(mine, other) for mine, other in zip(resumed.network.parameters(), undisturbed.network.parameters(), strict=True))


def test_a_failed_fit_leaves_the_plain_network(tmp_path):
    class Failing(Classifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if batch_idx == 1:
                raise RuntimeError("in the middle of a reduced step")
            return loss

    model, callback = Failing(), DownsamplingCallback(SCHEDULE, 32, "network")
    with pytest.raises(RuntimeError, match="in the middle"):
        trainer(tmp_path, callback).fit(model, loader())
    assert callback.downsampler.steps_done == 1
    model.sides.clear()
    model.network(torch.randn(2, 3, 32, 32))
    assert [side for _, side in model.sides] == [32]


@pytest.mark.parametrize(
    ("network", "options", "sentence"),
    [
        ("net", {}, "network is 'net', it must be a module of the LightningModule, which has network"),
        (None, {}, "training_step did not call the LightningModule, the argument `network` must name what takes the images"),
        ("network", {"max_epochs": -1}, "the Trainer has neither max_epochs nor max_steps, one must be given"),
    ],
)
def test_what_lightning_users_get_wrong_is_one_sentence(tmp_path, network, options, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        trainer(tmp_path, DownsamplingCallback(SCHEDULE, 32, network), **options).fit(Classifier(), loader())


def test_images_of_another_side_are_refused(tmp_path):
    with pytest.raises(InputError, match="the shorter side of the images is 24 px, it must be full_px, which is 32"):
        trainer(tmp_path, DownsamplingCallback(SCHEDULE, 32, "network")).fit(Classifier(), DataLoader(images(side=24), 8))
