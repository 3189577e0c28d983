"""Locks that die with their process."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from actlas.store.disk import naming
from actlas.store.errors import AlreadyExists


@contextlib.contextmanager
def file_lock(path: Path, *, holder: str, wait: bool, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock that the kernel drops when the process ends, however it ends.

    Parameters
    ----------
    path : Path
        The lock file; made when missing and removed on release. Its directory must exist.
    holder : str
        What a holder of this lock does, for messages.
    wait : bool
        Wait for the other process, or raise at once.
    on_wait : callable, optional
        Told once when there is something to wait for.

    Raises
    ------
    AlreadyExists
        When another process holds the lock and `wait` is false.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with naming(path):
                _take(handle, f"another process is {holder}", wait, on_wait, path)
            if _is_still_there(handle, path):
                break
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the last holder removed the file while we waited: lock the one that replaced it
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _take(handle: int, held: str, wait: bool, on_wait: Callable[[str], None] | None, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if not wait:
            raise AlreadyExists(f"{held}; wait for it to finish, or stop it ({path})") from error
        if on_wait is not None:
            on_wait(f"{held}: waiting for it")
        fcntl.flock(handle, fcntl.LOCK_EX)


def is_locked(path: Path) -> bool:
    """Return whether a living process holds the lock."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _is_still_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
