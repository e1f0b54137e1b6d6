"""What `tuner best` says of the trial that it took: the answer as a person would say it, then the details."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean

from tuner.results.describe import describe_schedule, describe_share, describe_training, describe_value
from tuner.results.front import ACCURACY, TIME, StudyFront, measured
from tuner.storage.trials import CompletedTrial


def best_trial(results: StudyFront, take: Callable[[Sequence[CompletedTrial]], CompletedTrial]) -> CompletedTrial:
    """What `take` takes of a study's completed trials; once all of the front is confirmed, of the confirmed ones by their means."""
    found = results.confirmation
    if found is None or found.missing:
        return take(results.completed)
    return found.by_number[take(found.judged).number].trial


def best_answer(chosen: CompletedTrial, results: StudyFront) -> str:
    """A trial in one sentence: time and accuracy against the baseline, and whether that is confirmed."""
    time_frac = measured(chosen, TIME)
    if chosen.rival == "baseline" or time_frac is None:
        what = "the baseline itself, full resolution for all epochs"
    else:
        what = f"{_share(1 - time_frac)} time than the baseline{_accuracy(chosen, results)}"
    return f"{what}, {_confirmed(chosen, results)}"


def best_details(chosen: CompletedTrial, results: StudyFront) -> str:
    """What the search measured of it, against the baseline and against full resolution, and how it trains."""
    time_frac, accuracy = measured(chosen, TIME), measured(chosen, ACCURACY)
    baseline = results.baseline
    reached = measured(baseline, ACCURACY) if baseline else None
    words = f"trial {chosen.number}: {describe_schedule(chosen.params)}; {describe_training(chosen.params)}"
    if time_frac is not None:
        words += f"; {describe_value(TIME, time_frac)} of the baseline's time"
    if accuracy is not None:
        words += f" at {describe_value(ACCURACY, accuracy)} validation accuracy"
        words += f" ({100 * (accuracy - reached):+.2f} points)" if reached is not None else ""
    saved = results.time_saved(chosen)
    rival = "no full-resolution trial is as accurate"
    if saved is not None:
        rival = f"{describe_share(saved)} less time than full resolution needs for it"
    return f"{words}; {rival}"


def _accuracy(chosen: CompletedTrial, results: StudyFront) -> str:
    """How much accuracy is lost or gained: by the confirmed means where both have them, else by the search's own figures."""
    if results.baseline is None:
        return ""
    means = _confirmed_means(chosen, results)
    own, reached = means or (measured(chosen, ACCURACY), measured(results.baseline, ACCURACY))
    if own is None or reached is None:
        return ""
    points = 100 * (own - reached)
    # Written with one decimal, so what is less than half of that is nothing.
    return " at the same accuracy" if abs(points) < 0.05 else f" at {abs(points):.1f} points {'more' if points > 0 else 'less'} accuracy"


def _confirmed(chosen: CompletedTrial, results: StudyFront) -> str:
    means, found = _confirmed_means(chosen, results), results.confirmation
    if means is None or found is None:
        return "one seed, not confirmed"
    point = found.by_number[chosen.number]
    low, high = (100 * end for end in point.interval)
    interval = f"{describe_value(ACCURACY, means[0])} test accuracy, 95 % interval {low:.2f} to {high:.2f} %"
    luck = "" if point.stays else "; on the front by luck: another confirmed trial beats it"
    return f"confirmed on {len(point.test)} seeds ({interval}){luck}"


def _confirmed_means(chosen: CompletedTrial, results: StudyFront) -> tuple[float, float] | None:
    """Mean test accuracies of a trial and of the baseline, where both are confirmed."""
    points = results.confirmation.by_number if results.confirmation else {}
    baseline = results.baseline
    if baseline is None or chosen.number not in points or baseline.number not in points:
        return None
    return mean(points[chosen.number].test), mean(points[baseline.number].test)


def _share(saved: float) -> str:
    """ "38 % less", with a decimal below ten; "the same" where nothing is left of it."""
    percent = 100 * abs(saved)
    if percent < 0.05:
        return "no less"
    return f"{percent:.{0 if percent >= 10 else 1}f} % {'less' if saved > 0 else 'more'}"
