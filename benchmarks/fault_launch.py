"""The launch command that the fault suite gives again and again: `tuner launch` with a fixed list of configurations to train.

    fault_launch.py STORAGE STUDY TRIALS LIST CHECKPOINTS [ADDRESS]

Exit codes as those of `tuner launch`: 0 finished, 1 not, 130 interrupted; 3 when it ended in good order before all were finished.
"""

from __future__ import annotations

import faulthandler
import fcntl
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from benchmarks.fault_plan import configurations, study_spec
from trainers.errors import DownsampleTunerError
from tuner.launching import cluster
from tuner.launching.launch import INTERRUPTED, LaunchOptions, launch
from tuner.launching.proposals import ListProposer
from tuner.storage.opening import open_storage, resolve_url
from tuner.storage.store import StudyStore

# A launch that has not ended by then says where it is.
STUCK_S = 590.0
_CONNECT = cluster._connect


def main(storage: str, study: str, trials: str, count: str, checkpoints: str, address: str | None = None) -> int:
    """One launch; its exit code."""
    faulthandler.dump_traceback_later(STUCK_S)
    try:
        cluster._connect = _one_at_a_time
        spec = study_spec(study)
        store = StudyStore.create_or_continue(open_storage(resolve_url(storage, None)), spec)
        options = LaunchOptions(trials=int(trials), address=address, checkpoints=checkpoints, accept_noisy_timing=True)
        outcome = launch(store, spec, options, Console(width=160), ListProposer(configurations(int(count))))
    except DownsampleTunerError as error:
        print(f"error: {error}", flush=True)
        return 1
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130
    print(f"{outcome.finished} of {trials} finished, stopped: {outcome.stop_reason}", flush=True)
    if outcome.finished >= int(trials):
        return 0
    return 130 if outcome.stop_reason == INTERRUPTED else 3


def _one_at_a_time(*arguments: Any) -> None:
    """Ray gives itself 30 s to start, which several that start at once on few cores don't keep."""
    with Path("ray-starts").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _CONNECT(*arguments)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
