"""A disk of which one operation fails, or all from one on."""

import errno
import os
import threading
from pathlib import Path

from actlas.store.disk import Data, Disk


class FailingDisk(Disk):
    """A disk that raises at its n-th point of failure.

    An operation has as many points as there are states in which it can leave the disk: a write may fail before the first
    byte, after half of them, or when the file is closed; a rename may not happen, or happen and be reported as failed.

    Parameters
    ----------
    at : int
        The point at which it fails, from 1; at 0 it never does.
    code : int
        The error, e.g. ``errno.EIO``.
    lasting : bool
        Fail from there on, as a disk does that is full or dead. A full disk still removes files.
    """

    def __init__(self, at: int, code: int = errno.EIO, *, lasting: bool = False) -> None:
        self.n_points = 0
        self.is_hit = False
        self._at, self._code, self._lasting = at, code, lasting
        self._lock = threading.Lock()

    def _fail(self, path: Path, *, frees: bool = False) -> None:
        with self._lock:
            self.n_points += 1
            fails = self.n_points == self._at
            if self._lasting and self.is_hit:
                fails = not (frees and self._code == errno.ENOSPC)
            self.is_hit |= fails
        if fails:
            raise OSError(self._code, os.strerror(self._code), str(path))

    def make_directory(self, path: Path) -> None:
        self._fail(path)
        super().make_directory(path)
        self._fail(path)

    def write(self, path: Path, data: Data) -> None:
        self._fail(path)
        super().write(path, _first_half(data))
        self._fail(path)
        super().write(path, data)
        self._fail(path)

    def append(self, path: Path, data: Data) -> None:
        self._fail(path)
        half = _first_half(data)
        super().append(path, half)
        self._fail(path)
        super().append(path, memoryview(data)[len(half) :])
        self._fail(path)

    def sync(self, path: Path) -> None:
        try:
            self._fail(path)
        except OSError:
            # After a failed fsync Linux takes the pages for clean, and what was in them may be lost.
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)
            raise
        super().sync(path)

    def rename(self, source: Path, target: Path) -> None:
        self._fail(target)
        super().rename(source, target)
        self._fail(target)

    def link(self, source: Path, target: Path) -> None:
        self._fail(target)
        super().link(source, target)
        self._fail(target)

    def unlink(self, path: Path) -> None:
        self._fail(path, frees=True)
        super().unlink(path)
        self._fail(path, frees=True)

    def remove_directory(self, path: Path) -> None:
        self._fail(path, frees=True)
        super().remove_directory(path)

    def set_mode(self, path: Path, mode: int) -> None:
        self._fail(path, frees=True)
        super().set_mode(path, mode)


def _first_half(data: Data) -> memoryview:
    view = memoryview(data).cast("B")
    return view[: len(view) // 2]
