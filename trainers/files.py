"""Whole files in a folder of this machine or on any file system that fsspec knows, by their path below one root."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from fsspec import AbstractFileSystem


class Files(Protocol):
    """Reading, removing and listing what isn't there is a FileNotFoundError; `write` makes the folders that are missing."""

    def names(self, folder: str) -> list[str]: ...
    def read(self, path: str) -> bytes: ...
    def write(self, path: str, data: bytes) -> None: ...
    def remove(self, path: str) -> None: ...


class Folder:
    """Files on this machine's disks: once written they survive a crash."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self, folder: str) -> list[str]:
        return [path.name for path in (self._root / folder).iterdir()]

    def read(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        write_whole(self._root / path, data)

    def remove(self, path: str) -> None:
        (self._root / path).unlink()

    def made(self, folder: str) -> Path:
        """The path of a folder below the root, made if need be."""
        return made_folder(self._root / folder)


class Objects:
    """Files of another file system. Object stores show a whole object or none; elsewhere a writer that is killed may leave half of it."""

    def __init__(self, file_system: AbstractFileSystem, root: str) -> None:
        self._file_system, self._root = file_system, root.rstrip("/")

    def names(self, folder: str) -> list[str]:
        path = self._path(folder)
        # Other machines write here too, and some file systems remember what they have listed.
        self._file_system.invalidate_cache(path)
        return [str(name).rstrip("/").rsplit("/", 1)[-1] for name in self._file_system.ls(path, detail=False)]

    def read(self, path: str) -> bytes:
        return bytes(self._file_system.cat_file(self._path(path)))

    def write(self, path: str, data: bytes) -> None:
        whole = self._path(path)
        # As fsspec's own open_files does: who may write objects need not be allowed to make a bucket.
        with suppress(PermissionError):
            self._file_system.makedirs(whole.rsplit("/", 1)[0], exist_ok=True)
        self._file_system.pipe_file(whole, data)

    def remove(self, path: str) -> None:
        self._file_system.rm_file(self._path(path))

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root


def write_whole(path: Path, data: bytes) -> None:
    """Writes a local file so that after a crash at any moment `path` holds the old or the new content, never half of it."""
    made_folder(path.parent)
    # The process id keeps two writers apart: a worker taken for dead may still be writing.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def made_folder(path: Path) -> Path:
    """This folder, made with its parents if need be so that a crash does not take it away again."""
    if not path.is_dir():
        made_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)
    return path


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        # Some network file systems can't sync a folder; PostgreSQL's fsync_fname lets these two pass as well.
        if error.errno not in (errno.EBADF, errno.EINVAL):
            raise
    finally:
        os.close(folder)
