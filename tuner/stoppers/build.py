"""The stoppers that a study file may name."""

from __future__ import annotations

from studies.spec import StudySpec
from tuner.stoppers import Stopper
from tuner.stoppers.dominance import Dominance
from tuner.stoppers.pareto_asha import ParetoAsha


def build_stopper(spec: StudySpec) -> Stopper | None:
    """The stopper that a study names; None where every trial runs to its end."""
    match spec.stopper.name:
        case "dominance":
            assert spec.stopper.confidence is not None
            return Dominance(spec.stopper.confidence, spec.seed)
        case "pareto_asha":
            return ParetoAsha()
        case "none":
            return None
