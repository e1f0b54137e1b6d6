"""Reads study files: YAML, loaded safely, with `key=value` overrides from the command line on top."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from studies.rules import check_study_name
from studies.sentences import one_line, shown, unknown_key
from studies.spec import SECTIONS, StudySpec
from trainers.bounded_yaml import parse_yaml, read_yaml
from trainers.errors import InputError, nearest_name

_BUILTIN_FOLDER: Final = Path(__file__).parent / "files"


def builtin_names() -> list[str]:
    """Names of the study files that come with the package, without `.yaml`."""
    return sorted(path.stem for path in _BUILTIN_FOLDER.glob("*.yaml"))


def builtin_text(name: str) -> str:
    """The text of a built-in study file; `name` is one of `builtin_names`."""
    return (_BUILTIN_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def builtin_purpose(name: str) -> str:
    """What a built-in study is for: the first sentence of its header comment."""
    return builtin_text(name).splitlines()[0].removeprefix("# ").partition(". ")[0].removesuffix(".")


def load_study(reference: str, overrides: Sequence[str] = ()) -> StudySpec:
    """The study of a YAML file or of a built-in file's name, after overrides such as `training.lr=0.1`.

    Everything that is wrong is an InputError in one sentence that names the file, or the override that is to blame.
    """
    path = _find(reference)
    if path is None:
        names = builtin_names()
        known = f"built-in studies are {', '.join(names)}{nearest_name(Path(reference).stem, names)}"
        raise InputError(one_line(f"study file '{reference}' is {_what_is_there(reference)}, {known}"))
    raw = _read(path)
    changed = _overridden(raw, overrides)
    try:
        return StudySpec.from_json_dict(changed)
    except InputError as error:
        raise InputError(one_line(f"{_culprit(path, raw, overrides)}: {error}")) from None


def names_file(reference: str) -> bool:
    """Whether `reference` is a readable study file or the name of a built-in one."""
    return _find(reference) is not None


def study_name(reference: str) -> str:
    """Name of the study that is meant by a file, a built-in file, or simply by its name."""
    if names_file(reference):
        return load_study(reference).name
    try:
        check_study_name("study", reference)
    except InputError as error:
        raise InputError(one_line(f"{error}; nor is it a file")) from None
    return reference


def _find(reference: str) -> Path | None:
    try:
        if Path(reference).is_file():
            return Path(reference)
    except PermissionError:
        return Path(reference)  # to be told so where it is read
    except (OSError, ValueError):
        return None  # too long for a path, or with a NUL byte: no file can have that name
    name = reference.removesuffix(".yaml")
    return _BUILTIN_FOLDER / f"{name}.yaml" if name in builtin_names() else None


def _what_is_there(reference: str) -> str:
    """Where there is no file."""
    try:
        return "a folder" if reference and Path(reference).is_dir() else "missing"
    except (OSError, ValueError):
        return "missing"


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml("study file", path)
    if not isinstance(content, dict):
        raise InputError(one_line(f"study file '{path}' is {shown(content)}, it must be a mapping of keys to values"))
    return content


def _overridden(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    changed = copy.deepcopy(raw)
    for override in overrides:
        try:
            _override(changed, override)
        except InputError as error:
            raise InputError(one_line(f"--set {shown(override)}: {error}")) from None
    return changed


def _culprit(path: Path, raw: dict[str, Any], overrides: Sequence[str]) -> str:
    """Where a mistake is: in the file, if it has one without the overrides, else in those without which there would be none."""
    if not overrides or not _is_study(raw):
        return f"study file '{path}'"
    others = [[*overrides[:index], *overrides[index + 1 :]] for index in range(len(overrides))]
    needed = [override for override, rest in zip(overrides, others, strict=True) if _is_study(_overridden(raw, rest))]
    return " ".join(f"--set {shown(override)}" for override in needed or overrides)


def _is_study(content: dict[str, Any]) -> bool:
    try:
        StudySpec.from_json_dict(content)
    except InputError:
        return False
    return True


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not all([*parents, last]):
        raise InputError("it must be key=value such as training.lr=0.1")
    if (parents or [last])[0] not in SECTIONS[""]:
        raise InputError(unknown_key("", (parents or [last])[0], SECTIONS))
    inner = raw
    for depth, name in enumerate(parents, start=1):
        if inner.get(name) is None:
            inner[name] = {}
        inner = inner[name]
        if not isinstance(inner, dict):
            parent = ".".join(parents[:depth])
            raise InputError(f"{parent} is {shown(inner)}, no mapping of keys to values")
    try:
        inner[last] = parse_yaml(text)
    except InputError as error:
        raise InputError(f"its value is {error}") from None
