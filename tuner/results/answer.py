"""What `tuner best` says of the trial that it took: the answer as a person would say it, what it needs, and what to do next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

from tuner.results.best import Offer, nearest_offer
from tuner.results.describe import describe_schedule, describe_share, describe_training, describe_value, percent, printable, schedule_of
from tuner.results.front import ACCURACY, TIME, StudyFront, baseline, measured
from tuner.results.split import needed_words, split_words, time_split, trained_with
from tuner.storage.trials import CompletedTrial


def judged_trials(results: StudyFront) -> Sequence[CompletedTrial]:
    """What a choice is made from: the completed trials; once all of the front is confirmed, the confirmed ones with their means."""
    found = results.confirmation
    return results.completed if found is None or found.missing else found.judged


def best_trial(results: StudyFront, take: Callable[[Sequence[CompletedTrial]], CompletedTrial]) -> CompletedTrial:
    """What `take` takes of a study's completed trials; once all of the front is confirmed, of the confirmed ones by their means."""
    number = take(judged_trials(results)).number
    return next(trial for trial in results.completed if trial.number == number)


def best_answer(chosen: CompletedTrial, results: StudyFront) -> str:
    """A trial in one sentence: time against the baseline and how it splits, accuracy, and whether that is confirmed."""
    return f"{_answer(chosen, results)}, {_confirmed(chosen, results)}"


def best_next(chosen: CompletedTrial, results: StudyFront) -> str | None:
    """What to do where full resolution was taken: the nearest schedule that is faster; None where a schedule was taken."""
    if chosen.rival is None:
        return None
    more = f"more trials may find a better one (tuner launch {printable(results.study)} --trials N)"
    offer = nearest_offer(judged_trials(results), chosen)
    if offer is None:
        return f"no schedule is faster so far; {more}"
    return f"the nearest schedule that is faster: {offer_words(offer, results)}; {more}"


def offer_words(offer: Offer, results: StudyFront) -> str:
    """ "trial 11 takes 7.4 % less time than the baseline at 1.3 points less accuracy (tuner best digits --max-drop 0.014)"."""
    reference = baseline(judged_trials(results))
    points = accuracy_words(measured(offer.trial, ACCURACY), measured(reference, ACCURACY) if reference else None)
    command = f"tuner best {printable(results.study)} --max-drop {offer.max_drop:g}"
    return f"trial {offer.trial.number} takes {_time_words(offer.trial)}{points} ({command})"


def best_details(chosen: CompletedTrial, results: StudyFront) -> str:
    """What the search measured of it, against the baseline and against full resolution, and how it trains."""
    time_frac, accuracy = measured(chosen, TIME), measured(chosen, ACCURACY)
    reached = measured(results.baseline, ACCURACY) if results.baseline else None
    words = f"trial {chosen.number}: {describe_schedule(chosen.params, results.full_px)}; {describe_training(chosen.params)}"
    if time_frac is not None:
        words += f"; {describe_value(TIME, time_frac)} of the baseline's time"
    if accuracy is not None:
        words += f" at {describe_value(ACCURACY, accuracy)} validation accuracy"
        words += f" ({100 * (accuracy - reached):+.2f} points)" if reached is not None else ""
    if chosen.rival is not None:
        return words
    saved = results.time_saved(chosen)
    rival = "no full-resolution trial is as accurate"
    return f"{words}; {rival if saved is None else f'{_share(saved)} time than full resolution needs for it'}"


def best_needs(chosen: CompletedTrial, results: StudyFront) -> str:
    """Which epochs, learning rate and weight decay its figures need, and what the schedule saves without them."""
    return needed_words(chosen, time_split(chosen, results.baseline))


