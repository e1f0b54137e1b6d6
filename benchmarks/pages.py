"""Figures and pictures on the pages of docs/, each in a section that the benchmark writes anew."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from trainers.errors import InputError

DOCS: Final = Path(__file__).parent.parent / "docs"


def publish_section(docs: Path, page: str, name: str, text: str, picture: Figure) -> None:
    """Writes what is between the marks of `name` in <page>.md, and images/<page>-<name>.png; InputError without the marks.

    docs: the folder of both. The marks are comments, which pages don't show.
    """
    path = docs / f"{page}.md"
    before, begin, rest = path.read_text(encoding="utf-8").partition(f"<!-- {name}: written by a benchmark -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->\n")
    if not end:
        raise InputError(f"{path} has no place for '{name}', it must hold the two marks that begin and end its section")
    picture.savefig(docs / "images" / picture_name(page, name), dpi=110)
    path.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")


def picture_name(page: str, name: str) -> str:
    """Of a section's picture, in docs/images."""
    return f"{page}-{name}.png"
