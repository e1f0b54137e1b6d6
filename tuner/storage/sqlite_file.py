"""Whether a database URL means a file that SQLite can use, asked before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import make_url

from trainers.errors import InputError
from tuner.storage.opening import masked

# The first 16 bytes of every database, see "The Database Header" in SQLite's description of its file format.
_HEADER: Final = b"SQLite format 3\0"


def check_sqlite_file(url: str) -> str:
    """`url` as it is; InputError where it is one of SQLite's whose path is a folder, holds something else, or lies in no folder."""
    parsed = make_url(url)
    if parsed.drivername != "sqlite" or "uri" in parsed.query:
        return url
    path = Path(str(parsed.database))
    if (problem := _problem(path)) is not None:
        raise InputError(f"the database is {masked(url)}, its file must be one of SQLite or not exist yet, but {problem}")
    return url


def _problem(path: Path) -> str | None:
    folder = path.absolute().parent
    try:
        if path.is_dir():
            return f"'{path}' is a folder"
        if not folder.is_dir():
            return f"the folder '{folder}' does not exist"
        return None if not path.is_file() or _is_sqlite(path) else f"'{path}' holds something else"
    except (OSError, ValueError) as error:
        return f"'{path}' can't be read: {error}"


def _is_sqlite(path: Path) -> bool:
    # An empty file is how SQLite begins.
    with path.open("rb") as file:
        return file.read(len(_HEADER)) in (b"", _HEADER)
