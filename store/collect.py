"""Collecting garbage: what dead writers left in staging, and what lies in the trash; never an entry."""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from actlas.store.catalog import rebuild_catalog
from actlas.store.errors import AlreadyExists
from actlas.store.layout import MANIFEST, STAGING, TRASH
from actlas.store.lock import file_lock, is_locked
from actlas.store.scan import scan
from actlas.store.writer import StoreWriter

OLDER_THAN_SECONDS = 7 * 86400.0

_TEMPORARY_SECONDS = 3600.0  # a living writer holds no lock on these, but renames them at once


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """Something that nobody needs any more.

    Attributes
    ----------
    path : Path
        Where it stands; what belongs to it is removed too.
    what : str
        What it is, for people.
    n_bytes : int
        Size of its files.
    age : float
        Seconds since anything in it changed.
    in_use : bool
        Whether a living process holds its lock, or may be about to rename it.
    """

    path: Path
    what: str
    n_bytes: int
    age: float
    in_use: bool = False


def find_leftovers(root: Path) -> Iterator[Leftover]:
    """Yield what stands in staging and trash, and temporary files that a killed process left."""
    staging = root / STAGING
    for key in sorted({path.name.partition(".")[0] for path in staging.glob("*") if path.name != "catalog.lock"}):
        if key:
            paths = [
                path for path in (staging / key, staging / f"{key}.journal", staging / f"{key}.lock") if path.exists()
            ]
            yield _leftover(staging / key, "an entry under construction", paths, is_locked(staging / f"{key}.lock"))
    for path in sorted((root / TRASH).glob("*")):
        yield _leftover(path, "a withdrawn entry", [path])
    for path in sorted(path for path in _below(root) if path.name.startswith(".") and path.suffix == ".tmp"):
        if path.parent == staging or path.relative_to(root).parts[0] not in (STAGING, TRASH):
            found = _leftover(path, "a temporary file", [path])
            yield replace(found, in_use=found.age < _TEMPORARY_SECONDS)


def collect(writer: StoreWriter, *, older_than: float = OLDER_THAN_SECONDS, dry_run: bool = False) -> list[Leftover]:
    """Remove leftovers that are old enough and that no living process holds, and make the catalogue anew.

    What this user may not remove is left to its owner.

    Parameters
    ----------
    writer : StoreWriter
        The store.
    older_than : float
        Seconds since anything in a leftover changed.
    dry_run : bool
        Only say what would be removed.

    Returns
    -------
    list of Leftover
        What was removed.
    """
    removed = []
    for leftover in find_leftovers(writer.root):
        if leftover.age < older_than or leftover.in_use:
            continue
        if dry_run or _remove(writer, leftover):
            removed.append(leftover)
    if not dry_run:
        _finish_commits(writer)
        rebuild_catalog(writer.disk, writer.root)
    return removed


def _remove(writer: StoreWriter, leftover: Leftover) -> bool:
    disk, path = writer.disk, leftover.path
    if path.parent.name != STAGING or path.suffix == ".tmp":
        with contextlib.suppress(FileNotFoundError, PermissionError):  # another process removes it, or another user's
            disk.remove_tree(path)
            return True
        return False
    lock = path.with_name(f"{path.name}.lock")
    with contextlib.suppress(AlreadyExists, PermissionError), file_lock(lock, wait=False, holder="writing this entry"):
        disk.remove_tree(path)
        disk.unlink(path.with_name(f"{path.name}.journal"))
        return True
    return False


def _finish_commits(writer: StoreWriter) -> None:
    """Take the write permission from directories where a kill came between rename and that."""
    for path in scan(writer.root).directories:
        directory = writer.root / path
        with contextlib.suppress(FileNotFoundError, PermissionError):  # withdrawn meanwhile, or another user's
            if (directory / MANIFEST).exists():
                for one in [*directory.iterdir(), directory]:
                    if one.is_dir() and one.stat().st_mode & 0o222:
                        writer.disk.set_writable(one, False)


def _below(top: Path) -> Iterator[Path]:
    """Yield everything below a directory; unlike rglob, this minds no directory that a writer moves away meanwhile."""
    for directory, directories, files in os.walk(top):
        yield from (Path(directory, name) for name in (*directories, *files))


def _leftover(path: Path, what: str, paths: list[Path], in_use: bool = False) -> Leftover:
    stats = []
    for one in (file for top in paths for file in (top, *_below(top))):
        with contextlib.suppress(FileNotFoundError):  # a writer may be at work
            stats.append(one.lstat())
    put_there = path.parent.name == TRASH  # what counts is when, not when it was written
    changed = [one.st_mtime for one in (stats[:1] if put_there else stats)]
    newest = max(changed, default=time.time())
    n_bytes = sum(one.st_size for one in stats if not stat.S_ISDIR(one.st_mode))
    return Leftover(path=path, what=what, n_bytes=n_bytes, age=time.time() - newest, in_use=in_use)
