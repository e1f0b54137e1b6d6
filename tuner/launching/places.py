"""Where a study keeps what its trainings write: one folder, or fsspec URL, below which every root trial has its own."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Final

from trainers.errors import InputError
from trainers.places import RootPlace, shown_place
from tuner.storage.store import StudyStore

CHECKPOINTS: Final = "checkpoints"
DEFAULT_PLACE: Final = "runs"
_STUDY_ID: Final = "study_id"


def check_checkpoints(checkpoints: str | None) -> None:
    """InputError where it can be no place, or holds a password: command lines and databases are read by others."""
    if checkpoints is None:
        return
    if shown_place(checkpoints) != checkpoints:
        raise InputError(
            f"--checkpoints is {shown_place(checkpoints)}, it must not hold a password: fsspec's packages take credentials from "
            "the environment or from files of their own"
        )
    RootPlace(checkpoints)


def study_place(store: StudyStore, checkpoints: str | None) -> str:
    """The study's place: below the one that is given, else where its last launch kept it, else in `runs`. Kept with the study."""
    check_checkpoints(checkpoints)
    kept = store.get_attr(CHECKPOINTS)
    if checkpoints is None and kept is not None:
        return str(kept)
    # An id of the study's own: another database may hold a study of the same name.
    place = f"{_absolute(checkpoints or DEFAULT_PLACE)}/{store.name}-{store.keep_first(_STUDY_ID, uuid.uuid4().hex[:8])}"
    store.set_attr(CHECKPOINTS, place)
    return place


def root_place(place: str, root: int) -> RootPlace:
    """The place of one root trial in its study's."""
    return RootPlace(root_path(place, root))


def root_path(place: str, root: int) -> str:
    """Folder or URL of one root trial in its study's place."""
    return f"{place}/root-{root:05d}"


def _absolute(place: str) -> str:
    """Trials run in folders of their own, in which a relative one would lead nowhere."""
    return place.rstrip("/") if "://" in place else str(Path(place).expanduser().absolute())
