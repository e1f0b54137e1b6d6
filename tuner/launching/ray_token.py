"""Keeps other users of this machine out of the Ray cluster that a launch starts: a fresh token in a private folder."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

# Ray's sockets lie up to 85 characters below it, and a system takes no longer path than 107 characters for a socket.
_LONGEST_BASE: Final = 22
_SHORT_BASE: Final = "/tmp"


@contextmanager
def ray_token(address: str | None) -> Iterator[None]:
    """While inside, the cluster that `ray.init` starts answers only who knows a fresh random token. To be left after `ray.shutdown`.

    The token is in a file that only this user can read, so that no process has it in its environment or command line; Ray's session
    folder lies beside it, unless RAY_TMPDIR names another place. Both are removed at the end.

    address: of an existing cluster, for which the user's own RAY_AUTH_MODE, RAY_AUTH_TOKEN and RAY_AUTH_TOKEN_PATH count. Where the mode is
    left open and the user has a token, it is presented, as `ray start` asks for it: `ray.init` alone would be refused without a reason.
    """
    if address is not None:
        with _changed({"RAY_AUTH_MODE": "token"} if "RAY_AUTH_MODE" not in os.environ and _has_token() else {}):
            yield
        return
    # Errors ignored: Ray's last processes may still write there.
    with tempfile.TemporaryDirectory(prefix="tuner-", dir=_base(), ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "token"
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
        changes = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path), "RAY_AUTH_TOKEN": None}
        # Ray opens its session folder to everyone, and who can replace a socket in it needs no token.
        changes["RAY_TMPDIR"] = os.environ.get("RAY_TMPDIR", folder)
        with _changed(changes):
            yield


@contextmanager
def _changed(changes: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    _set_environment(changes)
    try:
        yield
    finally:
        _set_environment(before)


def _has_token() -> bool:
    import ray

    raylet: Any = ray._raylet
    return bool(raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def _base() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) <= _LONGEST_BASE else _SHORT_BASE


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    # Ray reads mode and token once a process. Before the file goes, because a thread of Ray's that looked for it in vain would abort.
    import ray

    raylet: Any = ray._raylet
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
