"""The page of a study: HTML of template, style, scripts and data. As a file it needs no network, and is kept from using one; the live one
asks who served it, and nobody else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_FOLDER: Final = Path(__file__).parent
# An order in which each script uses only those before it.
SCRIPTS: Final = ("elements.js", "shapes.js", "scatter.js", "charts.js", "cards.js", "sections.js", "page.js")
LIVE_SCRIPTS: Final = (*SCRIPTS, "running.js", "live.js")
# What a module says of other modules; in one script there are none.
_IMPORT: Final = re.compile(r'^import \{[^}]*\} from "\./[a-z]+\.js";\n', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=function|const|class)", re.MULTILINE)


def report_html(document: dict[str, Any]) -> str:
    """The page that shows `document` (see tuner.report.document). Only its own style and script may run, and nothing is fetched."""
    script = page_script(SCRIPTS)
    return _html(document, script, _policy(script))


def live_html() -> tuple[str, str]:
    """The page without data, which it asks its server for, and the Content-Security-Policy that it is to be served with."""
    script = page_script(LIVE_SCRIPTS)
    policy = f"{_policy(script)}; connect-src 'self'; form-action 'none'"
    # Nobody obeys frame-ancestors in the page itself.
    return _html(None, script, policy), f"{policy}; frame-ancestors 'none'"


def page_script(names: Sequence[str]) -> str:
    """Our modules as one: a file that is opened from a disk can't import others."""
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", _text(name))) for name in names)


def embedded_json(document: dict[str, Any] | None) -> str:
    """Strict, compact JSON in ASCII that no text in it can end the script element of."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _html(document: dict[str, Any] | None, script: str, policy: str) -> str:
    parts = {"policy": policy, "style": _text("page.css"), "data": embedded_json(document), "script": script}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _text("page.html"))


def _policy(script: str) -> str:
    style = _hash(_text("page.css"))
    return f"default-src 'none'; img-src data:; style-src {style}; script-src {_hash(script)}; base-uri 'none'"


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
