"""`tuner report`: writes the page of a study to one file."""

from __future__ import annotations

from pathlib import Path

from tuner.commands.usage import check_out_file
from tuner.report.document import study_document
from tuner.report.page import report_html
from tuner.results.export import write_whole
from tuner.storage.lookup import open_study


def write_report(reference: str, storage: str | None, out: str | None) -> None:
    """Writes the page and prints its path. RunError while no trial has completed."""
    check_out_file(out)
    store = open_study(reference, storage)
    page = report_html(study_document(store)).encode()
    print(write_whole(Path(out or f"{store.name}-report.html"), lambda temporary: temporary.write_bytes(page)))
