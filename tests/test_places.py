"""Places of results and checkpoints: what is kept where, in folders and behind URLs, and what a crash or a full disk leaves."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import uuid
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations
from full_disk import full_disk

from trainers.errors import InputError
from trainers.places import RootPlace, checkpoint_name, shown_place

RECORD = {
    "val_accuracy": 0.1 + 0.2,
    "curve": [1e-300, -0.0, 1 / 3],
    "counts": {"32/full": 5},
    "device": "cpu, 2 Kerne für \u2603",
    "seed": 2**60,
}


@pytest.fixture(params=["folder", "file", "memory"])
def place(request, tmp_path):
    """The same place as a path and as URLs of a local and of another file system, which no test shares."""
    if request.param == "folder":
        return str(tmp_path / "study" / "root-00012")
    if request.param == "file":
        return f"file://{tmp_path}/study/root-00012"
    return f"memory://{uuid.uuid4().hex}/study/root-00012"


class TestEveryPlace:
    def test_nothing_is_there_at_first(self, place):
        root = RootPlace(place)
        assert (root.attempts(), root.checkpoints(), root.result(), root.read(1, "log.txt")) == ([], [], None, None)
        root.remove_checkpoints()
        root.remove(1, "log.txt")

    def test_another_process_finds_what_one_has_written_last(self, place):
        RootPlace(place).write(3, "log.txt", b"first")
        RootPlace(place).write(3, "log.txt", b"second")
        assert RootPlace(place).read(3, "log.txt") == b"second"
        assert RootPlace(place).read(2, "log.txt") is None

    def test_attempts_ascend_as_numbers(self, place):
        root = RootPlace(place)
        for attempt in (10, 2, 1):
            root.write(attempt, "log.txt", b"")
        # Whatever else people keep beside them is none.
        RootPlace(f"{place}/attempt-x").write(4, "log.txt", b"")
        RootPlace(f"{place}/attempt-7-copy").write(5, "log.txt", b"")
        assert root.attempts() == [1, 2, 10]

    def test_checkpoints_of_the_highest_epoch_come_first_then_of_the_highest_attempt(self, place):
        root = RootPlace(place)
        for attempt, epoch in ((1, 3), (1, 4), (2, 4), (2, 5), (10, 4), (10, 123456)):
            root.write(attempt, checkpoint_name(epoch), b"")
        root.write(2, "epoch-00099.pt.4711.tmp", b"")
        root.write(2, "result.json", b"")
        found = root.checkpoints()
        assert [(epoch, attempt) for epoch, attempt, _ in found] == [(123456, 10), (5, 2), (4, 10), (4, 2), (4, 1), (3, 1)]
        assert [path.rsplit("/", 2)[1:] for _, _, path in found[:2]] == [["attempt-10", "epoch-123456.pt"], ["attempt-2", "epoch-00005.pt"]]
        assert all(path.startswith(place) for _, _, path in found)

    def test_an_attempt_keeps_its_newest_two_checkpoints(self, place):
        root = RootPlace(place)
        for attempt, epoch in ((1, 1), (1, 2), (2, 2), (2, 3), (2, 4), (2, 9)):
            root.write(attempt, checkpoint_name(epoch), b"")
        # Epoch 9 was damaged, or the attempt would not be at epoch 4 again.
        root.keep_checkpoints(2, 4)
        assert [(epoch, attempt) for epoch, attempt, _ in root.checkpoints()] == [(4, 2), (3, 2), (2, 1), (1, 1)]

    def test_results_and_logs_outlive_the_checkpoints(self, place):
        root = RootPlace(place)
        for attempt in (1, 2):
            root.write(attempt, checkpoint_name(1), b"")
            root.write(attempt, "log.txt", b"said")
        root.write(2, "epoch-00002.pt.4711.tmp", b"")
        root.write_result(2, RECORD)
        root.remove_checkpoints()
        assert root.checkpoints() == []
        assert root.read(2, "epoch-00002.pt.4711.tmp") is None
        assert root.read(1, "log.txt") == b"said"
        assert root.result() == (2, RECORD)

    def test_the_result_of_the_lowest_attempt_counts(self, place):
        root = RootPlace(place)
        for attempt in (10, 3, 2):
            root.write_result(attempt, {"attempt": attempt})
        root.write(1, "log.txt", b"")
        assert root.result() == (2, {"attempt": 2})

    def test_half_a_result_is_none(self, place):
        root = RootPlace(place)
        root.write_result(2, RECORD)
        whole = root.read(2, "result.json")
        root.write(1, "result.json", whole[: len(whole) // 2])
        with pytest.warns(UserWarning, match=r"root-00012/attempt-1/result\.json is damaged, so it does not count"):
            assert root.result() == (2, RECORD)

    def test_a_place_that_can_be_written_is_left_as_it_was(self, place):
        root = RootPlace(place)
        root.check()
        root.write(1, "log.txt", b"")
        root.check()
        assert root._files.names("") == ["attempt-1"]


@pytest.fixture
def root(tmp_path):
    return RootPlace(str(tmp_path / "root-00001"))


@pytest.mark.filterwarnings("ignore:result .* is damaged")
def test_no_damaged_result_is_taken_for_a_whole_one():
    root = RootPlace(f"memory://{uuid.uuid4().hex}")
    root.write_result(1, {"val_accuracy": 0.125, "curve": [math.nan, -math.inf]})
    whole = root.read(1, "result.json")
    cut = [whole[:length] for length in range(len(whole) - 1)]
    changed = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for data in (*cut, *changed, b"[]", b"{}", b'{"record": {}}', b"\xff", b'{"record": 1, "sha256": ""}'):
        root.write(1, "result.json", data)
        found = root.result()
        # A change to a space between two items changes nothing of the record.
        assert found is None or repr(found[1]) == "{'val_accuracy': 0.125, 'curve': [nan, -inf]}"


def test_figures_that_are_not_finite_stay_readable(root):
    root.write_result(1, {"val_loss": math.nan, "curve": [math.inf, -math.inf]})
    attempt, record = root.result()
    assert (attempt, math.isnan(record["val_loss"]), record["curve"]) == (1, True, [math.inf, -math.inf])
    # As Python's json writes them.
    assert json.loads(root.read(1, "result.json"))["record"]["curve"] == [math.inf, -math.inf]


def test_a_relative_path_and_a_home_are_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    RootPlace("runs/a").write(1, "log.txt", b"1")
    RootPlace("~/runs").write(1, "log.txt", b"2")
    assert (tmp_path / "runs/a/attempt-1/log.txt").read_bytes() == b"1"
    assert (tmp_path / "home/runs/attempt-1/log.txt").read_bytes() == b"2"


def test_only_a_place_on_this_machine_has_a_folder(tmp_path):
    for place in (str(tmp_path / "root"), f"file://{tmp_path}/root"):
        assert RootPlace(place).local_folder(2) == tmp_path / "root" / "attempt-2"
        assert (tmp_path / "root" / "attempt-2").is_dir()
    assert RootPlace(f"memory://{uuid.uuid4().hex}").local_folder(2) is None


def test_a_file_and_its_folders_are_on_the_disk_before_it_is_reported(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, Path.replace

    def recorded_fsync(descriptor):
        fsync(descriptor)
        done.append(("synced", Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path)))

    def recorded_replace(path, target):
        done.append(("named", target.relative_to(tmp_path)))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    RootPlace(str(tmp_path / "runs/root-00001")).write(1, "log.txt", b"said")
    folder = Path("runs/root-00001/attempt-1")
    assert done == [
        *[("synced", made) for made in (Path(), Path("runs"), Path("runs/root-00001"))],
        ("synced", folder / f"log.txt.{os.getpid()}.tmp"),
        ("named", folder / "log.txt"),
        ("synced", folder),
    ]


KILLED = """
import os, signal, sys
from trainers.places import RootPlace, checkpoint_name
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
RootPlace(sys.argv[1]).write(1, checkpoint_name(3), b"new" * 100_000)
"""


def test_a_writer_that_is_killed_leaves_the_old_content(root, tmp_path):
    root.write(1, checkpoint_name(3), b"old")
    process = subprocess.run([sys.executable, "-c", KILLED, str(root)], cwd=Path(__file__).parent.parent, check=False)
    assert process.returncode == -9
    assert len(list(tmp_path.glob("root-00001/attempt-1/*"))) == 2
    assert root.read(1, checkpoint_name(3)) == b"old"
    assert [epoch for epoch, *_ in root.checkpoints()] == [3]
    root.remove_checkpoints()
    assert list(tmp_path.glob("root-00001/attempt-1/*")) == []


def test_a_full_disk_leaves_the_old_content_and_nothing_else(root, tmp_path):
    root.write(1, "result.json", b"old")
    with full_disk(), pytest.raises(OSError, match=r"^\S+/root-00001/attempt-1/result\.json can't be written: File too large$"):
        root.write(1, "result.json", b"new" * 1000)
    assert [path.name for path in tmp_path.glob("root-00001/attempt-1/*")] == ["result.json"]
    assert root.read(1, "result.json") == b"old"


def test_a_folder_that_can_not_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    root = RootPlace(str(tmp_path / "file" / "runs"))
    with pytest.raises(OSError, match=r"/file/runs/attempt-1/log\.txt can't be written: "):
        root.write(1, "log.txt", b"")
    with pytest.raises(OSError, match=r"/file/runs can't be read: Not a directory$"):
        root.attempts()
    with pytest.raises(InputError, match=r"^the place of checkpoints is '\S+/file/runs', it must be one that can be written: "):
        root.check()


class Distant(MemoryFileSystem):
    """A file system that remembers what it was asked to list, and that can be away."""

    protocol = "distant"
    listed: list[str] = []  # noqa: RUF012
    away = False

    def ls(self, path, detail=True, **options):
        Distant.listed.append(path)
        return super().ls(path, detail, **options)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("distant://").rpartition("@")[2])

    def pipe_file(self, path, value, **options):
        if Distant.away:
            raise RuntimeError(f"no answer from\n distant://me:geheim@{path}; geheim was right")
        super().pipe_file(path, value, **options)


@pytest.fixture
def distant(monkeypatch):
    fsspec.register_implementation("distant", Distant, clobber=True)
    monkeypatch.setattr(Distant, "listed", [])
    return f"distant://me:geheim@{uuid.uuid4().hex}"


def test_no_other_root_is_listed(distant):
    for number in range(20):
        for attempt in (1, 2):
            RootPlace(f"{distant}/root-{number:05d}").write(attempt, checkpoint_name(1), b"")
    Distant.listed.clear()
    root = RootPlace(f"{distant}/root-00007")
    root.write_result(2, {})
    assert Distant.listed == []
    root.result()
    root.checkpoints()
    root.keep_checkpoints(2, 1)
    root.remove_checkpoints()
    assert {path.partition("/root-")[2] for path in Distant.listed} == {"00007", "00007/attempt-1", "00007/attempt-2"}


def test_what_goes_wrong_at_a_distance_is_one_sentence_without_the_password(distant, monkeypatch):
    monkeypatch.setattr(Distant, "away", True)
    with pytest.raises(OSError, match=r"log\.txt can't be written: no answer from distant://me:\*\*\*@") as failure:
        RootPlace(distant).write(1, "log.txt", b"")
    assert "geheim" not in f"{failure.value}{RootPlace(distant)}{RootPlace(distant).checkpoints()}"
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("runs/root-00001", "runs/root-00001"),
        ("s3://bucket/runs", "s3://bucket/runs"),
        ("ftp://me@host/runs", "ftp://me@host/runs"),
        ("ftp://me:geheim@host/runs", "ftp://me:***@host/runs"),
        ("ftp://me:ge/h:e@im@host:21/runs", "ftp://me:***@host:21/runs"),
        ("sftp://:geheim@host/runs", "sftp://:***@host/runs"),
        ("simplecache::ftp://me:geheim@host/runs", "simplecache::ftp://me:***@host/runs"),
    ],
)
def test_passwords_are_masked(place, shown):
    assert shown_place(place) == shown


def test_a_protocol_that_is_unknown_is_one_sentence():
    with pytest.raises(InputError) as failure:
        RootPlace("memori://me:geheim@bucket/runs")
    assert str(failure.value) == (
        "the place of checkpoints is 'memori://me:***@bucket/runs', 'memori' must be a protocol that fsspec knows; "
        "the nearest valid name is 'memory'"
    )


def test_a_protocol_whose_package_is_missing_is_one_sentence(monkeypatch):
    missing = {"class": "no_such_package.FileSystem", "err": "Install no_such_package"}
    monkeypatch.setitem(known_implementations, "nowhere", missing)
    with pytest.raises(InputError, match=r"^the place of checkpoints is 'nowhere://x', which needs a package .*: Install no_such_package$"):
        RootPlace("nowhere://x")


def test_a_place_has_a_name():
    with pytest.raises(InputError, match=r"^the place of checkpoints is '', it must be a folder or a URL"):
        RootPlace("")
