"""The one figure of a study, the time saved at the baseline's accuracy, with how it splits and what it is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Any, Final

from tuner.report.details import rounded
from tuner.results.answer import judged_trials, offer_words
from tuner.results.best import best_for_drop, nearest_offer
from tuner.results.confirmation import Confirmation, ConfirmedPoint, confirmation_words
from tuner.results.describe import describe_value
from tuner.results.front import ACCURACY, TIME, StudyFront, baseline, fastest_rival, measured, time_saved
from tuner.results.split import needed_words, split_words, time_split
from tuner.storage.trials import CompletedTrial

_RULE: Final = "less training time at no less accuracy than the baseline's"


def headline(results: StudyFront) -> dict[str, Any]:
    """The fastest trial at least as accurate as the baseline, what it saves, and whether that is confirmed; JSON-ready.

    saved: share of time; None while the baseline has not completed. trial, time, accuracy: of that trial; where it is full resolution, of
    the nearest schedule that is faster, if there is one. Once all of the front is confirmed, accuracies are means of the fresh seeds on the
    test split.
    """
    judged = judged_trials(results)
    reference = baseline(judged)
    known = reference is not None and measured(reference, ACCURACY) is not None
    best = best_for_drop(judged, 0.0) if known else None
    if reference is None or best is None:
        meaning = "No figure yet: the study's baseline, its full training, has not completed."
        return _worth(results, (), "") | {"saved": None, "meaning": meaning}
    offer = nearest_offer(judged, best) if best.rival else None
    shown = offer.trial if offer else best
    saved, meaning, how = _saving(best, reference, judged)
    if offer:
        meaning += f"; trial {shown.number}, the nearest schedule that is faster, stands beside it"
        split = time_split(shown, reference)
        how = f"By a wider rule {offer_words(offer, results)}{f': {split_words(split)}' if split else ''}."
    needs = f"{how} Mind that {needed_words(shown)}." if shown.rival is None else how
    return _worth(results, (shown, reference), needs) | {
        "saved": rounded(saved),
        "meaning": meaning,
        "trial": shown.number,
        "time": rounded(measured(shown, TIME)),
        "accuracy": rounded(measured(shown, ACCURACY)),
        "baseline": reference.number,
        "baseline_accuracy": rounded(measured(reference, ACCURACY)),
    }


def confirmed_columns(found: Confirmation | None) -> dict[int, dict[str, Any]] | None:
    """By trial number the mean test accuracy with its 95 % interval, its seeds, and whether the point stays on the front; JSON-ready."""
    if found is None:
        return None
    return {
        point.trial.number: {
            "mean": rounded(mean(point.test)),
            "low": rounded(point.interval[0]),
            "high": rounded(point.interval[1]),
            "seeds": len(point.test),
            "stays": point.stays,
        }
        for point in found.points
    }


def _saving(best: CompletedTrial, reference: CompletedTrial, judged: Sequence[CompletedTrial]) -> tuple[float | None, str, str]:
    """Share saved, what that means, and how it splits."""
    if best.rival is not None:
        return 0.0, f"{_RULE}: no schedule is faster there than full resolution, trial {best.number}", ""
    meaning = f"{_RULE}, against the fastest full-resolution training that is at least as accurate"
    point = best
    if fastest_rival(best, judged) is None:
        # Those that are as accurate as the baseline are the harder rivals, not the baseline alone.
        at_baseline = {name: measured(trial, name) for trial, name in ((best, TIME), (reference, ACCURACY))}
        point = replace(best, values={name: value for name, value in at_baseline.items() if value is not None})
        meaning = f"{_RULE}, against full resolution that is as accurate as the baseline; none is as accurate as trial {best.number}"
    split = time_split(best, fastest_rival(point, judged))
    return time_saved(point, judged), meaning, f"How it is saved: {split_words(split)}." if split else ""


def _worth(results: StudyFront, shown: Sequence[CompletedTrial], needs: str) -> dict[str, Any]:
    """What the figures are worth, in words too. needs: how they come about."""
    found = results.confirmation
    words = confirmation_words(results)
    sentences = [f"{words[:1].upper()}{words[1:]}."]
    if found is None:
        sentences.append("A search also selects luck: fresh seeds show what a point is worth.")
    else:
        numbers = {trial.number for trial in shown}
        sentences += [_measured_anew(point) for point in found.points if point.trial.number in numbers]
    is_confirmed = found is not None and not found.missing
    statement = " ".join([*sentences, *([needs] if needs else [])])
    return {"confirmed": is_confirmed, "partly": found is not None and not is_confirmed, "statement": statement}


def _measured_anew(point: ConfirmedPoint) -> str:
    who = "The baseline" if point.trial.rival == "baseline" else f"Trial {point.trial.number}"
    low, high = (describe_value(ACCURACY, end) for end in point.interval)
    return f"{who} reaches {describe_value(ACCURACY, mean(point.test))} test accuracy on average (95 % interval {low} to {high})."
