"""What is wrong with a command line, in one sentence: typer's own boxes take several lines and leave out the value."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from typer import BadParameter, TyperException

from trainers.errors import InputError, nearest_name
from trainers.wording import mask_secrets, shown, unbroken


def usage_sentence(error: TyperException) -> str:
    """One sentence with the value, the rule and the nearest name, from what typer raises on a wrong command line."""
    # typer exports neither these attributes' classes nor their types.
    context: Any = getattr(error, "ctx", None)
    parameter: Any = getattr(error, "param", None)
    option: str | None = getattr(error, "option_name", None)
    if parameter is not None and isinstance(error, BadParameter):
        return _about_value(error, parameter, context)
    if option is not None and context is not None:
        options = [name for known in context.command.get_params(context) for name in known.opts]
        return _unknown("option", option, options, context.command_path)
    said = error.format_message().strip().rstrip(".")
    return f"{said[:1].lower()}{mask_secrets(said[1:])}"


def unknown_command(name: str, commands: Iterable[str]) -> str:
    """Sentence about a command that there is not."""
    return _unknown("command", name, list(commands), "tuner")


def check_out_file(path: str | None) -> None:
    """InputError where --out can be no file: found before the work, not after it."""
    if path is not None and (not path or Path(path).is_dir()):
        raise InputError(f"--out is {shown(path)}, it must be the path of a file" + (", not of a folder" if path else ""))


def check_out_folder(path: str | None) -> None:
    """InputError where --out can be no folder."""
    if path is not None and (not path or Path(path).is_file()):
        raise InputError(f"--out is {shown(path)}, it must be the path of a folder" + (", not of a file" if path else ""))


def _about_value(error: BadParameter, parameter: Any, context: Any) -> str:
    name = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar
    details = getattr(error.__cause__, "errors", None)
    if details is None:
        return f"{context.command_path} needs {name}: {parameter.help}"
    (detail, *_) = details()
    rule = detail["msg"].partition(", unable")[0].replace("Input should be", "it must be")
    return f"{name} is {shown(detail['input'])}, {rule}"


def _unknown(what: str, name: str, known: list[str], where: str) -> str:
    return f"{what} '{unbroken(mask_secrets(name))}' is unknown to {where}, valid names are {', '.join(known)}{nearest_name(name, known)}"
