"""What the documentation shows works as it is written there: every command, every block of Python, every key."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from filled import confirm_filled, filled_store
from PIL import Image
from torch import nn
from typer import TyperException
from typer.main import get_command

from trainers import Downsampler, Schedule
from trainers.config import DataConfig
from trainers.errors import InputError, RunError
from trainers.models import build_model
from tuner.cli import app
from tuner.launching import node_checks
from tuner.storage.opening import open_storage

ROOT = Path(__file__).parent.parent
SOURCES = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "trainers").rglob("*.md")]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in [*SOURCES, ROOT / "README.md"]}
# What make demo says at its end is a page, too.
PAGES["Makefile"] = "\n".join(re.findall(r'@echo "(.*)"', (ROOT / "Makefile").read_text(encoding="utf-8")))

# Commands that are tried here, on a study that was told its trials; of launches those that start nothing.
RUN = (
    r"tuner (--help|status|export|best|report|compare|check|studies|init|stop|track \w+ tensorboard(?!.*--follow)|"
    r"launch .*--(dry-run|help)\b)"
)
# Commands that train, wait, or need a server, another machine or a package of others. Tests of their own try each; here they are parsed.
PARSED = r"tuner (launch|confirm|train|cost|doctor|dashboard|logs|track)\b"
# Likewise: tests/test_examples.py runs the examples, and benchmarks have tests of their own. They take long.
SCRIPTS = r"python (docs/examples/\w+\.py|-m benchmarks\.\w+)"
# Blocks that need what only their page's reader has.
NOT_SELF_CONTAINED = {"docs/loader.md"}


def shell_lines(text):
    """The lines of a page's blocks that are not Python or YAML, without their comments."""
    text = re.sub(r"^```(?:python|yaml)\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    fenced = [line for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
    lines = [*fenced, *re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE)]
    return [re.sub(r" +#.*", "", line.strip()) for line in lines]


def commands_of(page):
    """Commands of tuner, python and make in the page's order, without variables that are set for them."""
    bare = [re.sub(r"^(?:[A-Z_]+=\S+ +)+", "", line) for line in shell_lines(PAGES[page])]
    return [line.replace("STUDY", "digits") for line in bare if re.match(r"(tuner|python3?|make)\b", line)]


WITH_COMMANDS = sorted(page for page in PAGES if commands_of(page))


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A database with two studies of twelve told trials, `digits`, confirmed on three seeds, and `mine`."""
    path = tmp_path_factory.mktemp("told") / "tuner.db"
    store = filled_store(open_storage(f"sqlite:///{path}"), 12, name="digits", budget={"trials": 12})
    confirm_filled(store, 3)
    filled_store(store.storage, 12, name="mine")
    store.storage.engine.dispose()
    return path


@pytest.fixture
def folder(told, tmp_path, monkeypatch):
    """A current folder as the pages' reader has one: the told studies, some schedules, images, and the module of howto/own-model.md.

    On a machine with as many cores as a trial with a GPU takes.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(node_checks, "available_cores", lambda: range(64))
    monkeypatch.setattr(node_checks, "_LOAD_S", 0.01)
    for name in ("cat", "dog"):
        path = tmp_path / "my-images" / "train" / name / "1.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(path)
    monkeypatch.setenv("TUNER_STORAGE", f"sqlite:///{shutil.copy(told, tmp_path / 'told.db')}")
    for name, frequency in (("schedule", 0.5), ("first", 0.25), ("second", 1.0)):
        Schedule(frequency=frequency).save(f"{name}.yaml")
    (block,) = re.findall(r"```python\n(.*?)```", PAGES["docs/howto/own-model.md"], re.DOTALL)
    Path("my_networks.py").write_text(block, encoding="utf-8")
    return tmp_path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_work_as_they_are_shown(page, folder, capsys):
    for command in commands_of(page):
        words = shlex.split(command)
        if re.match(RUN, command):
            with pytest.raises(RunError, match=r"imagenet/train' can't be read") if "launch imagenet" in command else nullcontext():
                app(words[1:], standalone_mode=False)
            assert capsys.readouterr().out, command
        elif re.match(PARSED, command):
            parsed(words)
        elif re.match(SCRIPTS, command):
            check_script(words)
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), command
        else:
            pytest.fail(f"nobody tries this command: {command}")


