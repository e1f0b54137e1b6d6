"""Arguments and options that several commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def _study_names(incomplete: str) -> list[str]:
    """What a shell completes: built-in studies and the study files here. Stored studies would take a second of loading at each Tab."""
    from studies.files import builtin_names

    folder = Path(f"{incomplete}*").parent
    here = sorted(str(path) for path in folder.glob("*.yaml"))
    return [name for name in (*builtin_names(), *here) if name.startswith(incomplete)]


_STUDY: Any = typer.Argument(
    metavar="STUDY", help="A study's name, or a study file: a built-in one such as digits, or your own.", autocompletion=_study_names
)
Study = Annotated[str, _STUDY]
AnyStudy = Annotated[str | None, _STUDY]
Storage = Annotated[
    str | None,
    typer.Option("--storage", metavar="URL", help="Database; else TUNER_STORAGE, else the study file's, else sqlite:///tuner.db."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of text.")]
Address = Annotated[
    str | None, typer.Option("--address", metavar="ADDR", envvar="RAY_ADDRESS", help="Ray cluster to use; by default one is started here.")
]
Checkpoints = Annotated[
    str | None,
    typer.Option(
        "--checkpoints", metavar="PLACE", help="Folder or fsspec URL for checkpoints and results, shared by all nodes; by default runs."
    ),
]
AcceptNoisy = Annotated[
    bool, typer.Option("--accept-noisy-timing", help="Go on although step times could not be measured well: times are worth less then.")
]
