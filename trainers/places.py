"""Where a root trial's checkpoints and results are kept: a folder or any fsspec URL, shared by all its attempts. Knows no torch.

<place of the root trial>/attempt-1/epoch-00003.pt, result.json, log.txt: an attempt writes under its own number only.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from fsspec import available_protocols, get_filesystem_class, url_to_fs
from fsspec.implementations.local import LocalFileSystem

from trainers.errors import InputError, nearest_name
from trainers.files import Files, Folder, Objects

RESULT_NAME: Final = "result.json"
_ATTEMPT: Final = re.compile(r"attempt-([1-9]\d*)")
# A killed writer leaves its temporary file.
_CHECKPOINT: Final = re.compile(r"epoch-(\d{5,})\.pt(\.\d+\.tmp)?")
# Up to the last @, because a password may hold any character.
_PASSWORD: Final = re.compile(r"(?<=://)([^/:]*):(.*)@")


class RootPlace:
    """The place of one root trial. Reading what isn't there gives None or nothing; OSError, in one sentence, where the place fails.

    place: a folder, or a URL of a file system that fsspec knows. InputError where it doesn't know it or can't use it here.
    """

    def __init__(self, place: str) -> None:
        self._shown = shown_place(place).rstrip("/")
        self._password = match[2] if (match := _PASSWORD.search(place)) else ""
        self._files = self._open(place)

    def __str__(self) -> str:
        return self._shown

    def attempts(self) -> list[int]:
        """Numbers of the attempts that have written something, ascending."""
        return sorted(int(match[1]) for name in self._names("") if (match := _ATTEMPT.fullmatch(name)))

    def write(self, attempt: int, name: str, data: bytes) -> None:
        """Writes a file of an attempt. In a folder it is afterwards on the disk, and after a failure the old one still is."""
        path = _path(attempt, name)
        with self._errors("written", path):
            self._files.write(path, data)

    def read(self, attempt: int, name: str) -> bytes | None:
        """Content of a file of an attempt; None if there is none."""
        path = _path(attempt, name)
        with self._errors("read", path), suppress(FileNotFoundError):
            return self._files.read(path)
        return None

    def remove(self, attempt: int, name: str) -> None:
        """Removes a file of an attempt, if there is one."""
        path = _path(attempt, name)
        with self._errors("removed", path), suppress(FileNotFoundError):
            self._files.remove(path)

    def write_result(self, attempt: int, record: Mapping[str, Any]) -> None:
        """Writes what came of an attempt, as JSON with a checksum. NaN and infinities stay as Python's json writes and reads them."""
        text = json.dumps(dict(record))
        self.write(attempt, RESULT_NAME, f'{{"sha256": "{_sha256(text)}", "record": {text}}}\n'.encode())

    def result(self) -> tuple[int, dict[str, Any]] | None:
        """Attempt and record of the first whole result: of all attempts the lowest counts. A damaged one is passed over with a warning."""
        for attempt in self.attempts():
            data = self.read(attempt, RESULT_NAME)
            if data is None:
                continue
            if (record := whole_record(data)) is not None:
                return attempt, record
            warnings.warn(f"result {self}/{_path(attempt, RESULT_NAME)} is damaged, so it does not count", stacklevel=2)
        return None

    def checkpoints(self) -> list[tuple[int, int, str]]:
        """Epoch, attempt and path (as shown to people) of every checkpoint, the newest first: highest epoch, then highest attempt."""
        found = [
            (int(match[1]), attempt, f"{self}/{_path(attempt, match[0])}")
            for attempt in self.attempts()
            for match in self._checkpoint_files(attempt)
            if match[2] is None
        ]
        return sorted(found, reverse=True)

    def remove_checkpoints(self) -> None:
        """Removes the checkpoints of all attempts; results and logs stay."""
        for attempt in self.attempts():
            for match in self._checkpoint_files(attempt):
                self.remove(attempt, match[0])

    def keep_checkpoints(self, attempt: int, epoch: int) -> None:
        """Removes an attempt's checkpoints but that of `epoch`, just written, and the one before it: a later one was found damaged."""
        files = self._checkpoint_files(attempt)
        earlier = [int(match[1]) for match in files if match[2] is None and int(match[1]) < epoch]
        kept = {checkpoint_name(number) for number in (epoch, *sorted(earlier)[-1:])}
        for match in files:
            if match[0] not in kept:
                self.remove(attempt, match[0])

    def local_folder(self, attempt: int) -> Path | None:
        """The attempt's folder, made if need be, for what has to be an open file; None where the place is not on this machine's disks."""
        if not isinstance(self._files, Folder):
            return None
        with self._errors("written", _path(attempt)):
            return self._files.made(_path(attempt))

    def check(self) -> None:
        """InputError unless files can be written here and removed again; a folder that is missing is made."""
        name = f"probe-{uuid.uuid4().hex}"
        try:
            with self._errors("written", name):
                self._files.write(name, b"probe")
                self._files.remove(name)
        except OSError as error:
            raise InputError(f"the place of checkpoints is '{self}', it must be one that can be written: {error}") from None

    def _checkpoint_files(self, attempt: int) -> list[re.Match[str]]:
        return [match for name in self._names(_path(attempt)) if (match := _CHECKPOINT.fullmatch(name))]

    def _names(self, folder: str) -> list[str]:
        with self._errors("read", folder), suppress(FileNotFoundError):
            return self._files.names(folder)
        return []

    def _open(self, place: str) -> Files:
        if not place:
            raise InputError("the place of checkpoints is '', it must be a folder or a URL such as s3://bucket/folder")
        if "://" not in place:
            return Folder(Path(place).expanduser())
        # In a chain such as simplecache::s3://bucket every file system must be known.
        for protocol in re.findall(r"(?:^|::)([^:/]*)", place):
            self._check_protocol(protocol)
        with self._errors("reached", ""):
            file_system, path = url_to_fs(place)
            return Folder(Path(path)) if isinstance(file_system, LocalFileSystem) else Objects(file_system, path)

    def _check_protocol(self, protocol: str) -> None:
        try:
            get_filesystem_class(protocol)
        except ValueError:
            rule = f"'{protocol}' must be a protocol that fsspec knows{nearest_name(protocol, available_protocols())}"
            raise InputError(f"the place of checkpoints is '{self}', {rule}") from None
        except ImportError as error:
            raise InputError(f"the place of checkpoints is '{self}', which needs a package that is not installed: {error}") from None

    @contextmanager
    def _errors(self, done: str, path: str) -> Iterator[None]:
        try:
            yield
        # Every file system has exceptions of its own, and their texts may hold the URL with its password.
        except Exception as error:  # noqa: BLE001
            reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            shown = " ".join(shown_place(reason).split())
            shown = shown.replace(self._password, "***") if self._password else shown
            raise OSError(f"{self}{'/' if path else ''}{path} can't be {done}: {shown}") from None


def checkpoint_name(epoch: int) -> str:
    """Name of the checkpoint that was written after so many epochs."""
    return f"epoch-{epoch:05d}.pt"


def shown_place(place: str) -> str:
    """A place, or a text that holds one, with the passwords of its URLs masked."""
    return _PASSWORD.sub(r"\1:***@", place)


def _path(attempt: int, name: str = "") -> str:
    return f"attempt-{attempt}/{name}" if name else f"attempt-{attempt}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def whole_record(data: bytes) -> dict[str, Any] | None:
    """The record in a result file; None where it is damaged."""
    try:
        content = json.loads(data)
    except ValueError:
        return None
    if not isinstance(content, dict) or not isinstance(content.get("record"), dict):
        return None
    record: dict[str, Any] = content["record"]
    # What json has read it writes as it was: it keeps the order of keys and the shortest form of every float.
    return record if content.get("sha256") == _sha256(json.dumps(record)) else None
