"""The search space in Optuna's terms."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from studies.space import Choice, Range, SearchSpace


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Every field that has a choice, in the space's order (frequency first). Fixed fields are no parameters."""
    return {name: _distribution(domain) for name, domain in space.searched.items()}


def _distribution(domain: Choice | Range) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if isinstance(domain.low, int) and isinstance(domain.high, int) and isinstance(domain.step, int | None):
        return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step or 1)
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
