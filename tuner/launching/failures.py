"""When failures say that the launch itself is wrong, and not the one configuration that met them."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

# Our own choice. A study whose every trial fails would never reach its number of finished trials: FAIL does not count.
FIRST_TRIALS: Final = 10
MAX_IN_ROW: Final = 5


class FailureWatch:
    """Counts how the trials of one launch end."""

    def __init__(self) -> None:
        self._ended = 0
        self._in_row = 0
        self._reasons: list[str] = []

    def finished(self) -> None:
        """A trial has finished."""
        self._ended += 1
        self._in_row = 0

    def failed(self, reason: str) -> str | None:
        """A trial has failed; why the launch has to stop, None where it can go on."""
        self._ended += 1
        self._in_row += 1
        self._reasons.append(reason)
        if self._ended <= FIRST_TRIALS and len(self._reasons) > FIRST_TRIALS // 2:
            return f"{len(self._reasons)} of the first {self._ended} trials failed, {self._common_reason()}"
        if self._in_row >= MAX_IN_ROW:
            return f"{self._in_row} trials in a row failed, {self._common_reason()}"
        return None

    def _common_reason(self) -> str:
        """The latest reason of the commonest kind: reasons that differ in their numbers only are of one kind."""
        kinds = Counter(_kind(reason) for reason in self._reasons)
        kind, count = kinds.most_common(1)[0]
        reason = next(reason for reason in reversed(self._reasons) if _kind(reason) == kind)
        return f"{'all' if count == len(self._reasons) else count} of them because {reason}"


def _kind(reason: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "0", reason)
