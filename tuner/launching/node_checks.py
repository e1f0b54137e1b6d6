"""What a launch needs of every machine that trains: disk, images, place and network. Runs where it is called, or as a task of Ray's."""

from __future__ import annotations

import errno
import importlib.machinery
import importlib.util
import platform
import shutil
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from trainers.config import DataConfig, TrainConfig
from trainers.cores import available_cores, others_frac
from trainers.cost import MAX_OTHERS_FRAC
from trainers.errors import DownsampleTunerError, InputError
from trainers.places import RootPlace, shown_place
from trainers.schedule import Step

LEAST_FREE_MIB: Final = 100.0
_LOAD_S: Final = 1.0
PACKAGES: Final = ("torch", "torchvision", "ray", "optuna", "sqlalchemy")
# An attempt keeps two checkpoints, and a third while it is being written.
_CHECKPOINTS_A_TRIAL: Final = 3
# Folders below a dataset's root that torchvision makes, which must not be imported only to look for them.
_TORCHVISION_FOLDERS: Final = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "fashion_mnist": "FashionMNIST"}
_CLASSES: Final = {"cifar10": 10, "cifar100": 100, "fashion_mnist": 10, "digits": 10}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at and what was found. ok: None where it could not be, or need not be, looked at.

    stops: a launch that finds it wrong does not begin; else it only says so.
    """

    what: str
    ok: bool | None
    sentence: str
    stops: bool = True


@dataclass(frozen=True, slots=True)
class NodeOrder:
    """What to check on a node.

    trials: at once there. marker: a file that the driver made in the place, for folders on its own disks. versions: the driver's.
    steps: at whose sides the network is tried; none where a calibration follows, which does it.
    """

    config: TrainConfig
    place: str
    trials: int
    gpus: float = 0
    marker: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    steps: frozenset[Step] = frozenset()


def check_node(order: NodeOrder) -> list[Finding]:
    """Everything but GPU memory. A task that checks must not need a GPU, because they may all be busy."""
    shared = [check_shared(order.marker, order.place)] if order.marker else []
    return [
        check_same_versions(order.versions),
        check_place(order.place),
        *shared,
        *check_disk({"checkpoints": order.place}),
        check_data(order.config.data),
        *check_network(order),
    ]


def check_same_versions(driver: dict[str, str]) -> Finding:
    """Whether the packages here are those of the driver. Ray itself refuses another Python or another Ray."""
    here = node_versions()
    different = [f"{name} {here[name] or 'missing'} instead of {wanted}" for name, wanted in driver.items() if here[name] != wanted]
    sentence = f"not the driver's versions: {', '.join(different)}; install the same" if different else "the driver's versions"
    return Finding("versions", not different, sentence, stops=False)


def check_disk(places: dict[str, str], least_free_mib: float = LEAST_FREE_MIB) -> list[Finding]:
    """Free space where something is kept, by what is kept there; URLs are passed over, and one disk is named once."""
    found: dict[tuple[int, bool], Finding] = {}
    for what, place in places.items():
        if "://" in place and not place.startswith(("file://", "local://")):
            continue
        try:
            folder = existing_folder(place)
            free_mib = shutil.disk_usage(folder).free / 2**20
            device = folder.stat().st_dev
        except OSError as error:
            found[(-len(found), False)] = Finding("disk", False, f"the disk of {what} at {place} can't be looked at: {error.strerror}")
            continue
        sentence = f"{_size(free_mib)} are free at {folder} ({what})"
        if free_mib < least_free_mib:
            sentence = f"only {sentence}, a launch needs at least {_size(least_free_mib)}: free some, or name another place"
        found.setdefault((device, free_mib >= least_free_mib), Finding("disk", free_mib >= least_free_mib, sentence))
    return list(found.values())


def existing_folder(place: str) -> Path:
    """The folder, or the nearest one above it that exists: what is missing is made there."""
    path = Path(place.removeprefix("file://").removeprefix("local://")).expanduser().absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def check_place(place: str) -> Finding:
    """Writes to the place of checkpoints. Makes no folder: whoever asks may not want to launch."""
    try:
        if "://" in place:
            RootPlace(place).check()
        else:
            _write_probe(Path(place).expanduser().absolute())
    except (InputError, OSError) as error:
        sentence = str(error) if isinstance(error, InputError) else f"{shown_place(place)} can't be written: {error.strerror or error}"
        return Finding("checkpoints", False, f"{sentence}: name another place with --checkpoints")
    return Finding("checkpoints", True, f"{shown_place(place)} can be written")


def _write_probe(path: Path) -> None:
    folder = existing_folder(str(path))
    missing = path.relative_to(folder).parts
    if missing and (folder / missing[0]).exists():
        raise NotADirectoryError(errno.ENOTDIR, f"{folder / missing[0]} is a file")
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"probe")


def check_shared(marker: str, place: str) -> Finding:
    """Whether the folder is the same one as on the machine that launches."""
    if Path(marker).exists():
        return Finding("shared place", True, f"{place} is the same folder as where the launch is")
    lost = "a trial that moves to or from there begins anew, and its results are lost if the database is away"
    way = "give --checkpoints a folder that all nodes share, or a URL such as s3://bucket/folder"
    return Finding("shared place", False, f"{place} is another folder than where the launch is, so {lost}: {way}", stops=False)


def check_data(data: DataConfig) -> Finding:
    """Whether the images are there and can be read. What torchvision can download is no error while it can be written."""
    root, name = Path(data.root), data.name
    if name == "digits":
        return Finding("dataset", True, "digits comes with scikit-learn")
    folder = root / "train" if name == "folder" else root / name / "train"
    if folder.is_dir() or name == "folder":
        return _image_folder(folder)
    if (made := root / _TORCHVISION_FOLDERS[name]).is_dir():
        return Finding("dataset", True, f"{name} is in {made}")
    try:
        _write_probe(root.absolute())
    except OSError as error:
        sentence = f"{name} is not in {root}, nor can it be downloaded there: {error.strerror or error}"
        return Finding("dataset", False, f"{sentence}; set dataset.root to the folder that holds it")
    return Finding("dataset", None, f"{name} is not in {root.absolute()} yet and will be downloaded there, if this machine has a network")


def _image_folder(folder: Path) -> Finding:
    rule = "it must hold one folder of images a class, and dataset.root the folder above it"
    try:
        if not (classes := sorted(entry for entry in folder.iterdir() if entry.is_dir())):
            return Finding("dataset", False, f"image folder '{folder}' has no folders in it, {rule}")
        for first in classes:
            image = next((path for path in first.rglob("*") if path.is_file()), None)
            if image is None:
                return Finding("dataset", False, f"class folder '{first}' has no images")
            with image.open("rb") as file:
                file.read(1)
    except OSError as error:
        return Finding("dataset", False, f"image folder '{error.filename or folder}' can't be read ({error.strerror or error}), {rule}")
    return Finding("dataset", True, f"{folder} holds {len(classes)} classes")


def class_count(data: DataConfig) -> int | None:
    """Classes of a dataset; None where its folder can't be read."""
    folder = Path(data.root) / ("train" if data.name == "folder" else f"{data.name}/train")
    try:
        return sum(entry.is_dir() for entry in folder.iterdir())
    except OSError:
        return _CLASSES.get(data.name)


