"""The environment of a trial for a benchmark's own process. Knows no torch, which must not be loaded before the environment is right."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping


def ensure_environment(module: str, variables: Mapping[str, str]) -> None:
    """Starts `python -m <module>` again, with the same arguments, where this process lacks one of the variables.

    torch and the C library read them only once, when they are loaded.
    """
    if any(os.environ.get(name) != value for name, value in variables.items()):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, **variables})
