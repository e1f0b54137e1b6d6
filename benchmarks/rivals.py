"""Composer's and Lightning's trainers against the hand-written loop, each in a throw-away environment that has its package.

`python -m benchmarks.rivals NAME ...` is what runs in there: the loop's epochs are timed in the trainer's own end-of-epoch hook, so that
both run in turn in one process, on the same network, batches, optimizer and learning rates.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.pairs import WARM_UP, noise_config, plain_loop, seconds_of, summary
from benchmarks.plain import PlainLoop, build_optimizer
from trainers.config import TrainConfig
from trainers.models import build_training_model

RIVALS: Final = {"composer": "mosaicml", "lightning": "lightning"}
# What `trainers` needs.
_NEEDED: Final = ("torch", "torchvision", "numpy", "pyyaml", "scikit-learn", "pillow")
_PASSED_ON: Final = ("device", "model", "side", "batch", "steps", "pairs", "precision", "threads")


def measure_in_own_environment(name: str, arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Step rate of a rival's trainer over the hand-written loop's in that environment, or why it was not measured."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent.parent / "uv" / "bin"))
    if uv is None:
        return {"not_measured": "uv, which makes the environment, is not installed"}
    with tempfile.TemporaryDirectory() as folder:
        python = str(Path(folder) / "bin" / "python")
        say(f"installing {RIVALS[name]}")
        options = [f"--{option}={getattr(arguments, option)}" for option in _PASSED_ON]
        commands = (
            [uv, "venv", "--no-config", "--quiet", "--clear", "--python", sys.executable, folder],
            # Our own pins are none of the rival's business, and would make its newest version uninstallable.
            [uv, "pip", "install", "--no-config", "--quiet", "--python", python, RIVALS[name], *_NEEDED],
            [python, "-m", "benchmarks.rivals", name, *options],
        )
        for command in commands:
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                lines = done.stderr.strip().splitlines()
                return {"not_measured": f"{Path(command[0]).name} {command[1]} failed", "last_lines": lines[-5:]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class _Batches:
    """One epoch of the hand-written loop's batches at each iteration, so that both sides are fed alike."""

    def __init__(self, plain: PlainLoop) -> None:
        self._plain = plain
        # Composer asks for it.
        self.batch_size = plain.config.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._plain.batches()

    def __len__(self) -> int:
        return self._plain.steps


class _Turns:
    """Takes the time of the rival's epochs, and gives the hand-written loop its turn after each."""

    def __init__(self, plain: PlainLoop) -> None:
        self._plain = plain
        self.rival_s: list[float] = []
        self.plain_s: list[float] = []

    def begin(self) -> None:
        self._started = time.perf_counter()

    def end(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.rival_s.append(time.perf_counter() - self._started)
        self.plain_s.append(seconds_of(self._plain.epoch))


def _lightning(config: TrainConfig, plain: PlainLoop, turns: _Turns) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = build_training_model(config, 10, torch.device("cpu"))

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = build_optimizer(config, self.model)
            curve = OneCycleLR(optimizer, config.lr, total_steps=config.epochs * plain.steps, cycle_momentum=False)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": curve, "interval": "step"}}

    class Hook(lightning.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            turns.begin()

        def on_train_epoch_end(self, *_: Any) -> None:
            turns.end()

    trainer = lightning.Trainer(
        max_epochs=config.epochs,
        accelerator="gpu" if plain.labels.is_cuda else "cpu",
        devices=1,
        precision="bf16-mixed" if plain.bf16 else "32-true",
        callbacks=[Hook()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Module()
    if plain.labels.is_cuda:
        module = module.to(memory_format=torch.channels_last)
    trainer.fit(module, _Batches(plain))


def _composer(config: TrainConfig, plain: PlainLoop, turns: _Turns) -> None:
    import composer

    class Model(composer.ComposerModel):
        def __init__(self) -> None:
            super().__init__()
            self.model = build_training_model(config, 10, plain.labels.device)

        def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return self.model(batch[0])

        def loss(self, outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(outputs, batch[1])

    model = Model()
    optimizer = build_optimizer(config, model)
    curve = OneCycleLR(optimizer, config.lr, total_steps=config.epochs * plain.steps, cycle_momentum=False)

    class Hook(composer.Callback):
        def epoch_start(self, *_: Any) -> None:
            turns.begin()

        def batch_end(self, *_: Any) -> None:
            curve.step()

        def epoch_end(self, *_: Any) -> None:
            turns.end()

    trainer = composer.Trainer(
        model=model,
        train_dataloader=_Batches(plain),
        max_duration=f"{config.epochs}ep",
        optimizers=optimizer,
        device="gpu" if plain.labels.is_cuda else "cpu",
        precision="amp_bf16" if plain.bf16 else "fp32",
        callbacks=[Hook()],
        progress_bar=False,
        log_to_console=False,
    )
    trainer.fit()


def main() -> None:
    """Runs inside the rival's environment and prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=tuple(RIVALS))
    for option in _PASSED_ON:
        parser.add_argument(f"--{option}", type=str if option in ("device", "model", "precision") else int, required=True)
    arguments = parser.parse_args()
    with noise_config(arguments) as config:
        plain = plain_loop(config)
        turns = _Turns(plain)
        {"composer": _composer, "lightning": _lightning}[arguments.name](config, plain, turns)
    found = summary(turns.rival_s[WARM_UP:], turns.plain_s[WARM_UP:], plain.steps)
    versions = {package: importlib.metadata.version(package) for package in (RIVALS[arguments.name], "torch")}
    print(json.dumps({"versions": versions, **found}))


if __name__ == "__main__":
    main()