def best_record(chosen: CompletedTrial, results: StudyFront) -> dict[str, Any]:
    """The answer for programs, JSON-ready; shares in [0, 1]. split: against the baseline. offer: as `best_next` tells it, else None."""
    split = time_split(chosen, results.baseline)
    point = results.confirmation and results.confirmation.by_number.get(chosen.number)
    offer = nearest_offer(judged_trials(results), chosen) if chosen.rival else None
    return {
        "study": results.study,
        "trial": chosen.number,
        "rival": chosen.rival,
        "answer": best_answer(chosen, results),
        "next": best_next(chosen, results),
        "relative_time": measured(chosen, TIME),
        "val_accuracy": measured(chosen, ACCURACY),
        "baseline_val_accuracy": measured(results.baseline, ACCURACY) if results.baseline else None,
        "time_saved_vs_full_resolution": results.time_saved(chosen),
        "split": split and split.to_dict(),
        "train_with": trained_with(chosen),
        "schedule": schedule_of(chosen).to_dict(),
        "confirmation": point.to_dict() if point else None,
        "offer": offer and {"trial": offer.trial.number, "max_drop": offer.max_drop, **_judged_figures(offer.trial)},
    }


def accuracy_words(own: float | None, reached: float | None) -> str:
    """ " at 1.3 points less accuracy", "" where one of the two is not known."""
    if own is None or reached is None:
        return ""
    points = 100 * (own - reached)
    # Written with one decimal, so what is less than half of that is nothing.
    return " at the same accuracy" if abs(points) < 0.05 else f" at {abs(points):.1f} points {'more' if points > 0 else 'less'} accuracy"


def _answer(chosen: CompletedTrial, results: StudyFront) -> str:
    better = "no schedule is better by this rule than"
    if chosen.rival == "baseline":
        return f"{better} the baseline itself, full resolution for all epochs"
    split = time_split(chosen, results.baseline)
    parts = f" ({split_words(split)})" if split and (chosen.rival is None or split.epochs != split.full_epochs) else ""
    saved = f"{_time_words(chosen)}{parts}{_accuracy(chosen, results)}"
    return saved if chosen.rival is None else f"{better} full resolution, trial {chosen.number}: {saved}"


def _time_words(trial: CompletedTrial) -> str:
    time_frac = measured(trial, TIME)
    return "a time that is not known" if time_frac is None else f"{_share(1 - time_frac)} time than the baseline"


def _judged_figures(trial: CompletedTrial) -> dict[str, float | None]:
    return {"relative_time": measured(trial, TIME), "accuracy": measured(trial, ACCURACY)}


def _accuracy(chosen: CompletedTrial, results: StudyFront) -> str:
    """How much accuracy is lost or gained: by the confirmed means where both have them, else by the search's own figures."""
    if results.baseline is None:
        return ""
    means = _confirmed_means(chosen, results)
    return accuracy_words(*(means or (measured(chosen, ACCURACY), measured(results.baseline, ACCURACY))))


def _confirmed(chosen: CompletedTrial, results: StudyFront) -> str:
    means, found = _confirmed_means(chosen, results), results.confirmation
    if means is None or found is None:
        return "one seed, not confirmed"
    point = found.by_number[chosen.number]
    low, high = (percent(end, 2) for end in point.interval)
    interval = f"{describe_value(ACCURACY, means[0])} test accuracy, 95 % interval {low} to {high} %"
    luck = "" if point.stays else "; on the front by luck: another confirmed trial beats it"
    return f"confirmed on {len(point.test)} seeds ({interval}){luck}"


def _confirmed_means(chosen: CompletedTrial, results: StudyFront) -> tuple[float, float] | None:
    """Mean test accuracies of a trial and of the baseline, where both are confirmed."""
    points = results.confirmation.by_number if results.confirmation else {}
    reference = results.baseline
    if reference is None or chosen.number not in points or reference.number not in points:
        return None
    return mean(points[chosen.number].test), mean(points[reference.number].test)


def _share(saved: float) -> str:
    """ "38.2 % less"; "no less" where nothing is left of it."""
    shown = describe_share(abs(saved))
    return "no less" if shown == describe_share(0.0) else f"{shown} {'less' if saved > 0 else 'more'}"
