"""What somebody meets who has just installed this: the list of built-in studies, and a study file of their own."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from studies import builtin_names, load_study
from studies.files import builtin_text
from studies.spec import SECTIONS, StudySpec
from studies.template import DATASETS, study_text
from trainers.bounded_yaml import parse_yaml
from trainers.config import DataConfig
from trainers.errors import InputError
from trainers.image_sizes import FolderImages
from tuner.cli import app

TUNER = Path(sys.executable).parent / "tuner"
FLAGS = ["--model", "resnet50", "--dataset", "cifar10", "--gpus", "0"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tuner(*arguments):
    app(list(map(str, arguments)), standalone_mode=False)


def text_of(**changes):
    return study_text(**{"name": "mine", "model": "cifar_resnet8", "dataset": "cifar10", "root": "data", "gpus": 0} | changes)


# tuner studies


def test_every_builtin_study_has_a_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    tuner("studies")
    shown = capsys.readouterr().out
    for name in builtin_names():
        assert f"{name} " in shown
        assert load_study(name).model in shown
    assert "The demo: real digit scans on a 32 x 32 canvas" in shown
    assert shown.splitlines()[-1].endswith("tuner init")


def test_the_list_as_json_says_what_each_needs(capsys):
    tuner("studies", "--json")
    found = {one["study"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(found) == builtin_names()
    assert (found["digits"]["folder"], found["digits"]["gpus"]) == (None, 0)
    assert (found["imagenet-resnet50"]["folder"], found["imagenet-resnet50"]["gpus"]) == ("imagenet", 1)
    assert "imagenet/train/<class>/" in found["imagenet-resnet50"]["needs"]
    for name, one in found.items():
        # What a reader of the file sees first.
        assert builtin_text(name).startswith(f"# {one['purpose']}")
        assert len(one["purpose"]) > 20


# The file that tuner init writes


@pytest.mark.parametrize("gpus", [0, 0.5, 1, 3])
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_written_file_is_a_study_of_what_was_asked_for(dataset, gpus, folder):
    (folder / "mine.yaml").write_text(text_of(model="mine:make", dataset=dataset, root="my: photos #1", gpus=gpus))
    spec = load_study("mine.yaml")
    assert (spec.name, spec.model, spec.dataset.name, spec.resources.gpus) == ("mine", "mine:make", dataset, gpus)
    assert dataset == "digits" or spec.dataset.root == "my: photos #1"
    # bf16 is refused on a CPU, and the ranks of a trial share each batch equally.
    assert gpus or spec.training.precision == "fp32"
    assert spec.training.batch_size % max(1, int(gpus)) == 0


def keys_of(text):
    content = parse_yaml(text)
    return {"": set(content)} | {key: set(value) for key, value in content.items() if isinstance(value, dict)}


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_key_of_the_model_is_in_it_and_explained(dataset):
    text = text_of(dataset=dataset)
    keys = keys_of(text)
    assert keys[""] == set(StudySpec.model_fields)
    for section in ("training", "search", "budget", "resources", "checkpoints"):
        assert keys[section] == set(SECTIONS[section])
    assert all(field.name in text for field in dataclasses.fields(DataConfig))


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_explanations_are_those_of_the_explained_file(dataset):
    def comments(text):
        return [line.partition("# ")[2] for line in text.partition("\n\n")[2].splitlines() if "# " in line]

    assert comments(text_of(dataset=dataset, root="somewhere")) == comments(builtin_text("digits"))


def test_the_values_are_those_of_the_builtin_study_of_the_same_kind():
    def meaning(content):
        return content | {"name": "", "dataset": None}

    own = StudySpec.from_json_dict(parse_yaml(text_of(model="resnet50", dataset="folder", root="photos", gpus=1))).to_json_dict()
    assert meaning(own) == meaning(load_study("imagenet-resnet50").to_json_dict())
    # A folder may hold fewer images than the 50,000 that ImageNet's study validates with.
    assert own["dataset"]["val_images"] is None
    digits = StudySpec.from_json_dict(parse_yaml(text_of(dataset="digits")))
    assert digits.to_json_dict() | {"name": "digits"} == load_study("digits").to_json_dict()


def test_nothing_gets_into_the_file_beside_what_was_asked_for():
    with pytest.raises(InputError, match=r"dataset\.root is 'x.nstorage: sqlite:///y', it must be the path of a folder"):
        text_of(dataset="folder", root="x\nstorage: sqlite:///y")
    with pytest.raises(InputError, match="model is"):
        text_of(model="a\n# b")
    with pytest.raises(InputError, match="name is 'my study', it must be"):
        text_of(name="my study")


# tuner init


def test_it_writes_the_file_and_says_the_next_command(capsys, folder):
    tuner("init", *FLAGS)
    assert capsys.readouterr().out.splitlines() == [
        "wrote resnet50-cifar10.yaml, which explains every key",
        "next: tuner launch resnet50-cifar10.yaml --dry-run",
    ]
    assert load_study("resnet50-cifar10.yaml").name == "resnet50-cifar10"
    tuner("launch", "resnet50-cifar10.yaml", "--dry-run")
    assert "resnet50 on cifar10" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["resnet50-cifar10.yaml"]


def test_the_name_says_the_network_and_the_folder_of_the_images(capsys):
    flags = ["--dataset", "folder", "--data-root", "../my photos", "--gpus", "1"]
    tuner("init", "--model", "nets.small:make", *flags)
    shown = capsys.readouterr().out
    assert load_study("nets.small.make-my-photos.yaml").dataset.root == "../my photos"
    assert "'../my photos/train/<class>/'" not in shown
    assert "../my photos/train/<class>/, which is not there yet" in shown
    tuner("init", "--model", "resnet18", *flags, "--name", "first", "--out", "deep er/a b.yaml")
    assert load_study("deep er/a b.yaml").name == "first"
    assert capsys.readouterr().out.splitlines()[-1] == "next: tuner launch 'deep er/a b.yaml' --dry-run"


def test_it_looks_at_the_images_and_fits_the_sizes_to_them(folder, capsys):
    (folder / "48.png").parent.mkdir(exist_ok=True)
    Image.new("RGB", (60, 48)).save(folder / "48.png")
    for number in range(450):
        path = folder / "pictures" / "train" / f"class{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((folder / "48.png").read_bytes())
    tuner("init", "--model", "resnet18", "--dataset", "folder", "--data-root", "pictures", "--gpus", "0", "--name", "mine")
    # A tenth is for validation; 405 images in batches of 16 are the first power of two with 20 steps.
    assert capsys.readouterr().out.splitlines()[1] == (
        "pictures/train holds 450 images of 3 classes, about 48 px on the shorter side; "
        "therefore side_px 48, batch_size 16 (25 steps an epoch), lr 0.031"
    )
    spec = load_study("mine.yaml")
    assert (spec.dataset.full_px, spec.training.batch_size, spec.training.lr) == (48, 16, 0.031)
    # The range of the built-in study, 0.1 to 2, at a sixteenth.
    assert (spec.search["lr"].low, spec.search["lr"].high) == (pytest.approx(0.1 / 16, rel=0.05), pytest.approx(2 / 16, rel=0.05))
    # 48 px in sevenths are below 8.
    assert spec.search["side_multiple"].canonical == 4


def test_large_images_and_many_of_them_change_nothing():
    plenty = FolderImages(Path("photos"), classes=1000, images=20_000, more=True, shorter_px=375)
    assert text_of(dataset="folder", gpus=1, found=plenty) == text_of(dataset="folder", gpus=1)
    # Of sides in between some are still steps of a few pixels that divide the network's.
    medium = FolderImages(Path("photos"), classes=10, images=20_000, more=True, shorter_px=120)
    spec = StudySpec.from_json_dict(parse_yaml(text_of(dataset="folder", gpus=1, found=medium)))
    assert (spec.dataset.full_px, spec.search["side_multiple"].canonical) == (120, 16)


def test_a_file_that_is_there_stays(folder):
    (folder / "resnet50-cifar10.yaml").write_text("mine")
    (folder / "resnet50-cifar10-2.yaml").write_text("mine too")
    with pytest.raises(InputError, match=r"give --out resnet50-cifar10-3\.yaml, or --force"):
        tuner("init", *FLAGS)
    assert (folder / "resnet50-cifar10.yaml").read_text() == "mine"
    tuner("init", *FLAGS, "--force")
    assert load_study("resnet50-cifar10.yaml").model == "resnet50"


BAD = [
    (["--model", "resnet500"], "model is 'resnet500'", "nearest valid name is 'resnet50'"),
    (["--model", "cifar_resnet9"], "model is 'cifar_resnet9'", "'cifar_resnet"),
    (["--dataset", "cifar"], "--dataset is 'cifar'", "'cifar10'"),
    (["--gpus", "-1"], "--gpus is -1.0", "at least 0"),
    (["--gpus", "1.5"], "--gpus is 1.5", "whole number"),
    (["--name", "my study"], "name is 'my study'", "80 letters"),
    (["--out", "."], "--out is '.'", "not of a folder"),
    (["--out", "file/x.yaml"], "'file/x.yaml' cannot be written", ""),
    (["--dataset", "folder", "--gpus", "0"], "needs --data-root where no terminal", "tuner init --model"),
]


@pytest.mark.parametrize(("flags", "rule", "way_out"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_is_one_sentence(flags, rule, way_out, folder, monkeypatch):
    (folder / "file").write_text("")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(InputError) as refused:
        tuner("init", *FLAGS, *flags)
    assert rule in str(refused.value)
    assert way_out in str(refused.value)
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_without_a_terminal_missing_flags_are_one_sentence_and_exit_code_2(folder):
    refused = subprocess.run([TUNER, "init", "--dataset", "digits"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    (sentence,) = refused.stderr.splitlines()
    assert "needs --model, --gpus where no terminal is there" in sentence
    assert list(folder.iterdir()) == []


def test_in_a_terminal_it_asks_three_questions_and_again_after_a_wrong_answer(folder):
    ours, theirs = pty.openpty()
    asking = subprocess.Popen([TUNER, "init"], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    os.close(theirs)
    with asking:
        os.write(ours, b"cifar_resnet8\ncifra10\ncifar10\n0\n")
        shown = asking.communicate(timeout=60)[0]
    os.close(ours)
    assert asking.returncode == 0
    assert shown.count("Network: ") == 1
    assert shown.count("Images: ") == 2
    assert "dataset is 'cifra10'" in shown
    assert "nearest valid name is 'cifar10'" in shown
    assert shown.count("GPUs that one trial gets") == 1
    assert load_study("cifar_resnet8-cifar10.yaml").dataset.name == "cifar10"


def test_no_answer_writes_nothing(folder, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: (_ for _ in ()).throw(EOFError))
    with pytest.raises(InputError, match="got no answer"):
        tuner("init")
    assert list(folder.iterdir()) == []


def test_known_names_and_factories_need_no_torch():
    script = (
        "import sys\nfrom tuner.commands.init import check_model_name\n"
        "for name in ('cifar_resnet8', 'resnet50', 'nets:make'): check_model_name(name)\n"
        "print([name for name in ('torch', 'ray', 'optuna') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    assert found.stdout.strip() == "[]"
