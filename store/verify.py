"""Verification: the bytes of a store against what was written."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import xxhash

from actlas.store.catalog import read_catalog
from actlas.store.chunks import in_threads
from actlas.store.documents import read_json
from actlas.store.entry import Entry
from actlas.store.errors import ActError, Corrupt, Incomplete, NotFound, Unreachable, near_misses
from actlas.store.labels import read_labels
from actlas.store.layout import CATALOG, model_directory, task_directory
from actlas.store.limit import read_limit
from actlas.store.manifest import list_files
from actlas.store.model import read_model
from actlas.store.reader import Store
from actlas.store.scan import scan
from actlas.store.slug import check_slug
from actlas.store.storage import LocalStorage, Storage
from actlas.store.task import check_table
from actlas.store.tombstone import read_tombstone

Depth = Literal["size", "sample", "full"]

SAMPLE = 0.05

_PART_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What verifying one entry found.

    Attributes
    ----------
    path : str
        The entry's directory, relative to the store; empty for what belongs to no entry.
    n_bytes : int
        Bytes that were read and compared.
    problems : tuple of str
        One line for each thing that is wrong, with the file's path; empty when all is well.
    """

    path: str
    n_bytes: int
    problems: tuple[str, ...]


def verify(
    store: Store, *, model: str | None = None, task: str | None = None, share: float = 1.0, seed: int = 0
) -> Iterator[Verified]:
    """Re-read the files of every entry, with its model and task, and yield what was found.

    Parameters
    ----------
    store : Store
        The store.
    model, task : str, optional
        Only the entries of this model, on this task.
    share : float
        The share of each entry's files of hidden states that is read, drawn at random, at least one; of the others
        presence and size are compared.
    seed : int
        Of the draw.

    Raises
    ------
    NotFound
        When there is no such model or task.
    Unreachable
        When a server fails.
    """
    paths = entry_paths(store, model, task)
    if model is None and task is None and (problems := tuple(_store_problems(store.storage))):
        yield Verified(path="", n_bytes=0, problems=problems)
    for path in paths:
        yield verify_path(store, path, share=share, seed=seed)


def entry_paths(store: Store, model: str | None = None, task: str | None = None) -> list[str]:
    """Return the directories at which entries stand or should stand, also such that lost their manifest.

    Raises
    ------
    NotFound
        When there is no such model or task.
    """
    for what, name in (("model", model), ("task", task)):
        if name is not None:
            check_slug(name, what)
    storage = store.storage
    # Not by manifest, as readers look: a directory that lost its manifest must be named.
    paths = scan(storage.root).directories if isinstance(storage, LocalStorage) else store.listing().paths
    fits = [path for path in paths if model in (None, path.split("/")[1]) and task in (None, path.split("/")[2])]
    if not fits and not (model is None and task is None):
        raise _nothing_fits(store, paths, model, task)
    return fits


def _nothing_fits(store: Store, paths: list[str], model: str | None, task: str | None) -> NotFound:
    for what, name, place in (("model", model, 1), ("task", task, 2)):
        known = {path.split("/")[place] for path in paths}
        if name is not None and name not in known:
            return NotFound(f"{store.location}: no {what} {name!r}; {near_misses(name, known)}")
    return NotFound(f"{store.location}: model {model!r} has no entry on task {task!r}; `act ls` lists what there is")


def verify_path(store: Store, path: str, *, share: float = 1.0, seed: int = 0) -> Verified:
    """Verify the entry in one directory; see `verify`."""
    try:
        entry = Entry(store.storage, path)
    except (Corrupt, Incomplete) as error:
        return Verified(path=path, n_bytes=0, problems=(str(error),))
    files = sorted(entry.manifest.files)
    drawn = _draw(entry, files, share, seed)
    found = in_threads(
        lambda name: _file_problem(store.storage, entry, name, name in drawn), files, store.storage.n_requests
    )
    problems = [problem for problem in found if problem is not None]
    n_bytes = sum(entry.manifest.files[name]["size"] for name in drawn)
    if not problems:  # where files are damaged, what they say would only say it again
        problems += _index_problems(entry, drawn)
    problems += [*_strangers(store.storage, entry), *_surroundings(store.storage, entry)]
    return Verified(path=path, n_bytes=n_bytes, problems=tuple(problems))


