"""The name of the code that made a figure, in a git checkout of the test's own."""

from __future__ import annotations

import re
import subprocess

import pytest

from tuner.launching import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A committed checkout with code and a result, as if provenance.py lay in it."""
    for name in ("tuner/code.py", "benchmarks/results/faults.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("committed\n")
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false")
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "tuner" / "provenance.py"))
    return tmp_path


def test_a_commit_has_twelve_digits(checkout):
    assert re.fullmatch(r"[0-9a-f]{12}", provenance.code_commit())


def test_changed_code_is_said(checkout):
    (checkout / "tuner" / "code.py").write_text("changed\n")
    assert re.fullmatch(r"[0-9a-f]{12}\+changes", provenance.code_commit())


def test_a_result_that_is_being_written_is_no_change(checkout):
    (checkout / "benchmarks" / "results" / "faults.json").write_text("half of it\n")
    assert re.fullmatch(r"[0-9a-f]{12}", provenance.code_commit())
