"""What the README shows works as it is written there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from trainers import Schedule
from trainers.models import build_model

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TUNER = Path(sys.executable).parent / "tuner"


def test_the_three_lines_train_with_a_schedule_file(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Schedule(frequency=0.5, kernel="pooled", batch_norm="separate").save("schedule.yaml")
    torch.manual_seed(0)
    model = build_model("cifar_resnet8", 10, 32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sides = []
    model.register_forward_hook(lambda module, inputs, output: sides.append(inputs[0].shape[-1]))
    loader = [(torch.randn(4, 3, 32, 32), torch.randint(10, (4,))) for _ in range(3)]
    names = {"model": model, "epochs": 2, "loader": loader, "criterion": nn.CrossEntropyLoss()}
    exec(block, names | {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1)})
    # After n steps floor(n / 2) are reduced: every second one.
    assert sides == [32, 16, 32, 16, 32, 16]
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in before)


def shown_commands():
    return sorted(set(re.findall(r"^ {4}(tuner [a-z].*?)(?: +#.*)?$", README, re.MULTILINE)))


def test_the_readme_shows_the_whole_path():
    assert {command.split()[1] for command in shown_commands()} == {
        "launch", "status", "export", "report", "best", "confirm", "train", "dashboard", "cost", "doctor", "check",
        "studies", "init", "compare", "track", "logs",
    }  # fmt: skip


@pytest.mark.parametrize("command", shown_commands())
def test_every_option_shown_is_one_the_command_has(command):
    _, name, *rest = command.split()
    shown = subprocess.run([TUNER, name, "--help"], capture_output=True, text=True, check=True, env={"COLUMNS": "200"}).stdout
    for word in rest:
        if word.startswith("--"):
            assert word in shown


def test_the_demos_study_is_found_by_the_line_that_all_of_them_show():
    makefile, tutorial = ((ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "docs/tutorial.md"))
    (said,) = re.findall(r'@echo " {4}(export TUNER_STORAGE=\S+)"', makefile)
    searched = set(re.findall(r"--storage (\S+)", makefile))
    assert {said.partition("=")[2]} == searched
    assert f"\n    {said} " in README
    assert f"\n    {said}\n" in tutorial


def test_every_link_leads_to_a_file():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
