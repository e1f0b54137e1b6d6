"""`tuner studies` and `tuner init`: what somebody meets who has just installed this, the built-in studies and a study file of their own."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from studies.files import builtin_names, builtin_purpose, load_study
from studies.rules import check_folder, check_gpus, check_model
from studies.spec import StudySpec
from studies.template import DATASETS, study_text
from trainers.bounded_yaml import parse_yaml
from trainers.checks import check_name
from trainers.errors import InputError, nearest_name
from trainers.image_sizes import FolderImages, look_at_images
from trainers.wording import one_line, shown
from tuner.commands.usage import check_out_file
from tuner.results.describe import printable

T = TypeVar("T")
_EXAMPLE: Final = "tuner init --model resnet18 --dataset cifar10 --gpus 0"


def show_studies(as_json: bool) -> None:
    """`tuner studies`."""
    found = [_described(name, load_study(name)) for name in builtin_names()]
    if as_json:
        print(json.dumps(found, indent=2, allow_nan=False))
        return
    # Two columns: five would be torn to pieces in a narrow terminal.
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for one in found:
        table.add_row(Text(one["study"], style="bold"), Text(one["purpose"]))
        table.add_row("", Text(f"{one['model']} on {one['images']}, {one['trials']} trials; needs: {one['needs']}", style="dim"))
    console = Console()
    console.print(table)
    console.print(Text("Look at one: tuner launch STUDY --dry-run. Your own network and images: tuner init"), soft_wrap=True)


def _described(name: str, spec: StudySpec) -> dict[str, Any]:
    data, gpus = spec.dataset, spec.resources.gpus
    device = f"{gpus:g} GPU a trial" if gpus else "a CPU"
    if data.name == "digits":
        folder, files = None, "its images come with the package"
    elif data.name == "folder":
        folder, files = data.root, f"images in {data.root}/train/<class>/"
    else:
        folder, files = data.root, f"images in {data.root}/, else they are downloaded there"
    images = f"image folder, {data.full_px} px" if data.name == "folder" else data.name
    return {
        "study": name,
        "purpose": builtin_purpose(name),
        "model": spec.model,
        "dataset": data.name,
        "images": images,
        "gpus": gpus,
        "folder": folder,
        "needs": f"{device}; {files}",
        "trials": spec.budget.trials,
    }


def write_study_file(
    model: str | None, dataset: str | None, root: str | None, gpus: float | None, name: str | None, out: str | None, *, force: bool
) -> None:
    """`tuner init`: asks for what is not given where somebody can answer."""
    check_out_file(out)
    if model is not None:
        check_model_name(model)
    if dataset is not None:
        check_name("--dataset", dataset, DATASETS)
    if gpus is not None:
        check_gpus("--gpus", gpus)
    missing = [flag for flag, value in {"--model": model, "--dataset": dataset, "--gpus": gpus}.items() if value is None]
    if dataset == "folder" and root is None:
        missing.append("--data-root")
    if missing and not sys.stdin.isatty():
        raise InputError(f"tuner init needs {', '.join(missing)} where no terminal is there to ask in, as in {_EXAMPLE}")
    model = _asked_model() if model is None else model
    dataset = _asked_dataset() if dataset is None else dataset
    if dataset == "folder" and root is None:
        root = _ask("Folder of the images, with train/<class>/ below it", "images", _folder)
    gpus = _asked_gpus() if gpus is None else gpus
    root = root or "data"
    name = name or _name(model, root if dataset == "folder" else dataset)
    check_folder("dataset.root", root)
    found = look_at_images(Path(root) / "train") if dataset == "folder" else None
    text = study_text(name=name, model=model, dataset=dataset, root=root, gpus=int(gpus) if gpus == int(gpus) else gpus, found=found)
    path = Path(out or f"{name}.yaml")
    _write(path, text, force=force)
    print(printable(f"wrote {path}, which explains every key"))
    if found is not None:
        print(printable(_fitted(found, StudySpec.from_json_dict(parse_yaml(text)))))
    elif dataset == "folder":
        there = "which holds none" if (Path(root) / "train").is_dir() else "which is not there yet"
        print(printable(f"the images are to lie in {Path(root) / 'train'}/<class>/, {there}"))
    print(printable(f"next: tuner launch {shlex.quote(str(path))} --dry-run"))


def check_model_name(model: str) -> None:
    """InputError, with the nearest name, for what is no network's name. `module:factory` is only known where it is trained."""
    check_model("model", model)
    # Those of the built-in studies are known without torch, which takes seconds to load.
    if ":" in model or model in {load_study(name).model for name in builtin_names()}:
        return
    from trainers.models import model_names

    names = model_names()
    if model not in names:
        rule = "it must be one of this project's networks, a torchvision classifier such as resnet50, or your own as module:factory"
        raise InputError(one_line(f"model is {shown(model)}, {rule}{nearest_name(model, names)}"))