def parsed(words):
    """Fails where the command has no such option, misses an argument, or one has the wrong type."""
    group = get_command(app)
    context = group.make_context("tuner", ["status"])
    group.get_command(context, words[1]).make_context(words[1], words[2:], parent=context)


def check_script(words):
    """The file is there, and its options are declared in a file of its folder."""
    path = ROOT / (f"{words[2].replace('.', '/')}.py" if words[1] == "-m" else words[1])
    assert path.exists(), path
    declared = "".join(file.read_text(encoding="utf-8") for file in path.parent.glob("*.py"))
    for option in (word for word in words if word.startswith("--")):
        assert f'"{option}"' in declared, (path.name, option)


@pytest.mark.parametrize(
    ("command", "error", "words"),
    [
        ("tuner launch digits --tirals 3", TyperException, "--tirals"),
        ("tuner train --trial seven", TyperException, "valid integer"),
        ("tuner export digits --format jpeg", InputError, "jpeg"),
        ("tuner delete digits --yes", pytest.fail.Exception, "nobody tries"),
        ("python script.py", pytest.fail.Exception, "nobody tries"),
        ("python -m benchmarks.steps --nope", AssertionError, "--nope"),
        ("python -m benchmarks.nope", AssertionError, "nope"),
    ],
)
def test_a_wrong_command_is_found(command, error, words, folder, monkeypatch, capsys):
    monkeypatch.setitem(PAGES, "page", f"Text.\n\n    A=1 {command}    # a comment\n")
    with pytest.raises(error, match=words):
        test_commands_work_as_they_are_shown("page", folder, capsys)


def python_blocks():
    return [
        (page, block)
        for page, text in sorted(PAGES.items())
        for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]


@pytest.mark.parametrize(("page", "block"), python_blocks(), ids=lambda value: value[:40])
def test_python_blocks_run(page, block, folder):
    if page in NOT_SELF_CONTAINED:
        compile(block, page, "exec")
        return
    torch.manual_seed(0)
    side_px = int((re.findall(r"full_px=(\d+)", block) or ["32"])[0])
    model = build_model("cifar_resnet8", 10, side_px)
    batch = (torch.randn(2, 3, side_px, side_px), torch.tensor([1, 2]))
    names = {
        "model": model,
        "epochs": 1,
        "loader": [batch, batch],
        "images": batch[0],
        "labels": batch[1],
        "criterion": nn.CrossEntropyLoss(),
    }
    classes = {"Downsampler": Downsampler, "Schedule": Schedule}
    shown = names | classes | {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    before = [parameter.clone() for parameter in model.parameters()]
    exec(block, shown)
    if "downsampler.step(" in block:
        # It trained, and in steps of the schedule: two batches an epoch, or the one batch of a block without a loop.
        assert shown["downsampler"].steps_done == (2 if "in loader" in block else 1)
        changed = any(not torch.equal(parameter, former) for parameter, former in zip(model.parameters(), before, strict=True))
        assert changed if "optimizer.step()" in block else all(parameter.grad is not None for parameter in model.parameters())
    if "frame" in block:
        assert len(shown["frame"]) > 0


def test_the_shown_network_is_built_and_takes_smaller_sides(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    network = build_model("my_networks:small", 7, 32)
    Downsampler(network, Schedule(frequency=1.0, kernel="pooled"), total_steps=4, full_px=32)
    assert network(torch.randn(2, 3, 20, 20)).shape == (2, 7)


def test_the_shown_keys_of_a_folder_are_keys():
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGES["docs/howto/own-data.md"], re.DOTALL)
    assert DataConfig(**yaml.safe_load(block)["dataset"]).full_px == 224
