"""Diagnosis: what is wrong with a store, or will be, and what to type."""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from shlex import quote
from typing import Literal

from actlas.store.catalog import Listing, list_store, read_catalog
from actlas.store.collect import OLDER_THAN_SECONDS, find_leftovers
from actlas.store.entry import Entry
from actlas.store.errors import ActError, Unreachable
from actlas.store.layout import CATALOG, MANIFEST
from actlas.store.limit import read_limit
from actlas.store.model import read_model
from actlas.store.reader import Store
from actlas.store.scan import TOMBSTONE, scan
from actlas.store.storage import LocalStorage
from actlas.store.task import task_path
from actlas.store.tombstone import read_tombstone

_NEARLY_FULL = 0.95
_PATIENCE_SECONDS = 1.0
_LABELS_REMEDY = "restore the file from a copy; a labels.json without one may be removed and made again with act label"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a user should know.

    Attributes
    ----------
    severity : {"error", "warning", "note"}
        Whether something is wrong, will be, or is only worth knowing.
    where : str
        Path or URL.
    what : str
        What was found.
    remedy : str
        What to type, or to do.
    """

    severity: Literal["error", "warning", "note"]
    where: str
    what: str
    remedy: str


def examine(store: Store) -> list[Finding]:
    """Look for everything that can be seen without reading the hidden states; `verify` reads these."""
    if not isinstance(store.storage, LocalStorage):
        return list(_remote(store))
    storage, listing = store.storage, list_store(store.storage)
    return [
        *_entries(store, storage, listing),
        *_models_and_tasks(store, listing),
        *_catalog(store, storage, listing),
        *_tombstones(storage),
        *_leftovers(store, storage),
        *_room(store, storage, listing),
    ]


def _entries(store: Store, storage: LocalStorage, listing: Listing) -> Iterator[Finding]:
    where, root = store.location, storage.root
    for path in scan(root).directories:
        if not (root / path / MANIFEST).exists():
            yield _broken(where, path, "no manifest: this is no entry, and in the way of one")
    for path, problem in listing.problems.items():
        yield _broken(where, path, str(problem))
    for record in listing.records:
        try:
            Entry(storage, record.path).hidden_states  # noqa: B018  opening compares presence and sizes
        except ActError as error:
            yield _broken(where, record.path, str(error))
    writable = [record.path for record in listing.records if _is_writable(root / record.path)]
    if writable:
        yield Finding(
            severity="note",
            where=f"{where}/{writable[0]}",
            what=f"files or directories of {len(writable)} entries can be written to, this one is the first",
            remedy=f"chmod -R a-w {quote(where)}/models/*/*/*/",
        )


def _is_writable(directory: Path) -> bool:
    paths = [directory, *(Path(top, name) for top, *names in os.walk(directory) for name in chain(*names))]
    try:
        return any(path.lstat().st_mode & 0o222 for path in paths)
    except FileNotFoundError:  # withdrawn meanwhile
        return False


def _broken(store: str, path: str, what: str) -> Finding:
    return Finding(
        severity="error",
        where=f"{store}/{path}",
        what=what,
        remedy=f"act rm {quote(store)} {quote(path)}, then ingest it again; or restore it from a copy",
    )


def _models_and_tasks(store: Store, listing: Listing) -> Iterator[Finding]:
    for name in sorted({record.model for record in listing.records}):
        try:
            read_model(store.storage, name)
            store.labels(name)
        except ActError as error:
            yield Finding(severity="error", where=name, what=str(error), remedy=_LABELS_REMEDY)
    for task in sorted({record.task for record in listing.records}):
        try:
            store.task_labels(task)
        except ActError as error:
            yield Finding(severity="error", where=task, what=str(error), remedy=_LABELS_REMEDY)
    missing = set()
    for record in listing.records:
        name = task_path(record.task, Entry(store.storage, record.path).identity.task_digest)
        if name not in missing and not store.storage.exists(name):
            missing.add(name)
            yield Finding(
                severity="error",
                where=store.storage.where(name),
                what=f"the examples of task {record.task!r} are missing",
                remedy="restore the file from a copy, or ingest any model on the task again",
            )


def _catalog(store: Store, storage: LocalStorage, listing: Listing) -> Iterator[Finding]:
    where, remedy = storage.where(CATALOG), f"act gc {quote(store.location)}"
    if not storage.exists(CATALOG):
        if listing.records:
            yield Finding(severity="warning", where=where, what="missing; remote readers need it", remedy=remedy)
        return
    try:
        if differing := _differing(storage):
            time.sleep(_PATIENCE_SECONDS)  # a commit that is under way brings the catalogue up to date at its end
            differing &= _differing(storage)
    except ActError as error:
        yield Finding(severity="warning", where=where, what=str(error), remedy=remedy)
        return
    if differing:
        what = f"differs from what the store holds in {len(differing)} entries; remote readers see the catalogue"
        yield Finding(severity="warning", where=where, what=what, remedy=remedy)


def _differing(storage: LocalStorage) -> set[object]:
    """Return the records and tombstones that only the store or only the catalogue has."""
    there, known = list_store(storage), read_catalog(storage)
    return {*there.records, *there.withdrawn} ^ {*known.records, *known.withdrawn}


def _tombstones(storage: LocalStorage) -> Iterator[Finding]:
    for path in scan(storage.root).tombstones:
        try:
            read_tombstone(storage.root, path)
        except ActError as error:
            file = storage.where(f"{path}{TOMBSTONE}")
            yield Finding(severity="warning", where=file, what=str(error), remedy=f"rm {quote(file)}")


def _leftovers(store: Store, storage: LocalStorage) -> Iterator[Finding]:
    for leftover in find_leftovers(storage.root):
        if leftover.in_use:
            continue
        is_old = leftover.age > OLDER_THAN_SECONDS
        yield Finding(
            severity="warning" if is_old else "note",
            where=str(leftover.path),
            what=f"{leftover.what}, {leftover.n_bytes:,} bytes, untouched for {leftover.age / 86400:.1f} days",
            remedy=f"act gc {quote(store.location)}"
            + ("" if is_old else " --older-than 0s")
            + (", or run the interrupted command again to go on" if "construction" in leftover.what else ""),
        )


def _room(store: Store, storage: LocalStorage, listing: Listing) -> Iterator[Finding]:
    usage = shutil.disk_usage(storage.root)
    if usage.used / usage.total > _NEARLY_FULL:
        yield Finding(
            severity="warning",
            where=store.location,
            what=f"its disk is {usage.used / usage.total:.0%} full, {usage.free:,} bytes are free",
            remedy="free some space, or `act copy` to another disk",
        )
    try:
        limit = read_limit(storage)
    except ActError as error:
        yield Finding(
            severity="error", where=store.location, what=str(error), remedy=f"act limit {quote(store.location)} SIZE"
        )
        return
    used = sum(record.n_bytes for record in listing.records)
    if limit is not None and used > _NEARLY_FULL * limit:
        yield Finding(
            severity="warning",
            where=store.location,
            what=f"its entries hold {used:,} bytes of a limit of {limit:,}",
            remedy=f"act limit {quote(store.location)} SIZE, or `act rm` what is not needed",
        )
    if not os.access(storage.root, os.W_OK):
        yield Finding(
            severity="note",
            where=store.location,
            what="you cannot write to it",
            remedy="nothing, unless you want to ingest: then ask its owner",
        )


def _remote(store: Store) -> Iterator[Finding]:
    try:
        listing = store.listing()
        for record in listing.records[:1]:
            Entry(store.storage, record.path).n_tokens  # noqa: B018  one small read shows whether ranges are served
    except ActError as error:
        can_wait = isinstance(error, Unreachable)
        yield Finding(
            severity="error",
            where=store.location,
            what=str(error),
            remedy="try again later" if can_wait else "ask who serves it to run `act doctor` there",
        )