def _draw(entry: Entry, files: list[str], share: float, seed: int) -> set[str]:
    """Return a share of the files of states, at least one, and all others, which are small."""
    states = [name for name in files if name.startswith(("hidden_states/c.", "final_norm/c."))]
    n_drawn = max(1, round(share * len(states)))
    return {*files} - {*states} | {*random.Random(f"{seed} {entry.id}").sample(states, n_drawn)}  # noqa: S311


def check_entry(store: Store, entry: Entry, depth: Depth) -> None:
    """Verify one entry before it is used.

    Raises
    ------
    Corrupt
        When anything is wrong.
    """
    if depth == "size":
        return
    found = verify_path(store, entry.path, share=1.0 if depth == "full" else SAMPLE)
    if found.problems:
        raise Corrupt("\n".join(found.problems))


def _file_problem(storage: Storage, entry: Entry, name: str, is_read: bool) -> str | None:
    path, file = f"{entry.path}/{name}", entry.manifest.files[name]
    try:
        if is_read:
            changed = digest_of(storage, path, file["size"]) != file["xxh3_128"]
            return f"{storage.where(path)}: its bytes are not those that were written" if changed else None
        size = storage.size(path)
    except (Incomplete, Corrupt) as error:
        return str(error)
    if size == file["size"]:
        return None
    return f"{storage.where(path)}: " + ("missing" if size is None else f"expected {file['size']} bytes, got {size}")


def digest_of(storage: Storage, name: str, size: int) -> str:
    """Return the XXH3-128 of a file of known size, read in parts, as 32 hexadecimal digits.

    Raises
    ------
    Incomplete
        When the file is missing or has another size.
    """
    hasher = xxhash.xxh3_128()
    buffer = memoryview(bytearray(min(size, _PART_BYTES)))
    for start in range(0, size, _PART_BYTES):
        part = buffer[: min(_PART_BYTES, size - start)]
        storage.read_into(name, start, [part], size=size)
        hasher.update(part)
    if size == 0:
        storage.read(name, limit=0)
    return hasher.hexdigest()


def _index_problems(entry: Entry, drawn: set[str]) -> Iterator[str]:
    """Look for what digests cannot see: holes that the writer itself left."""
    try:
        for name in entry.array_names():
            array = entry.chunked(name)
            for file in sorted(array.sizes):
                if f"{name}/{file}" in drawn:
                    array.check_index(file)
    except Unreachable:  # a server that fails says nothing of the store
        raise
    except ActError as error:
        yield str(error)


def _strangers(storage: Storage, entry: Entry) -> Iterator[str]:
    if isinstance(storage, LocalStorage):
        for name in sorted({*list_files(storage.root / entry.path)} - {*entry.manifest.files}):
            yield f"{entry.location}/{name}: not part of the entry"


def _surroundings(storage: Storage, entry: Entry) -> Iterator[str]:
    _, model, task, name = entry.path.split("/")
    if (model, task) != (entry.model, entry.task) or not name.endswith(entry.key[:8]):
        yield f"{entry.location}: this entry belongs in {storage.where(f'models/{entry.model}/{entry.task}')}"
    try:
        check_table(storage, entry.task, entry.identity.task_digest)
        read_labels(storage, model_directory(model))
        read_labels(storage, task_directory(entry.task))
        if read_model(storage, model).identity.digest != entry.identity.model_digest:
            yield f"{entry.location}: model.json beside it describes another checkpoint"
        for group in (f"models/{model}", f"models/{model}/{task}"):
            yield from _group_problem(storage, group)
    except Unreachable:  # a server that fails says nothing of the store
        raise
    except ActError as error:
        yield str(error)


def _group_problem(storage: Storage, group: str) -> Iterator[str]:
    name = f"{group}/zarr.json".lstrip("/")
    metadata = read_json(storage, name)
    if not group:
        metadata |= {"attributes": {}}  # those of the root are sealed, and were checked when the store was opened
    if metadata != {"zarr_format": 3, "node_type": "group", "attributes": {}}:
        yield f"{storage.where(name)}: not a plain Zarr group; its bytes are not those that were written"


def _store_problems(storage: Storage) -> Iterator[str]:
    """Check what belongs to no entry."""
    try:
        for group in ("", "models"):
            yield from _group_problem(storage, group)
        if storage.exists(CATALOG):
            read_catalog(storage)
        if isinstance(storage, LocalStorage):
            read_limit(storage)
            for path in scan(storage.root).tombstones:
                read_tombstone(storage.root, path)
    except Unreachable:  # a server that fails says nothing of the store
        raise
    except ActError as error:
        yield str(error)
