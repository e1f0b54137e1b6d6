"""What a training in a table's space gives: the recorded one where there is one, else the surrogate's curve with a seed's scatter on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from studies.domains import Value
from studies.space import canonical_params
from trainers.errors import InputError
from trainers.schedule import Step
from tuner.replay.surrogate import Surrogate, configurations
from tuner.replay.table import RecordedTraining, Table

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One training, as a search sees it. curve: validation accuracy after each epoch [epochs]. counts: steps of each kind.

    elapsed_s: training seconds after each epoch [epochs], by the table's prices.
    mean_accuracy: last accuracy that the configuration has on average over seeds, by which a search is scored and which it never sees.
    """

    curve: tuple[float, ...]
    counts: dict[Step, int]
    elapsed_s: tuple[float, ...]
    mean_accuracy: float


class Replay:
    """Answers trainings from a table. surrogate: None knows the recorded configurations only, any other is an InputError.

    The same parameters and seed always give the same answer. Where a configuration was recorded with other seeds only, the seed picks one
    of those trainings, with the counts that it had.
    """

    def __init__(self, table: Table, surrogate: Surrogate | None) -> None:
        self.table = table
        self._surrogate = surrogate
        self._recorded = configurations(table)

    def answer(self, params: Mapping[str, Value], seed: int) -> Answer:
        """The training with these parameters (of the whole space, canonical or not) and this seed."""
        point = canonical_params(self.table.spec.search, params)
        recorded = self._recorded.get(tuple(point.values()), [])
        mean_curve = None if self._surrogate is None else self._surrogate.mean_curve(point)
        training = self._of_seed(recorded, seed) if recorded else self._drawn(point, seed, mean_curve)
        return Answer(
            curve=training.curve,
            counts=training.counts,
            elapsed_s=self._elapsed_s(training),
            mean_accuracy=self._mean_accuracy(mean_curve, recorded),
        )

    def _of_seed(self, recorded: list[RecordedTraining], seed: int) -> RecordedTraining:
        return next((training for training in recorded if training.seed == seed), recorded[seed % len(recorded)])

    def _drawn(self, point: dict[str, Value], seed: int, mean_curve: Array | None) -> RecordedTraining:
        if self._surrogate is None or mean_curve is None:
            raise InputError(f"configuration {point} is not recorded in table '{self.table.spec.name}', it must be without a surrogate")
        curve = np.clip(mean_curve + self._surrogate.state.noise.draw(mean_curve, seed), 0.0, 1.0)
        counts = self.table.plan(point, seed).counts()
        return RecordedTraining(params=point, seed=seed, curve=tuple(curve.tolist()), counts=counts, train_s=None)

    def _mean_accuracy(self, mean_curve: Array | None, recorded: list[RecordedTraining]) -> float:
        """The surrogate's, and the mean of recorded seeds, each weighed by the inverse of its variance."""
        measured = float(np.mean([training.curve[-1] for training in recorded])) if recorded else 0.0
        if self._surrogate is None or mean_curve is None:
            return measured
        error = self._surrogate.state.error
        if not recorded or error.model_variance == 0:
            return float(mean_curve[-1])
        share = error.model_variance / (error.model_variance + error.seed_sd**2 / len(recorded))
        return share * measured + (1 - share) * float(mean_curve[-1])

    def _elapsed_s(self, training: RecordedTraining) -> tuple[float, ...]:
        costs = self.table.costs
        epochs = [sum(costs.costs[step].relative for step in steps) for steps in self.table.plan(training.params, training.seed).epochs]
        # A table that was recorded with another version's plans keeps the price of its own counts.
        scale = costs.seconds(training.counts) / sum(epochs)
        return tuple((np.cumsum(epochs) * scale).tolist())
