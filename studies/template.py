"""Writes a study file for somebody's own network and images: the text of digits.yaml, which explains every key, with values replaced."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from studies.files import builtin_text
from studies.rules import check_folder, check_model, check_study_name
from studies.spec import SECTIONS, StudySpec
from trainers.bounded_yaml import parse_yaml
from trainers.checks import check_name
from trainers.config import DATASET_SIDE_PX
from trainers.errors import InputError

# The explained file, whose comments are the one source of what a key means.
_EXPLAINED: Final = "digits"
DATASETS: Final = (*DATASET_SIDE_PX, "folder")
# Of an image folder, whose own sides nobody has looked at: what most networks for photographs are trained at.
FOLDER_SIDE_PX: Final = 224

_KEY = re.compile(r"(?P<indent> *)(?P<key>[a-z_]+):(?: +(?P<value>[^#\s].*?))?(?P<comment> +#.*)?")


def study_text(*, name: str, model: str, dataset: str, root: str, gpus: float) -> str:
    """A study file for these: every key with its explanation, as a built-in study of the same kind of images has them.

    root: folder of the images. gpus: of one trial, 0 for the CPU. InputError where one of them breaks a rule of study files.
    """
    check_study_name("name", name)
    check_model("model", model)
    check_name("dataset", dataset, DATASETS)
    check_folder("dataset.root", root)
    content = _content(dataset, gpus) | {"name": name, "model": model}
    content["dataset"] = _dataset(content["dataset"], dataset, root)
    content["resources"] = content.get("resources", {}) | {"gpus": gpus} | ({} if gpus else {"cpus": 1})
    content["training"] |= _training(content["training"], gpus)
    images = f"the images in {root}" if dataset == "folder" else dataset
    text = "\n".join([f"# {model} on {images}. Every key is explained at its place.", "", *_edited(_body(), content), ""])
    StudySpec.from_json_dict(parse_yaml(text))
    return text


def _content(dataset: str, gpus: float) -> dict[str, Any]:
    """The built-in study of the same kind: its search space and training fit such images."""
    if dataset == "digits":
        kind = _EXPLAINED
    elif dataset == "folder":
        kind = "imagenet-resnet50"
    else:
        kind = "cifar10-resnet18" if gpus else "cifar10"
    content: dict[str, Any] = parse_yaml(builtin_text(kind))
    return content


def _dataset(kind: Mapping[str, Any], dataset: str, root: str) -> dict[str, Any]:
    own: dict[str, Any] = {"name": dataset} if dataset == _EXPLAINED else {"name": dataset, "root": root}
    if dataset == "folder":
        # How many images there are is not known here: null takes a tenth.
        own |= {"side_px": FOLDER_SIDE_PX, "val_images": None}
    return {**kind, **own}


def _training(training: Mapping[str, Any], gpus: float) -> dict[str, Any]:
    """What has to change for these devices: bf16 is for CUDA, and GPUs share a batch equally."""
    ranks, batch = max(1, int(gpus)), training["batch_size"]
    precision = training.get("precision", "fp32") if gpus else "fp32"
    return {"precision": precision, "batch_size": max(1, round(batch / ranks)) * ranks}


def _body() -> list[str]:
    """The explained file without its header, which says what that file itself is for."""
    return builtin_text(_EXPLAINED).partition("\n\n")[2].splitlines()


def _edited(lines: list[str], content: Mapping[str, Any]) -> Iterator[str]:
    """The lines with the values of `content`, comments kept. Keys of a section that the lines lack follow its first one."""
    section, missing = "", dict[str, Any]()
    for line in lines:
        match = _KEY.fullmatch(line)
        if match is None:
            yield line
        elif match["value"] is None:
            section, missing = match["key"], _missing(lines, match["key"], content)
            yield line
        else:
            yield _with_value(match, content[section] if match["indent"] and section in content else content)
            yield from (f"  {key}: {_flow(value)}" for key, value in missing.items() if match["indent"])
            missing = missing if not match["indent"] else {}


def _missing(lines: list[str], section: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """What `content` has of a section and the lines don't."""
    start = lines.index(f"{section}:") + 1
    block = itertools.takewhile(lambda line: line.startswith(" "), lines[start:])
    known = {match["key"] for match in map(_KEY.fullmatch, block) if match}
    own = content.get(section, {})
    return {key: own[key] for key in SECTIONS[section] if key in own and key not in known}


def _with_value(match: re.Match[str], content: Mapping[str, Any]) -> str:
    key = match["key"]
    if key not in content or parse_yaml(match["value"]) == content[key]:
        return match[0]
    return f"{match['indent']}{key}: {_flow(content[key])}{match['comment'] or ''}"


def _flow(value: object) -> str:
    """One line of YAML that is read back equal."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("\n").removesuffix("\n...")
    if parse_yaml(text) != value:
        raise InputError(f"{value!r} can't be written into a study file")
    return text