def _asked_model() -> str:
    def known(answer: str) -> str:
        check_model_name(answer)
        return answer

    return _ask("Network: cifar_resnet8, 20, 56 or 18 of this project, a torchvision classifier, or module:factory", "cifar_resnet8", known)


def _asked_dataset() -> str:
    def known(answer: str) -> str:
        check_name("dataset", answer, DATASETS)
        return answer

    return _ask(f"Images: {', '.join(DATASETS)}", "digits", known)


def _asked_gpus() -> float:
    def number(answer: str) -> float:
        try:
            gpus = float(answer)
        except ValueError:
            raise InputError(f"gpus is {shown(answer)}, it must be a number such as 0, 1 or 0.5") from None
        check_gpus("gpus", gpus)
        return gpus

    return _ask("GPUs that one trial gets, 0 to train on the CPU", "1" if shutil.which("nvidia-smi") else "0", number)


def _folder(answer: str) -> str:
    check_folder("folder", answer)
    return answer


def _ask(question: str, default: str, parse: Callable[[str], T]) -> T:
    """Asks until the answer is right; an empty one takes the default."""
    while True:
        try:
            answer = input(f"{question} [{default}]: ").strip() or default
        except EOFError:
            raise InputError("tuner init got no answer, so it has written nothing") from None
        try:
            return parse(answer)
        except InputError as error:
            print(one_line(str(error)))


def _name(model: str, images: str) -> str:
    """A name that says both. The network first, because built-in studies begin with the images."""
    words = re.sub(r"[^A-Za-z0-9._]+", "-", f"{model.replace(':', '.')}-{Path(images).absolute().name or 'images'}")
    return words.strip("-._")[:80] or "study"


def _fitted(found: FolderImages, spec: StudySpec) -> str:
    """What was found in the folder, and what the file says therefore."""
    few, training = "more than " if found.more else "", spec.training
    size = "whose sizes could not be read" if found.shorter_px is None else f"about {found.shorter_px} px on the shorter side"
    steps = max(1, found.trained_on(spec.dataset) // training.batch_size)
    return (
        f"{found.folder} holds {few}{found.images:,} images of {found.classes} classes, {size}; therefore side_px {spec.dataset.full_px}, "
        f"batch_size {training.batch_size} ({few}{steps} step{'s' if steps > 1 else ''} an epoch), lr {training.lr:g}"
    )


def _write(path: Path, text: str, *, force: bool) -> None:
    if path.exists() and not force:
        rule = f"it must not be overwritten: give --out {_free(path)}, or --force to lose it"
        raise InputError(one_line(f"'{path}' is there already, {rule}"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # x: what another program wrote since is not lost either.
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(one_line(f"'{path}' cannot be written: {error.strerror}")) from None


def _free(path: Path) -> str:
    """The nearest name that no file has."""
    number = 2
    while (free := path.with_stem(f"{path.stem}-{number}")).exists():
        number += 1
    return shlex.quote(str(free))
