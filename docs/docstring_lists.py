"""Shows the paragraphs of our docstrings that explain one name a line ("lr: peak of the curve.") as the lists that they are."""

from __future__ import annotations

import re
from typing import Any, Final

import griffe

_ENTRY: Final = re.compile(r"(?P<names>\w+(?:, \w+)*): (?P<rest>.*)")


class FieldLists(griffe.Extension):
    """The extension that mkdocstrings loads."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrites the docstring of everything that has one."""
        if obj.docstring is not None:
            obj.docstring.value = with_lists(obj.docstring.value)


def with_lists(docstring: str) -> str:
    """The docstring with each such paragraph as a Markdown list; a line that is indented goes on with the entry before it."""
    return "\n\n".join(_as_list(paragraph) for paragraph in docstring.split("\n\n"))


def _as_list(paragraph: str) -> str:
    lines = paragraph.splitlines()
    matches = [_ENTRY.fullmatch(line) for line in lines if not line.startswith(" ")]
    if len(matches) < 2 or not all(matches):
        return paragraph
    return "\n".join(_ENTRY.sub(lambda match: f"- **{match['names']}**: {match['rest']}", line) for line in lines)
