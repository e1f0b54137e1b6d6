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
from trainers.config import DATASET_SIDE_PX, DataConfig
from trainers.errors import InputError
from trainers.image_sizes import FolderImages

# The explained file, whose comments are the one source of what a key means.
_EXPLAINED: Final = "digits"
DATASETS: Final = (*DATASET_SIDE_PX, "folder")
# Of an image folder, unless its images are smaller: what most networks for photographs are trained at.
FOLDER_SIDE_PX: Final = 224
# Our own choices: an epoch of fewer steps is a bad unit for schedules and learning-rate curves, and batch norm needs a few images.
_ENOUGH_STEPS: Final = 20
_SMALLEST_BATCH: Final = 8
# Side 224 has sides in steps of 32: seven of them. Smaller ones get as many where they can.
_SIDE_STEPS: Final = 7

_KEY = re.compile(r"(?P<indent> *)(?P<key>[a-z_]+):(?: +(?P<value>[^#\s].*?))?(?P<comment> +#.*)?")


def study_text(*, name: str, model: str, dataset: str, root: str, gpus: float, found: FolderImages | None = None) -> str:
    """A study file for these: every key with its explanation, as a built-in study of the same kind of images has them.

    root: folder of the images. gpus: of one trial, 0 for the CPU. found: what an image folder holds; side, batch and learning rates are
    fitted to it. InputError where one of them breaks a rule of study files.
    """
    check_study_name("name", name)
    check_model("model", model)
    check_name("dataset", dataset, DATASETS)
    check_folder("dataset.root", root)
    content = _content(dataset, gpus) | {"name": name, "model": model}
    content["dataset"] = _dataset(content["dataset"], dataset, root)
    if found is not None and dataset == "folder":
        _fit(content, found)
    content["resources"] = content.get("resources", {}) | {"gpus": gpus} | ({} if gpus else {"cpus": 1})
    content["training"] |= _training(content["training"], gpus)
    images = f"the images in {root}" if dataset == "folder" else dataset
    text = "\n".join([f"# {model} on {images}. Every key is explained at its place.", "", *_edited(_body(), content), ""])
    StudySpec.from_json_dict(parse_yaml(text))
    return text


def fitting_side(shorter_px: int) -> int:
    """The full side for images of this shorter side: a multiple of 4, nothing enlarged, at most FOLDER_SIDE_PX. Our own choice."""
    return max(4, min(FOLDER_SIDE_PX, shorter_px // 4 * 4))


def fitting_batch(images: int, batch_size: int) -> int:
    """`batch_size`, halved until an epoch of so many images has enough steps. Our own choice."""
    while images // batch_size < _ENOUGH_STEPS and batch_size // 2 >= _SMALLEST_BATCH:
        batch_size //= 2
    return batch_size


def _fit(content: dict[str, Any], found: FolderImages) -> None:
    """Sets what depends on how many images there are, and how large.

    Learning rates are scaled with the batch: Goyal et al. 2017 (arXiv 1706.02677), section 2.1.
    """
    search, training = dict(content["search"]), dict(content["training"])
    if found.shorter_px is not None:
        side_px = fitting_side(found.shorter_px)
        content["dataset"] |= {"side_px": side_px}
        search["side_multiple"] = next((step for step in (32, 16, 8) if step * _SIDE_STEPS <= side_px), 4)
    batch_size = fitting_batch(found.trained_on(DataConfig(**content["dataset"])), training["batch_size"])
    share = batch_size / training["batch_size"]
    training |= {"batch_size": batch_size, "lr": _rounded(training["lr"] * share)}
    search["lr"] = search["lr"] | {end: _rounded(search["lr"][end] * share) for end in ("low", "high")}
    content |= {"search": search, "training": training}


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


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
