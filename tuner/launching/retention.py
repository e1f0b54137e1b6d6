"""Which checkpoints of finished trials stay, so that a study doesn't fill the disk."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from studies.spec import Keep
from tuner.launching.places import root_place

# A long study may have thousands of folders to look into, and a driver has other things to do meanwhile.
LONGEST_S: Final = 2.0


class Retention:
    """Removes checkpoints as a launch goes on; results and logs stay, they are small.

    keep: `running` none of finished trials, `front` those of the front, `all` everything.
    """

    def __init__(self, place: str, keep: Keep) -> None:
        self._place = place
        self._keep = keep
        self._pruned: set[int] = set()

    def look_again(self) -> None:
        """Takes nothing for removed any more: a worker that was taken for dead may have written since."""
        self._pruned.clear()

    def prune(self, over: Iterable[int], front: Iterable[int]) -> None:
        """Removes what may go, given the root trials that are over (they have a result or were given up) and those on the front.

        What takes too long is left to the next time.
        """
        if self._keep == "all":
            return
        until_s = time.monotonic() + LONGEST_S
        stay = set(front) if self._keep == "front" else set()
        for root in sorted(set(over) - stay - self._pruned):
            root_place(self._place, root).remove_checkpoints()
            self._pruned.add(root)
            if time.monotonic() > until_s:
                return