def check_module(model: str) -> Finding | None:
    """Whether the module of the user's `module:factory` is to be found from here, without running it; None for networks of other kinds."""
    module = model.partition(":")[0]
    if ":" not in model:
        return None
    try:
        found = importlib.util.find_spec(module.partition(".")[0]) or _find_in_current_folder(module.partition(".")[0])
    except (ImportError, ValueError) as error:
        return Finding("network", False, f"module '{module}' of model '{model}' can't be imported: {error}")
    if not found:
        way = "launch from the folder that holds it, or install it"
        return Finding("network", False, f"module '{module}' of model '{model}' was not found from {Path.cwd()}: {way}")
    return Finding("network", True, f"module '{module}' was found")


def _find_in_current_folder(module: str) -> bool:
    return importlib.machinery.PathFinder.find_spec(module, [str(Path.cwd())]) is not None


def check_network(order: NodeOrder) -> list[Finding]:
    """Builds the network, which imports the user's module, tries its sides, and compares what its checkpoints need with what is free."""
    config, classes = order.config, class_count(order.config.data)
    if classes is None:
        return [Finding("network", None, f"'{config.model}' was not built, because the number of classes isn't known")]
    try:
        from trainers.full_step import training_state_bytes, try_sides

        mib = training_state_bytes(config, classes) / 2**20
        if order.steps:
            try_sides(config, order.steps, classes)
    except DownsampleTunerError as error:
        return [Finding("network", False, str(error))]
    except Exception as error:  # noqa: BLE001  a user's factory may raise anything
        return [Finding("network", False, f"network '{config.model}' can't be built: {type(error).__name__}: {error}")]
    needed_mib = mib * _CHECKPOINTS_A_TRIAL * order.trials
    enough = check_disk({f"{order.trials} trials at once need {_size(needed_mib)} for checkpoints": order.place}, needed_mib)
    sides = sorted({step.side_px for step in order.steps})
    takes = f" takes {len(sides)} side{'s' if len(sides) > 1 else ''} from {sides[0]} to {sides[-1]} px" if sides else ""
    built = Finding("network", True, f"'{config.model}' with {classes} classes{takes}; a checkpoint takes about {_size(mib)}")
    return [built, *(finding for finding in enough if not finding.ok)]


