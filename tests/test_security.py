"""Files that strangers could have written run nothing: study files, schedules, checkpoints, and whatever else a module may read."""

from __future__ import annotations

import ast
import hashlib
import importlib
import io
import os
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from filled import TINY
from yaml import safe_dump

from studies.files import load_study
from trainers.checkpoint import newest_checkpoint
from trainers.errors import InputError
from trainers.places import RootPlace, checkpoint_name
from trainers.schedule import Schedule

ROOT = Path(__file__).parent.parent
PACKAGES = ("trainers", "studies", "tuner", "benchmarks")

# What a file must not have read back with it, and why the exceptions are none: both ends of that pipe are processes of one training.
UNSAFE = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads",
    "marshal.load", "shelve.open", "joblib.load", "pandas.read_pickle", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all",
    "yaml.full_load_all", "subprocess.getoutput", "subprocess.getstatusoutput",
}  # fmt: skip
# What another rank of the same training sends; and a fit that this user made, in a folder that is the user's alone.
ALLOWED = {("trainers.follower", "pickle.loads"), ("tuner.replay.cache", "pickle.loads")}


class UnsafeCalls(ast.NodeVisitor):
    """Calls that run what they read, by the full name of what is called. loader: the class that a name of the module stands for."""

    def __init__(self, source: str, loader=lambda name: None):
        self.found, self._names, self._loader = [], {}, loader
        self.visit(ast.parse(source))

    def visit_Import(self, node):
        self._names |= {alias.asname or alias.name.partition(".")[0]: alias.name if alias.asname else alias.name.partition(".")[0]
                        for alias in node.names}  # fmt: skip

    def visit_ImportFrom(self, node):
        self._names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def visit_Call(self, node):
        name = self._full_name(node.func)
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        checks = (
            name in UNSAFE,
            name == "torch.load" and getattr(keywords.get("weights_only"), "value", None) is not True,
            name == "numpy.load" and "allow_pickle" in keywords,
            name in ("yaml.load", "yaml.load_all") and not self._loads_safely(node, keywords),
            "shell" in keywords,
            name.startswith("subprocess.") and bool(node.args) and isinstance(node.args[0], ast.JoinedStr | ast.Constant | ast.BinOp),
        )
        if any(checks):
            self.found.append(name)
        self.generic_visit(node)

    def _loads_safely(self, node, keywords):
        loader = keywords.get("Loader", node.args[1] if len(node.args) > 1 else None)
        chosen = self._loader(loader.id) if isinstance(loader, ast.Name) else None
        return isinstance(chosen, type) and issubclass(chosen, yaml.SafeLoader)

    def _full_name(self, node):
        if isinstance(node, ast.Name):
            return self._names.get(node.id, node.id)
        return f"{self._full_name(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def modules():
    return sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=str)
def test_no_module_runs_what_it_reads(path):
    name = ".".join(path.with_suffix("").parts)
    found = UnsafeCalls((ROOT / path).read_text(), lambda loader: getattr(importlib.import_module(name), loader)).found
    assert [call for call in found if (name, call) not in ALLOWED] == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)", "exec(text)", "import os\nos.system('ls')", "import pickle as p\np.load(file)",
        "from pickle import loads\nloads(data)",
        "import torch\ntorch.load(path)", "import torch\ntorch.load(path, weights_only=False)", "import torch as t\nt.load(path, None)",
        "import yaml\nyaml.load(text, yaml.Loader)", "import yaml\nyaml.load(text, Loader=Unsafe)", "import yaml\nyaml.unsafe_load(text)",
        "import subprocess\nsubprocess.run(['ls'], shell=True)", "import subprocess\nsubprocess.run(f'ls {name}')",
        "from subprocess import run\nrun('ls ' + name)", "import numpy as np\nnp.load(path, allow_pickle=True)",
    ],
)  # fmt: skip
def test_unsafe_calls_are_found(source):
    assert len(UnsafeCalls(source, lambda name: yaml.UnsafeLoader).found) == 1


EVIL_YAML = ["!!python/object/apply:os.system ['touch {path}']", "!!python/object/new:os.system ['touch {path}']",
             "!!python/name:os.system ''", "!!python/module:os ''"]  # fmt: skip


@pytest.mark.parametrize("value", EVIL_YAML)
def test_files_and_overrides_build_no_objects(tmp_path, value):
    marker, file = tmp_path / "marker", tmp_path / "evil.yaml"
    evil = value.format(path=marker)
    (tmp_path / "tiny.yaml").write_text(safe_dump(TINY))
    for content in (evil, f"model: {evil}"):
        file.write_text(content)
        for read in (load_study, Schedule.load):
            with pytest.raises(InputError, match="not valid YAML"):
                read(str(file))
    with pytest.raises(InputError, match="model"):
        load_study(str(tmp_path / "tiny.yaml"), [f"model={evil}"])
    assert not marker.exists()


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("write", [saved, lambda content: pickle.dumps(content, protocol=2)], ids=["as torch does", "a bare pickle"])
def test_a_malicious_checkpoint_does_nothing(tmp_path, write):
    marker = tmp_path / "marker"
    place = RootPlace(str(tmp_path / "root-00000"))
    data = write({"model": Evil(marker)})
    # Its checksum is right: whoever can write there can count that, too.
    place.write(1, checkpoint_name(1), data + hashlib.sha256(data).digest())
    with pytest.warns(UserWarning, match=r"can't be read.*(Weights only|Unsupported|GLOBAL)"):
        assert newest_checkpoint(place) is None
    assert not marker.exists()
