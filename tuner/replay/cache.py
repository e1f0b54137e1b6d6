"""Fits a table's surrogate once for each user, because its error is that of several fits.

Kept in the user's cache folder, never beside the table: tables are committed, shared and sometimes read-only, and a fitted surrogate is
a pickle, which must only ever be loaded from where no one else can have put it.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
import warnings
from pathlib import Path

from tuner.replay import features, noise, surrogate
from tuner.replay.surrogate import Surrogate
from tuner.replay.table import Table


def cached_surrogate(table: Table, folder: Path | None = None) -> Surrogate:
    """The table's surrogate, fitted where it is not in the cache. folder: None takes the user's, $XDG_CACHE_HOME or ~/.cache."""
    path = (folder or _user_folder()) / f"surrogate-{_key(table)}.pickle"
    if path.exists() and path.stat().st_uid == os.getuid():
        return Surrogate(table, pickle.loads(path.read_bytes()))
    fitted = Surrogate.fitted(table)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(path, pickle.dumps(fitted.state))
    except OSError as error:
        warnings.warn(f"the surrogate of table '{table.spec.name}' is fitted anew each time, because {error}", stacklevel=2)
    return fitted


def _user_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "downsample-tuner"


def _key(table: Table) -> str:
    """Of everything that a fit depends on: the table, the code that fits, and the library's version."""
    import sklearn

    code = b"".join(Path(str(module.__file__)).read_bytes() for module in (features, noise, surrogate))
    return hashlib.sha256(b" ".join([table.digest.encode(), sklearn.__version__.encode(), code])).hexdigest()[:32]


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: several processes may fit the same table."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)
