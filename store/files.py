"""Files that survive a crash: fsync, atomic replacement, locks that die with their process."""

import contextlib
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actlas.store.digest import bytes_digest, canonical_json
from actlas.store.errors import AlreadyExists, Corrupt, Incomplete

_JSON_BYTES = 64 << 20  # no JSON file of a store comes near; a hostile one is refused before it is parsed


def fsync_path(path: Path) -> None:
    """Flush one file or directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_write_permission(path: Path) -> None:
    """Take the write permission away from everyone."""
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)


def write_atomically(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write `data` so that `path` holds all of it or what it held before.

    Raises
    ------
    FileExistsError
        When `replace` is false and the path exists, however late another process made it.
    """
    # Not the process id: two containers on one file system have the same ones.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_path(path.parent)


def write_json(path: Path, value: object, *, replace: bool = True) -> None:
    """Write a JSON document for people and programs: indented, sorted, atomic."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text.encode("utf-8") + b"\n", replace=replace)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that the store wrote.

    Raises
    ------
    Incomplete
        When the file is missing or cannot be read.
    Corrupt
        When it is no JSON object, or too large to be one of ours.
    """
    try:
        if path.stat().st_size > _JSON_BYTES:
            raise Corrupt(f"{path}: expected a JSON file under {_JSON_BYTES} bytes, got {path.stat().st_size}")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise Incomplete(f"{path}: cannot be read ({error.strerror}); run `act verify` on the store") from error
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{path}: not valid JSON ({error}); run `act verify` on the store") from error
    if not isinstance(value, dict):
        raise Corrupt(f"{path}: expected a JSON object, got {type(value).__name__}; run `act verify` on the store")
    return value


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the XXH3-128 of its canonical form as its field ``checksum``."""
    return value | {"checksum": bytes_digest(canonical_json(value))}


def unseal(path: Path, sealed: dict[str, Any]) -> dict[str, Any]:
    """Return what `seal` was given, for the object read from `path`.

    Raises
    ------
    Corrupt
        When it was changed.
    """
    value = {name: field for name, field in sealed.items() if name != "checksum"}
    try:
        fits = sealed.get("checksum") == bytes_digest(canonical_json(value))
    except ValueError:
        fits = False
    if not fits:
        raise Corrupt(f"{path}: its checksum does not fit its content; restore the file from a copy")
    return value


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool, holder: str) -> Iterator[None]:
    """Hold an exclusive lock that the kernel drops when the process ends, however it ends.

    Parameters
    ----------
    path : Path
        The lock file; made when missing and removed on release.
    wait : bool
        Wait for the other process, or raise at once.
    holder : str
        What a holder of this lock does, for the message.

    Raises
    ------
    AlreadyExists
        When another process holds the lock and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise AlreadyExists(f"another process is {holder}; wait for it to finish, or stop it ({path})") from error
        if _is_still_there(handle, path):
            break
        os.close(handle)  # the last holder removed the file while we waited: lock the one that replaced it
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _is_still_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
