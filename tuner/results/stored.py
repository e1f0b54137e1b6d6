"""A stored study as the front that people look at."""

from __future__ import annotations

from collections.abc import Sequence

from studies.spec import OBJECTIVES, StudySpec
from tuner.results.front import StudyFront, front
from tuner.storage.lookup import stored_spec
from tuner.storage.store import StudyStore
from tuner.storage.trials import CompletedTrial


def study_front(store: StudyStore) -> StudyFront:
    """The completed trials of a study with what is needed to show them."""
    return front_of(stored_spec(store), store.trials().completed)


def front_of(spec: StudySpec, completed: list[CompletedTrial]) -> StudyFront:
    """The same from trials that are read already."""
    return StudyFront(
        study=spec.name,
        model=spec.model,
        full_px=spec.dataset.full_px,
        objectives={name: OBJECTIVES[name] for name in spec.objectives},
        completed=completed,
    )


def front_roots(spec: StudySpec, completed: Sequence[CompletedTrial]) -> set[int]:
    """Root trials of the points on the front."""
    return {trial.root for trial in front(completed, {name: OBJECTIVES[name] for name in spec.objectives})}
