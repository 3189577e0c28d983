"""What an entry must read as, and the promise that every fault is held against: it is there whole and exact, or absent."""

import functools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from actlas.store import EntrySpec, create_store, open_store
from actlas.store.catalog import read_catalog
from actlas.store.storage import LocalStorage
from tests.store.tiny import everything, problems_of, tiny_model, tiny_spec, tiny_task, unlock, write_tiny

_MEMORY = Path("/dev/shm")  # faults are simulated above the file system: a fast one will do
_ROOM_BYTES = 1 << 30


@dataclass(frozen=True)
class Exact:
    """An entry as it is written when nothing interrupts it."""

    id: str
    content: dict[str, bytes]


@functools.cache
def long_spec() -> EntrySpec:
    """Two superblocks, the second of them short."""
    return tiny_spec(model=tiny_model(), task=tiny_task(2052, "long"))


@functools.cache
def short_spec() -> EntrySpec:
    """Five rows of another model."""
    return tiny_spec(model=tiny_model("other", base="0c"), task=tiny_task(5, "short"))


@functools.cache
def long_entry() -> Exact:
    return uninterrupted(long_spec())


@functools.cache
def short_entry() -> Exact:
    return uninterrupted(short_spec())


def uninterrupted(spec: EntrySpec) -> Exact:
    """Write an entry, and return what it is."""
    with scratch() as directory:
        entry = write_tiny(create_store(directory / "lab.act"), spec)
        return Exact(entry.id, everything(entry))


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory that is gone afterwards, in memory where there is room."""
    is_roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
    directory = Path(tempfile.mkdtemp(prefix="torture-", dir=_MEMORY if is_roomy else None))
    try:
        yield directory
    finally:
        remove(directory)


def remove(directory: Path) -> None:
    """Remove a directory whatever its permissions."""
    unlock(directory)
    shutil.rmtree(directory)


def visible(root: Path, *known: Exact) -> set[str]:
    """Return the ids of the entries of a store, after asserting that each is known and exact and nothing is wrong."""
    store = open_store(root)
    contents = {one.id: one.content for one in known}
    entries = store.entries()
    for entry in entries:
        assert entry.id in contents, f"{entry.location}: another id than an uninterrupted run gives"
        assert everything(entry) == contents[entry.id], f"{entry.location}: wrong values"
    problems = problems_of(store)
    assert problems == "", problems
    return {entry.id for entry in entries}


def assert_complete(root: Path, *expected: Exact) -> None:
    """Assert that a store holds exactly these entries, and that its catalogue lists them."""
    ids = {one.id for one in expected}
    assert visible(root, *expected) == ids
    assert {record.id for record in read_catalog(LocalStorage(root)).records} == ids, "missing from the catalogue"
