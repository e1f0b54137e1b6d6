"""The one figure of a study, the time saved at the baseline's accuracy, with what it is worth."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean
from typing import Any

from tuner.report.details import rounded
from tuner.results.best import best_for_drop
from tuner.results.confirmation import Confirmation, ConfirmedPoint, confirmation_words
from tuner.results.describe import describe_value
from tuner.results.front import ACCURACY, TIME, StudyFront, baseline, measured, time_saved
from tuner.storage.trials import CompletedTrial


def headline(results: StudyFront) -> dict[str, Any]:
    """The fastest trial at least as accurate as the baseline, what it saves, and whether that is confirmed; JSON-ready.

    saved: share of time; None while the baseline has not completed. Once all of the front is confirmed, accuracies are means of the fresh
    seeds on the test split.
    """
    found = results.confirmation
    is_confirmed = found is not None and not found.missing
    judged = found.judged if found and is_confirmed else results.completed
    reference = baseline(judged)
    known = reference is not None and measured(reference, ACCURACY) is not None
    best = best_for_drop(judged, 0.0) if known else None
    told = {trial.number for trial in (best, reference) if trial}
    statement = {"confirmed": is_confirmed, "partly": found is not None and not is_confirmed, "statement": _statement(results, told)}
    if reference is None or best is None:
        return statement | {"saved": None, "meaning": "No figure yet: the study's baseline, its full training, has not completed."}
    saved, meaning = _saving(best, reference, judged)
    return statement | {
        "saved": rounded(saved),
        "meaning": meaning,
        "trial": best.number,
        "time": rounded(measured(best, TIME)),
        "accuracy": rounded(measured(best, ACCURACY)),
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


def _saving(best: CompletedTrial, reference: CompletedTrial, judged: list[CompletedTrial]) -> tuple[float | None, str]:
    if best.rival is not None:
        return 0.0, f"less training time: no schedule is faster at the baseline's accuracy than plain full resolution, trial {best.number}"
    saved = time_saved(best, judged)
    if saved is not None:
        return saved, "less training time than the fastest full-resolution training that is at least as accurate"
    # None is as accurate as that; those that are as accurate as the baseline are the harder rivals, not the baseline alone.
    at_baseline = {name: measured(trial, name) for trial, name in ((best, TIME), (reference, ACCURACY))}
    saved = time_saved(replace(best, values={name: value for name, value in at_baseline.items() if value is not None}), judged)
    return (
        saved,
        f"less training time than full resolution needs to be as accurate as the baseline; none is as accurate as trial {best.number}",
    )


def _statement(results: StudyFront, told: set[int]) -> str:
    words = confirmation_words(results)
    sentences = [f"{words[:1].upper()}{words[1:]}."]
    if results.confirmation is None:
        sentences.append("A search also selects luck: fresh seeds show what a point is worth.")
    else:
        sentences += [_measured_anew(point) for point in results.confirmation.points if point.trial.number in told]
    return " ".join(sentences)


def _measured_anew(point: ConfirmedPoint) -> str:
    who = "The baseline" if point.trial.rival == "baseline" else f"Trial {point.trial.number}"
    low, high = (describe_value(ACCURACY, end) for end in point.interval)
    return f"{who} reaches {describe_value(ACCURACY, mean(point.test))} test accuracy on average (95 % interval {low} to {high})."
