"""Builds the documentation as a site: gathers its pages, writes the reference from code and --help, and runs Zensical in strict mode.

python docs/build.py --out out/site
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from studies.files import builtin_names, builtin_purpose, builtin_text
from studies.spec import SECTIONS, Budget, Checkpoints, Resources, StudySpec, Training
from studies.stopper import StopperChoice
from trainers.config import DataConfig
from trainers.methods.settings import SETTINGS, MethodSettings
from trainers.schedule import Schedule

DOCS: Final = Path(__file__).resolve().parent
ROOT: Final = DOCS.parent
# Pages that lie elsewhere, because they belong beside code or are looked for there.
_CARDS: Final = ("trainers/downsampling.md", "trainers/presets.md", *(f"trainers/methods/{name}.md" for name in SETTINGS))
_OTHER_PAGES: Final = (*_CARDS, "CHANGELOG.md")
_LINK: Final = re.compile(r"\]\((?P<target>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")
_WRITTEN: Final = "<!-- written by docs/build.py -->"
# What mkdocstrings replaces with docstrings: hidden from who reads the page in the repository.
_DIRECTIVE: Final = re.compile(r"^<!-- (:::.*?)\n-->$", re.MULTILINE | re.DOTALL)
_LANGUAGES: Final = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sql": "sql"}
_MODELS: Final[dict[str, Any]] = {
    "training": Training, "stopper": StopperChoice, "budget": Budget, "resources": Resources, "checkpoints": Checkpoints
}  # fmt: skip


def main() -> None:
    """Builds into --out, which it replaces."""
    parser = argparse.ArgumentParser(description="Builds the documentation as a site.")
    parser.add_argument("--out", type=Path, default=Path("out/site"), help="folder of the site, which is replaced")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        try:
            build(Path(folder))
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(Path(folder) / "site", out)
    print(f"look at it: python -m http.server --bind 127.0.0.1 --directory {out}")


def build(folder: Path) -> None:
    """Gathers the pages in `folder`/pages and builds the site in `folder`/site; CalledProcessError where a link leads nowhere."""
    gather(folder / "pages")
    shutil.copy(ROOT / "zensical.toml", folder)
    # mkdocstrings looks for the packages, and for the extension beside this file, on the path.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(DOCS)]), "NO_COLOR": "1"}
    subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=folder, env=environment, check=True)


def gather(pages: Path) -> None:
    """Writes every page into the folder `pages`: those of docs/, those beside code, files that they link to, and the reference."""
    shutil.copytree(DOCS, pages, ignore=shutil.ignore_patterns("*.py", "*.sql", "__pycache__"))
    sources = {path.relative_to(DOCS): path for path in sorted(DOCS.rglob("*.md"))} | {Path(name): ROOT / name for name in _OTHER_PAGES}
    files = {Path("studies/files") / f"{name}.yaml" for name in builtin_names()}
    for page, source in sources.items():
        text, linked = _relinked(source, page)
        files |= linked
        _write(pages / page, text)
    for file in files:
        _write(pages / _page_of(file), _file_page(file))
    for page, written in (("study-file", study_keys()), ("command-line", commands())):
        path = pages / "reference" / f"{page}.md"
        _write(path, path.read_text(encoding="utf-8").replace(_WRITTEN, written))
    python = pages / "reference" / "python.md"
    _write(python, _DIRECTIVE.sub(r"\1", python.read_text(encoding="utf-8")))


def _relinked(source: Path, page: Path) -> tuple[str, set[Path]]:
    """A page's text with the links to files of the repository leading to their pages, and those files."""
    linked: set[Path] = set()

    def moved(match: re.Match[str]) -> str:
        target = (source.parent / match["target"]).resolve().relative_to(ROOT)
        if target.suffix in _LANGUAGES:
            linked.add(target)
            place = _page_of(target)
        else:
            place = target.relative_to("docs") if target.is_relative_to("docs") else target
        return f"]({os.path.relpath(place, page.parent)}{match['anchor'] or ''})"

    return _LINK.sub(moved, source.read_text(encoding="utf-8")), linked


def _page_of(file: Path) -> Path:
    return Path("files") / f"{file}.md"


def _file_page(file: Path) -> str:
    text = (ROOT / file).read_text(encoding="utf-8")
    return f"# {file.name}\n\n`{file}`\n\n````{_LANGUAGES[file.suffix]}\n{text}````\n"


def commands() -> str:
    """What --help says of every command, as Typer writes it down."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "commands.md"
        command = [sys.executable, "-m", "typer", "tuner.cli", "utils", "docs", "--name", "tuner", "--output", str(file)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
        # Without its heading and the list of commands, which the contents beside the page are.
        return re.search(r"^## .*", file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[0]


def study_keys() -> str:
    """Every key of a study file: what digits.yaml says of it, how it is written, and its default."""
    names = [f"- [{name}](../{_page_of(Path('studies/files') / f'{name}.yaml')}): {builtin_purpose(name)}" for name in builtin_names()]
    return "\n".join(["Built in:\n", *names, "", *(_section(key, said, block) for key, said, block in _explained())])


def _section(key: str, said: str, block: str) -> str:
    defaults = _defaults(key)
    table = ["| key | default |", "|---|---|", *(f"| `{name}` | {default} |" for name, default in defaults.items())] if defaults else []
    top = f"Default: {_default(StudySpec.model_fields[key])}.\n" if not defaults else ""
    methods = [line for name, settings in SETTINGS.items() if key == "training" for line in _method(name, settings)]
    return "\n".join([f"## `{key}`\n", f"{said}\n", f"```yaml\n{block}\n```\n", top, *table, *methods, ""])


def _method(key: str, settings: type[MethodSettings]) -> Iterator[str]:
    """What its docstring says of a method, with the way to its card, and its settings with their defaults."""
    said = re.sub(r"methods/(\w+\.md)", r"[\1](../trainers/methods/\1)", inspect.cleandoc(settings.__doc__ or ""))
    yield f"\n### `{key}`\n\n{said}\n"
    yield "| key | default |\n|---|---|"
    yield from (f"| `{field.name}` | {_written(field.default)} |" for field in dataclasses.fields(settings))


def _explained() -> Iterator[tuple[str, str, str]]:
    """Key, comment and lines of each top-level key of digits.yaml, in its order."""
    for part in builtin_text("digits").partition("\n\n")[2].strip().split("\n\n"):
        lines = part.splitlines()
        said = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
        block = [line for line in lines if not line.startswith("#")]
        yield block[0].partition(":")[0], " ".join(said), "\n".join(block)


def _defaults(section: str) -> dict[str, str]:
    """The keys of a section with what they are where they are left out."""
    if section == "dataset":
        return {field.name: _written(field.default) for field in dataclasses.fields(DataConfig)}
    if section == "search":
        schedule = Schedule().to_dict()
        fixed = {name: f"{_written(schedule[name])}, not searched" for name in SECTIONS["search"] if name in schedule}
        own = {"frequency": "must be given", "epochs": "from 0.3 of the training's up to it"}
        return {name: own.get(name) or fixed.get(name) or "the training's, not searched" for name in SECTIONS["search"]}
    if section not in _MODELS:
        return {}
    return {name: _default(field) for name, field in _MODELS[section].model_fields.items()}


def _default(field: Any) -> str:
    return "must be given" if field.is_required() else _written(field.get_default(call_default_factory=True, validated_data={}))


def _written(value: object) -> str:
    if value is dataclasses.MISSING:
        return "must be given"
    if value is None:
        return "`null`"
    if isinstance(value, MethodSettings):
        return _written(value.name)
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
