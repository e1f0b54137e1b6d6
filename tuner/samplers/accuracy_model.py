"""What accuracy a training will reach: Optuna's Gaussian process over a trend that rises with the known relative time."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from optuna._gp import gp, prior
from scipy.special import expit, logit

Floats = NDArray[np.float64]

# A training whose log odds lie this many deviations below its time's trend has failed; how badly is compressed, because a network that
# learned nothing says little about the ones that did, and would stretch the model's scale.
_FAILED_DEVIATIONS: Final = 2.5
# Differences in log odds below this are noise in every data set.
_SMALLEST_DEVIATION: Final = 1e-2
# Where odds stop growing: beyond what some hundreds of validation images can tell.
_ODDS_ENDS: Final = (0.02, 0.995)
# Means over a normal distribution, by Gauss-Hermite quadrature.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
# Rows from which the kernel's parameters are fitted; they need fewer than the prediction does.
_MOST_FITTED: Final = 200
# One deviation below and above the middle of a normal distribution.
_MIDDLE: Final = (0.1587, 0.8413)
_ROWS_AT_ONCE: Final = 256


class Kernels:
    """The last fitted kernel. It is fitted again when a tenth more trainings have come, because that takes longer than all the rest."""

    def __init__(self) -> None:
        self._count = 0
        self._fitted: Any = None

    def fitted(self, count: int, rows: Floats, residuals: Floats) -> Any:
        """A regressor with fitted parameters. count: trainings that there are; rows: those that the model sees."""
        if self._count != (count := _refit_count(count)):
            chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _MOST_FITTED)).astype(int))
            self._fitted = gp.fit_kernel_params(
                X=rows[chosen],
                Y=residuals[chosen],
                is_categorical=np.zeros(rows.shape[1], dtype=bool),
                log_prior=prior.default_log_prior,
                minimum_noise=prior.DEFAULT_MINIMUM_NOISE_VAR,
                deterministic_objective=False,
            )
            self._count = count
        return self._fitted


class AccuracyModel:
    """Normal distributions of the accuracy that a point has on average over seeds, given trainings whose accuracy is noisy.

    log odds of the accuracy = trend(time) + deviation * f(row) + noise. Odds, because a point more is little in the middle and much near
    the top, where the front is: on recorded trainings that took two fifths off the error there (docs/LOG.md). The trend is
    linear in the logarithm of the relative time and never falls: what is known beforehand of any training. f is a Gaussian process (Matern
    5/2, a length scale each column); its noise is fitted, and repeats of one point with other seeds tell it apart.
    """

    def __init__(self, rows: Floats, times: Floats, accuracies: Floats, kernels: Kernels, count: int | None = None) -> None:
        """rows: shape (n, columns), n > 0. times: relative, above 0. count: trainings that there are, where rows are some of them."""
        odds = logit(np.clip(accuracies, *_ODDS_ENDS))
        self._slope, self._level = _trend(np.log(times), odds)
        residuals = odds - self._expected(times)
        # Of the middle two thirds, whose scale failed trainings don't stretch.
        self._deviation = max(_SMALLEST_DEVIATION, float(np.diff(np.quantile(residuals, _MIDDLE))[0]) / 2)
        residuals = _compressed(residuals / self._deviation)
        fitted = kernels.fitted(count or len(rows), rows, residuals)
        self._tensor = fitted.noise_var.new_tensor
        parameters = (fitted.inverse_squared_lengthscales, fitted.kernel_scale, fitted.noise_var)
        self._gp = gp.GPRegressor(fitted._is_categorical, self._tensor(rows), self._tensor(residuals), *parameters)
        self._gp._cache_matrix()

    def believe(self, rows: Floats) -> None:
        """Takes trainings under way for finished ones with the expected accuracy ("kriging believer", Ginsbourger et al. 2010), so that
        they teach nothing new but leave less to learn beside them."""
        if len(rows):
            points = self._tensor(rows)
            self._gp.append_running_data(points, self._gp.posterior(points)[0])

    def predict(self, rows: Floats, times: Floats) -> tuple[Floats, Floats]:
        """Mean and deviation of each point's accuracy, without the noise of a single training; shapes (n,)."""
        parts = [self._gp.posterior(self._tensor(rows[start : start + _ROWS_AT_ONCE])) for start in range(0, len(rows), _ROWS_AT_ONCE)]
        means = np.concatenate([mean.numpy() for mean, _ in parts])
        variances = np.concatenate([variance.numpy() for _, variance in parts])
        # Beside a point of many repeats the variance rounds to 0, where an expected improvement has no value.
        deviations = np.sqrt(np.maximum(variances, 1e-10))
        return _of_accuracy(self._expected(times) + self._deviation * means, self._deviation * deviations)

    def _expected(self, times: Floats) -> Floats:
        """Log odds of the trend."""
        return np.asarray(self._level + self._slope * np.log(times))


def _refit_count(count: int) -> int:
    """The largest number of a series, each about a tenth above the one before, that is at most `count`."""
    fitted = 1
    while (following := max(fitted + 1, fitted * 11 // 10)) <= count:
        fitted = following
    return fitted


def _of_accuracy(means: Floats, deviations: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation of accuracies whose log odds are normally distributed."""
    values = expit(means[:, None] + deviations[:, None] * _NODES)
    weights = _WEIGHTS / _WEIGHTS.sum()
    expected = values @ weights
    squares = (values - expected[:, None]) ** 2 @ weights
    return np.asarray(expected), np.asarray(np.sqrt(np.maximum(squares, 1e-14)))


def _trend(log_times: Floats, odds: Floats) -> tuple[float, float]:
    """Slope, at least 0, and level of the straight line of least squares."""
    spread = float(np.var(log_times))
    covariance = float(np.mean((log_times - log_times.mean()) * (odds - odds.mean())))
    slope = max(0.0, covariance / spread) if spread > 0 else 0.0
    return slope, float(odds.mean()) - slope * float(log_times.mean())


def _compressed(deviations: Floats) -> Floats:
    below = np.minimum(deviations + _FAILED_DEVIATIONS, 0.0)
    return np.asarray(np.maximum(deviations, -_FAILED_DEVIATIONS) - np.log1p(-below))
