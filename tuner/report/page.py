"""The page of a study: one HTML file of template, style, scripts and data that needs no network, and is kept from using one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

_FOLDER: Final = Path(__file__).parent
# An order in which each script uses only those before it.
SCRIPTS: Final = ("elements.js", "shapes.js", "scatter.js", "charts.js", "cards.js", "sections.js", "page.js")
# What a module says of other modules; in one script there are none.
_IMPORT: Final = re.compile(r'^import \{[^}]*\} from "\./[a-z]+\.js";\n', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=function|const|class)", re.MULTILINE)


def report_html(document: dict[str, Any]) -> str:
    """The page that shows `document` (see tuner.report.document). Only its own style and script may run, and nothing is fetched."""
    style, script = _text("page.css"), page_script()
    parts = {
        "policy": f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'",
        "style": style,
        "data": embedded_json(document),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _text("page.html"))


def page_script() -> str:
    """Our modules as one: a file that is opened from a disk can't import others."""
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", _text(name))) for name in SCRIPTS)


def embedded_json(document: dict[str, Any]) -> str:
    """Strict, compact JSON in ASCII that no text in it can end the script element of."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
