"""The best schedules that a table and its surrogate know, by their noise-free accuracy: what a search's choice is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from benchmarks.search_score import Choice
from studies.domains import Value
from studies.space import canonical_params
from tuner.replay.answers import Replay
from tuner.results.front import non_dominated
from tuner.samplers.candidates import Candidates, Point

_FILLING: Final = 1024
_NEIGHBOURS: Final = 128
ROUNDS: Final = 40


def noise_free_front(replay: Replay, rounds: int = ROUNDS, fixed: Mapping[str, Value] | None = None) -> list[Choice]:
    """Undominated relative times and accuracies of the recorded configurations, of space-filling points, and of `rounds` rounds of
    neighbours of the best ones so far. The same table gives the same front; a search may still find something a little better.

    fixed: fields that have one value in all of these points. Twenty seconds with the default rounds.
    """
    space, rng = replay.table.spec.search, np.random.default_rng(0)
    fixed = fixed or {}
    candidates = Candidates(space, fixed)
    known: dict[tuple[object, ...], tuple[Point, Choice]] = {}

    def look_at(points: list[Point]) -> list[Point]:
        for point in (canonical_params(space, point) for point in points):
            # A field that means nothing in a point has its canonical value there, whatever was asked for.
            if (key := tuple(point.values())) not in known and fixed.items() <= point.items():
                known[key] = point, Choice(replay.table.plan_cost(point), replay.answer(point, 0).mean_accuracy)
        kept = non_dominated([choice for _, choice in known.values()], ("minimize", "maximize"))
        return [point for (point, _), on_front in zip(known.values(), kept, strict=True) if on_front]

    best = look_at([dict(training.params) for training in replay.table.trainings] + candidates.filling(_FILLING, rng))
    for _ in range(rounds):
        best = look_at(candidates.neighbours(best, _NEIGHBOURS, rng))
    return sorted(known[tuple(point.values())][1] for point in best)
