"""`tuner best`: the one trial to take from a study, what it saves and what that needs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from trainers.errors import InputError, RunError
from tuner.commands.usage import check_out_file
from tuner.launching.timing import timing_doubt
from tuner.results.answer import best_answer, best_details, best_needs, best_next, best_record, best_trial
from tuner.results.best import best_for_drop, best_for_time, knee
from tuner.results.confirmation import confirmed_front
from tuner.results.export import save_schedule
from tuner.storage.lookup import open_study
from tuner.storage.trials import CompletedTrial

# A larger drop is told in points, because half a point is easily written as 0.5: our own choice.
_WIDE_DROP: Final = 0.05


def show_best(
    reference: str, storage: str | None, max_drop: float | None, max_time: float | None, take_knee: bool, out: str | None, as_json: bool
) -> None:
    """Prints the trial that the one rule given takes, and writes its schedule to `out`."""
    take = _rule(max_drop, max_time, take_knee)
    check_out_file(out)
    store = open_study(reference, storage)
    results = confirmed_front(store)
    if not results.completed:
        raise RunError(f"study '{results.study}' has no completed trial yet, so it has no best one")
    chosen, doubt = best_trial(results, take), timing_doubt(store)
    if max_drop is not None and max_drop > _WIDE_DROP:
        points = f"{100 * max_drop:.3g} points less accuracy than the baseline's"
        print(f"warning: --max-drop {max_drop:g} allows {points}; half a point is 0.005", file=sys.stderr)
    written = None if out is None else str(save_schedule(chosen, results, out))
    if as_json:
        record = best_record(chosen, results) | {"timing_doubt": doubt, "written": written}
        print(json.dumps(record, indent=2, allow_nan=False))
        return
    print(best_answer(chosen, results))
    print(best_next(chosen, results) or best_needs(chosen, results))
    print(best_details(chosen, results))
    if doubt is not None:
        print(f"warning: {doubt}", file=sys.stderr)
    if written is not None:
        print(written)


def _rule(max_drop: float | None, max_time: float | None, take_knee: bool) -> Callable[[Sequence[CompletedTrial]], CompletedTrial]:
    asked = {"--max-drop": max_drop is not None, "--max-time": max_time is not None, "--knee": take_knee}
    if sum(asked.values()) != 1:
        given = ", ".join(option for option, is_given in asked.items() if is_given) or "none"
        raise InputError(f"tuner best needs exactly one of --max-drop, --max-time and --knee, given: {given}")
    if max_drop is not None:
        return partial(best_for_drop, max_drop=max_drop)
    return knee if max_time is None else partial(best_for_time, max_time=max_time)
