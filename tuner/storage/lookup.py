"""Which stored study a command means, and in which database."""

from __future__ import annotations

from collections.abc import Sequence

from studies.files import load_study, names_file, study_name
from studies.spec import StudySpec
from trainers.errors import InputError
from tuner.storage.opening import holds_studies, open_existing, open_storage, resolve_url
from tuner.storage.sqlite_file import check_sqlite_file
from tuner.storage.store import StudyStore


def open_study(reference: str, storage: str | None) -> StudyStore:
    """The stored study that a command means."""
    name = study_name(reference)
    in_file = load_study(reference).storage if names_file(reference) else None
    return StudyStore.load(open_existing(database_url(storage, in_file)), name)


def spec_to_launch(reference: str, storage: str | None, overrides: Sequence[str]) -> StudySpec:
    """A study file's, or, where no file is meant, that of the stored study of this name."""
    if not names_file(reference):
        url = database_url(storage, None)
        # Looked at first, because a mistyped name must not leave an empty database behind.
        if holds_studies(url) and reference in StudyStore.names(opened := open_storage(url)):
            if overrides:
                raise InputError(f"--set changes a study file, but '{reference}' is the name of a stored study: name its file")
            return stored_spec(StudyStore.load(opened, reference))
    return load_study(reference, overrides)


def database_url(storage: str | None, in_file: str | None) -> str:
    """The database that a command means, as `resolve_url` finds it; InputError too where it is a file that SQLite can't use."""
    return check_sqlite_file(resolve_url(storage, in_file))


def stored_spec(store: StudyStore) -> StudySpec:
    """The spec that a study was last launched with."""
    return StudySpec.from_json_dict(store.spec_json())
