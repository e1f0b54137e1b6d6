"""Fills the space between a table's points: the mean accuracy curve of any configuration, how wrong it is, and how much seeds scatter.

Boosted trees on every epoch of every recorded training: scikit-learn's plain ones, which predict a configuration in half a millisecond on
one thread, its histogram ones in six at the same error. They learn the logarithm of an accuracy's odds: a point is much near the top,
where a search looks for its front, and little in the middle (docs/LOG.md). They predict a mean over seeds, so a search that is scored by
it gains nothing from luck; what a search sees has the scatter of real seeds on top (noise.py). Counts and prices are never predicted: the
plan knows them. Trainings whose loss became infinite are in no table, so where those were the surrogate is too kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from studies.domains import Value
from trainers.errors import InputError
from tuner.replay.features import epoch_features
from tuner.replay.noise import SeedNoise
from tuner.replay.table import RecordedTraining, Table

Array = NDArray[np.float64]

FOLDS: Final = 5
# Our own choice: with fewer configurations its error would be known from one or two a fold.
FEWEST: Final = 20
# Fitted to the last epoch too, which is what a search is scored by, as if it had been recorded so many times.
_LAST_EPOCH_WEIGHT: Final = 4.0
# Where odds stop growing: beyond what some hundreds of validation images can tell.
_ODDS_ENDS: Final = (0.02, 0.995)


@dataclass(frozen=True, slots=True)
class HeldOutError:
    """How far predictions are from recorded trainings of configurations that the trees had not seen (folds by configuration, never seed).

    last_rmse, last_mae: of the accuracy after the last epoch, against the mean of the configuration's recorded seeds. curve_rmse: of all
    epochs. seed_sd: of one seed's last accuracy, the part that nobody can predict. spread: standard deviation of the configurations' last
    accuracies, the error of whoever predicts their mean. configurations: how many were held out.
    """

    configurations: int
    last_rmse: float
    last_mae: float
    curve_rmse: float
    seed_sd: float
    spread: float
    model_variance: float

    def __str__(self) -> str:
        return (
            f"{self.configurations} held-out configurations: last accuracy wrong by {self.last_rmse:.4f} (root mean square), "
            f"{self.last_mae:.4f} (mean), all epochs by {self.curve_rmse:.4f}; one seed scatters by {self.seed_sd:.4f}, "
            f"configurations by {self.spread:.4f}"
        )


class SurrogateState(NamedTuple):
    """What is fitted, apart from the table."""

    model: Any
    noise: SeedNoise
    error: HeldOutError


class Surrogate:
    """Predicts curves of any configuration in a table's space. The same table gives the same predictions."""

    def __init__(self, table: Table, state: SurrogateState) -> None:
        self._table = table
        self.state = state

    @classmethod
    def fitted(cls, table: Table) -> Surrogate:
        """A surrogate of all trainings of a table; InputError where they are too few. Fits FOLDS times more to know its error."""
        groups = list(configurations(table).values())
        if len(groups) < FEWEST:
            raise InputError(f"table '{table.spec.name}' has {len(groups)} configurations, a surrogate needs at least {FEWEST}")
        rows = [epoch_features(table, group[0].params) for group in groups]
        noise = SeedNoise(groups)
        return cls(table, SurrogateState(_fitted(rows, groups), noise, _held_out(rows, groups, noise)))

    def mean_curve(self, params: Mapping[str, Value]) -> Array:
        """Expected validation accuracy after each epoch [epochs]."""
        return _predicted(self.state.model, epoch_features(self._table, params))


def configurations(table: Table) -> dict[tuple[Value, ...], list[RecordedTraining]]:
    """The recorded trainings by the values of their canonical parameters, in the table's order."""
    groups: dict[tuple[Value, ...], list[RecordedTraining]] = {}
    for training in table.trainings:
        groups.setdefault(tuple(training.params.values()), []).append(training)
    return groups


def _fitted(rows: Sequence[Array], groups: Sequence[Sequence[RecordedTraining]]) -> Any:
    from sklearn.ensemble import GradientBoostingRegressor  # takes a second to import

    features = np.concatenate([row for row, group in zip(rows, groups, strict=True) for _ in group])
    curves = [np.array(training.curve) for group in groups for training in group]
    weights = np.concatenate([np.r_[np.ones(len(curve) - 1), _LAST_EPOCH_WEIGHT] for curve in curves])
    model = GradientBoostingRegressor(
        n_estimators=400, learning_rate=0.06, max_depth=4, subsample=0.5, max_features=0.3, min_samples_leaf=3, random_state=0
    )
    return model.fit(features, logit(np.clip(np.concatenate(curves), *_ODDS_ENDS)), sample_weight=weights)


def _predicted(model: Any, features: Array) -> Array:
    predicted: Array = expit(model.predict(features))
    return predicted


def _held_out(rows: Sequence[Array], groups: Sequence[Sequence[RecordedTraining]], noise: SeedNoise) -> HeldOutError:
    """Trains FOLDS times without a part of the configurations."""
    folds = np.random.default_rng(0).permutation(np.arange(len(groups)) % FOLDS)
    errors: dict[int, Array] = {}
    variances: dict[int, float] = {}
    for fold in range(FOLDS):
        seen = np.flatnonzero(folds != fold).tolist()
        held_out = np.flatnonzero(folds == fold).tolist()
        model = _fitted([rows[i] for i in seen], [groups[i] for i in seen])
        for i in held_out:
            mean = np.mean([training.curve for training in groups[i]], axis=0)
            errors[i] = _predicted(model, rows[i]) - mean
            variances[i] = noise.last_sd**2 / len(groups[i])
    last = np.array([error[-1] for error in errors.values()])
    return HeldOutError(
        configurations=len(errors),
        last_rmse=float(np.sqrt(np.mean(last**2))),
        last_mae=float(np.mean(np.abs(last))),
        curve_rmse=float(np.sqrt(np.mean(np.concatenate(list(errors.values())) ** 2))),
        seed_sd=noise.last_sd,
        spread=float(np.std([np.mean([training.curve[-1] for training in groups[i]]) for i in errors])),
        model_variance=max(0.0, float(np.mean(last**2) - np.mean(list(variances.values())))),
    )
