"""Ray Tune's view of the study: a searcher that hands out what the dispatcher has ready.

Not Tune's own OptunaSearch: that one loses trials whose result it can't store and counts stopped ones as points of the front.
"""

from __future__ import annotations

from typing import Any

from ray import tune
from ray.tune.search import Searcher

from tuner.launching.dispatcher import Dispatcher
from tuner.launching.jobs import EpochDone


class StudySearcher(Searcher):
    """Suggests jobs. Tune pickles its searcher into the experiment's folder, so only an empty one is left there."""

    def __init__(self, dispatcher: Dispatcher | None = None) -> None:
        super().__init__()
        self._dispatcher = dispatcher

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # Tune's own searchers return FINISHED too
        """A job, None while there is none, FINISHED when there will be none: then Tune asks no more."""
        assert self._dispatcher is not None  # only an unpickled searcher has none, and those are never asked
        job = self._dispatcher.take(trial_id)
        if job is not None:
            return {"job": job}
        return Searcher.FINISHED if self._dispatcher.exhausted else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Passes a worker's last report on; a trial that Tune stopped at the end of a launch is the dispatcher's to give back."""
        if self._dispatcher is None:
            return
        report = result.get("report") if result else None
        if error or not isinstance(report, EpochDone | None):
            self._dispatcher.trial_done(trial_id, None if error else report)
        else:
            self._dispatcher.dropped(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """The database is the one truth; nothing of ours goes into Tune's."""

    def restore(self, checkpoint_path: str) -> None:
        """See save."""

    def __reduce__(self) -> tuple[type[StudySearcher], tuple[()]]:
        return (type(self), ())


class StopWhenAsked(tune.Stopper):
    """Passes workers' reports on, and ends trials that the dispatcher wants no more: stopped early, or finished by another attempt.

    Ends the experiment, too, once the dispatcher has a reason to.
    """

    def __init__(self, dispatcher: Dispatcher | None = None) -> None:
        self._dispatcher = dispatcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        if self._dispatcher is None:
            return False
        # Here and not in the searcher: Tune asks its stopper first, and the trial would train on until its next report.
        if isinstance(report := result.get("report"), EpochDone):
            self._dispatcher.epoch_done(trial_id, report)
        return self._dispatcher.is_unwanted(trial_id)

    def stop_all(self) -> bool:
        return self._dispatcher is not None and self._dispatcher.stop_reason is not None

    def __reduce__(self) -> tuple[type[StopWhenAsked], tuple[()]]:
        return (type(self), ())
