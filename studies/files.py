"""Reads study files: YAML, loaded safely, with `key=value` overrides from the command line on top."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from studies.rules import check_study_name
from studies.sentences import one_line, shown, unknown_key
from studies.spec import SECTIONS, StudySpec
from trainers.errors import InputError, nearest_name

_BUILTIN_FOLDER: Final = Path(__file__).parent / "files"


def builtin_names() -> list[str]:
    """Names of the study files that come with the package, without `.yaml`."""
    return sorted(path.stem for path in _BUILTIN_FOLDER.glob("*.yaml"))


def load_study(reference: str, overrides: Sequence[str] = ()) -> StudySpec:
    """The study of a YAML file or of a built-in file's name, after overrides such as `training.lr=0.1`.

    Everything that is wrong is an InputError in one sentence that names the file.
    """
    path = _find(reference)
    if path is None:
        names = builtin_names()
        known = f"built-in studies are {', '.join(names)}{nearest_name(Path(reference).stem, names)}"
        raise InputError(one_line(f"study file '{reference}' is missing, {known}"))
    raw = _read(path)
    try:
        for override in overrides:
            _override(raw, override)
        return StudySpec.from_json_dict(raw)
    except InputError as error:
        raise InputError(one_line(f"study file '{path}': {error}")) from None


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
    except (OSError, ValueError):
        return None  # too long for a path, or with a NUL byte: no file can have that name
    name = reference.removesuffix(".yaml")
    return _BUILTIN_FOLDER / f"{name}.yaml" if name in builtin_names() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"study file '{path}' cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"study file '{path}' is not UTF-8 text, it must be YAML") from None
    except InputError as error:
        raise InputError(one_line(f"study file '{path}' is {error}")) from None
    if not isinstance(content, dict):
        raise InputError(f"study file '{path}' is {shown(content)}, it must be a mapping of keys to values")
    return content


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, _StudyLoader)
    except yaml.MarkedYAMLError as error:
        # Not str(error): it quotes the line, and a line may hold a password.
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise InputError(f"not valid YAML: {error.problem or error.context}{place}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"not valid YAML: {reason}") from None


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not all([*parents, last]):
        raise InputError(f"override {shown(override)} is malformed, it must be key=value such as training.lr=0.1")
    if (parents or [last])[0] not in SECTIONS[""]:
        raise InputError(unknown_key("", (parents or [last])[0], SECTIONS))
    inner = raw
    for depth, name in enumerate(parents, start=1):
        if inner.get(name) is None:
            inner[name] = {}
        inner = inner[name]
        if not isinstance(inner, dict):
            parent = ".".join(parents[:depth])
            raise InputError(f"override of {key} is impossible, because {parent} is {shown(inner)}, no mapping of keys to values")
    try:
        inner[last] = _parse(text)
    except InputError as error:
        raise InputError(f"override of {key} is {error}") from None


class _StudyLoader(yaml.SafeLoader):
    """Safe loading that refuses a key given twice, and that reads 5e-4 as a number (YAML 1.1 takes it for text)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(problem=f"key '{key.value}' is given twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


_StudyLoader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))