def check_gpus(order: NodeOrder) -> list[Finding]:
    """One full step on every GPU that this process may use, and whether the trials that share it fit as well."""
    classes = class_count(order.config.data)
    if classes is None:
        return [Finding("GPU memory", None, "no step was made, because the number of classes isn't known")]
    try:
        from trainers.full_step import step_memory

        found = list(step_memory(order.config, classes))
    except DownsampleTunerError as error:
        return [Finding("GPU memory", False, str(error))]
    except Exception as error:  # noqa: BLE001  a user's network may raise anything
        return [Finding("GPU memory", False, f"a full step failed: {type(error).__name__}: {error}")]
    if not found:
        return [Finding("GPU memory", False, f"a trial asks for {order.gpus:g} GPUs, but torch sees none on {platform.node()}")]
    return [_fits(*memory, order.gpus) for memory in found]


def _fits(device: str, peak_mib: float, free_mib: float, gpus: float) -> Finding:
    together = max(1, int(1 / gpus))
    fits = together * peak_mib <= free_mib
    shared = f", {together} trials share it" if together > 1 else ""
    sentence = f"a full step takes {_size(peak_mib)} of the {_size(free_mib)} that are free on {device}{shared}"
    return Finding("GPU memory", fits, sentence if fits else f"{sentence}: give resources.gpus a larger share, or a smaller batch_size")


def check_cores(cpus: int) -> Finding:
    """Whether a trial's cores are there."""
    usable = len(available_cores())
    if cpus > usable:
        return Finding("cores", False, f"a trial takes {cpus} cores, but only {usable} may be used: set resources.cpus to {usable} or less")
    return Finding("cores", True, f"{usable} may be used; a trial takes {cpus}, with as many threads")


def check_load() -> Finding:
    """Whether other processes leave enough of the cores for step times to be measured; takes a second. Nobody is kept from beginning."""
    used = others_frac(_LOAD_S)
    if used is None:
        return Finding("load", None, "what other processes use of the cores is not known on this system")
    sentence = f"other processes use {used:.0%} of this machine's cores (at most {MAX_OTHERS_FRAC:.0%} may be used while steps are timed)"
    if used <= MAX_OTHERS_FRAC:
        return Finding("load", True, sentence)
    refused = "so the timing before a study's first trial will probably be refused, after some minutes"
    return Finding("load", False, f"{sentence}, {refused}: wait until they are done, or give --accept-noisy-timing", stops=False)


def check_versions() -> Finding:
    """Versions of what a training and its study depend on, without importing it."""
    found = node_versions()
    missing = [name for name in PACKAGES if not found[name]]
    if missing:
        return Finding("versions", False, f"packages are missing: pip install {' '.join(missing)}")
    return Finding("versions", True, ", ".join(f"{name} {number}" for name, number in found.items()))


def node_versions() -> dict[str, str]:
    """Version by name, empty for packages that are missing."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _size(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"
