"""A stored study as the front that people look at."""

from __future__ import annotations

from studies.spec import OBJECTIVES, StudySpec
from tuner.front import StudyFront
from tuner.store import StudyStore


def study_front(store: StudyStore) -> StudyFront:
    """The completed trials of a study with what is needed to show them."""
    spec = stored_spec(store)
    return StudyFront(
        study=spec.name,
        model=spec.model,
        full_px=spec.dataset.full_px,
        objectives={name: OBJECTIVES[name] for name in spec.objectives},
        completed=store.trials().completed,
    )


def stored_spec(store: StudyStore) -> StudySpec:
    """The spec that a study was last launched with."""
    return StudySpec.from_json_dict(store.spec_json())
