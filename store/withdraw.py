"""Withdrawing: an entry is put into the trash, and a tombstone tells readers when and why."""

import getpass
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

from actlas.store.catalog import rebuild_catalog
from actlas.store.errors import ActError, InvalidInput, NotFound
from actlas.store.layout import TRASH
from actlas.store.manifest import read_manifest
from actlas.store.scan import scan
from actlas.store.storage import LocalStorage
from actlas.store.tombstone import Tombstone, write_tombstone
from actlas.store.verify import entry_paths
from actlas.store.writer import StoreWriter


def find_withdrawable(writer: StoreWriter, what: str, *, key: str = "") -> list[str]:
    """Return the entries that a text names, whole or damaged.

    Parameters
    ----------
    writer : StoreWriter
        The store.
    what : str
        ``MODEL``, ``MODEL/TASK``, or the path of one entry below ``models/``.
    key : str
        The first digits of the key that they must have.

    Raises
    ------
    NotFound
        When there is none.
    InvalidInput
        When the text is none of these.
    """
    parts = what.removeprefix("models/").strip("/").split("/")
    if len(parts) > 3:
        raise InvalidInput(f"{what!r}: expected MODEL, MODEL/TASK or the path of an entry")
    model, task, name = [*parts, None, None][:3]
    paths = [
        path
        for path in entry_paths(writer.reader, model, task)
        if name in (None, path.split("/")[3]) and _has_key(writer.root, path, key)
    ]
    if not paths:
        having = f" whose key begins with {key!r}" if key else ""
        raise NotFound(f"{writer.root}: no entry of {what!r}{having}; `act ls --long` lists what there is")
    return paths


def withdraw(writer: StoreWriter, path: str, *, why: str = "") -> Tombstone:
    """Put an entry into the trash; nothing of it is deleted before `collect` does.

    Parameters
    ----------
    writer : StoreWriter
        The store.
    path : str
        The entry's directory, relative to the store; it may be damaged.
    why : str
        The reason, which readers will see.

    Raises
    ------
    NotFound
        When there is no such directory.
    """
    root, disk = writer.root, writer.disk
    if path not in scan(root).directories:
        raise NotFound(f"{root / path}: nothing stands there; `act ls` lists what there is")
    tombstone = Tombstone(
        path=path,
        id=_id_of(root, path),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        who=_user(),
        why=why,
    )
    disk.set_writable(root / path, True)  # a directory that cannot be written cannot be moved
    os.utime(root / path)  # its age in the trash counts from now
    write_tombstone(disk, root, tombstone)  # before the rename: a kill after it leaves the entry as it was
    disk.make_directories(root / TRASH)
    trashed = root / TRASH / f"{path.replace('/', '+')[-200:]}.{secrets.token_hex(4)}"  # names have at most 255 bytes
    disk.rename(root / path, trashed)
    disk.sync((root / path).parent)
    disk.sync(root / TRASH)
    rebuild_catalog(disk, root, changed={path})
    return tombstone


def _has_key(root: Path, path: str, key: str) -> bool:
    """Return whether an entry's key begins so; a damaged one has only the eight digits of its directory."""
    if not path.rpartition("-")[2].startswith(key[:8]):
        return False
    try:
        return len(key) <= 8 or read_manifest(LocalStorage(root), path).identity.key.startswith(key)
    except ActError:
        return False


def _id_of(root: Path, path: str) -> str:
    try:
        return read_manifest(LocalStorage(root), path).id
    except ActError:
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
