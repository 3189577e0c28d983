"""catalog.json: what is committed and what was withdrawn, for readers that cannot list. A copy, never the truth."""

import contextlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from actlas.store.digest import bytes_digest, canonical_json
from actlas.store.disk import Disk
from actlas.store.documents import read_json, seal, unseal
from actlas.store.errors import ActError, Corrupt
from actlas.store.layout import CATALOG, FORMAT, MANIFEST, STAGING, check_format
from actlas.store.lock import file_lock
from actlas.store.manifest import Manifest, parse_manifest
from actlas.store.scan import Scan, is_entry_name, scan
from actlas.store.slug import check_slug
from actlas.store.storage import LocalStorage, Storage
from actlas.store.tombstone import Tombstone, read_tombstones

_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a catalogue says of one entry.

    Attributes
    ----------
    path : str
        Its directory, relative to the store.
    id, key : str
        Digests of its content and of its inputs.
    model, task, rendering, position : str
        The names that it stands under.
    dtype : str
        What the model computed in.
    layers : tuple of int
        The layers kept.
    n_examples, width : int
        Examples, and features.
    n_bytes : int
        Size of its files.
    manifest_xxh3_128 : str
        Digest of its manifest, by which a reader knows whether the record is still true.
    """

    path: str
    id: str
    key: str
    model: str
    task: str
    rendering: str
    position: str
    dtype: str
    layers: tuple[int, ...]
    n_examples: int
    width: int
    n_bytes: int
    manifest_xxh3_128: str

    @property
    def label(self) -> str:
        """What distinguishes the entry from its siblings, for messages and tables."""
        return (
            f"{self.model}/{self.task}/{self.rendering}-{self.position} key={self.key[:8]} dtype={self.dtype} "
            f"layers={len(self.layers)} n={self.n_examples}"
        )


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a store holds.

    Attributes
    ----------
    records : tuple of Record
        Committed entries, sorted by path.
    withdrawn : tuple of Tombstone
        Entries that were taken away.
    problems : mapping
        Entries whose manifest cannot be used, by path, with the error.
    """

    records: tuple[Record, ...]
    withdrawn: tuple[Tombstone, ...]
    problems: dict[str, ActError]

    @property
    def paths(self) -> list[str]:
        """Paths of all entries, whole or damaged."""
        return [*(record.path for record in self.records), *self.problems]


def describe(path: str, manifest: Manifest, data: bytes) -> Record:
    """Return the record of an entry from its manifest, parsed and as bytes."""
    n_examples, width = manifest.n_examples, manifest.arrays["hidden_states"]["shape"][2]
    return Record(
        path=path,
        id=manifest.id,
        key=manifest.identity.key,
        **manifest.names,
        dtype=manifest.identity.dtype,
        layers=manifest.identity.layers,
        n_examples=n_examples,
        width=width,
        n_bytes=manifest.n_bytes,
        manifest_xxh3_128=bytes_digest(data),
    )


def list_store(storage: Storage, model: str = "*", task: str = "*") -> Listing:
    """List a store: a directory by what stands in it, a server by its catalogue.

    Raises
    ------
    Incomplete, Corrupt, Unreachable
        When a server's catalogue cannot be had.
    """
    if not isinstance(storage, LocalStorage):
        return read_catalog(storage)
    return _list_directory(storage, scan(storage.root, model, task))


def _list_directory(storage: LocalStorage, found: Scan, trusted: Callable[[str], bool] = lambda _: False) -> Listing:
    """List what was found in a directory; the catalogue spares parsing, and for trusted paths reading, of manifests."""
    known: dict[str, Record] = {}
    with contextlib.suppress(ActError):  # missing or damaged: it is a copy
        known = {record.path: record for record in read_catalog(storage).records}
    records: list[Record] = []
    problems: dict[str, ActError] = {}
    for path in found.directories:
        if not os.path.exists(f"{storage.location}/{path}/{MANIFEST}"):  # noqa: PTH110  as in `scan`
            continue
        try:
            is_known = trusted(path) and path in known
            records.append(known[path] if is_known else _record(storage, path, known.get(path)))
        except ActError as error:
            problems[path] = error
    return Listing(records=tuple(records), withdrawn=tuple(read_tombstones(storage.root, found)), problems=problems)


def _record(storage: Storage, path: str, known: Record | None) -> Record:
    """Read a manifest; it is parsed only where the catalogue does not know it as it is."""
    name = f"{path}/{MANIFEST}"
    data = storage.read(name, limit=_MANIFEST_BYTES)
    if known is not None and bytes_digest(data) == known.manifest_xxh3_128:
        return known
    return describe(path, parse_manifest(data, storage.where(name)), data)


def read_catalog(storage: Storage) -> Listing:
    """Read the catalogue.

    Raises
    ------
    Incomplete, Corrupt
        When it is missing or was changed.
    InvalidInput
        When it has a newer format.
    """
    where = storage.where(CATALOG)
    body = read_json(storage, CATALOG)
    check_format(body, where)
    body = unseal(body, where)
    try:
        records = tuple(Record(**entry | {"layers": tuple(entry["layers"])}) for entry in body["entries"])
        withdrawn = tuple(Tombstone(**tombstone) for tombstone in body["withdrawn"])
        for record in records:
            _check_path(record)
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{where}: not a catalogue of format {FORMAT} ({error}); `act gc` makes it again") from error
    return Listing(records=records, withdrawn=withdrawn, problems={})


def _check_path(record: Record) -> None:
    top, *names = record.path.split("/")
    if top != "models" or len(names) != 3:
        raise ValueError(f"path {record.path!r}")
    for name in names[:2]:
        check_slug(name, "path")
    if not is_entry_name(names[2]):
        raise ValueError(f"path {record.path!r}")


def catalog_bytes(listing: Listing) -> bytes:
    """Return a catalogue as it is written: on one line, for a large one must be written fast."""
    entries, withdrawn = [vars(record) for record in listing.records], [vars(one) for one in listing.withdrawn]
    return canonical_json(seal({"format": FORMAT, "entries": entries, "withdrawn": withdrawn})) + b"\n"


def rebuild_catalog(disk: Disk, root: Path, *, changed: Collection[str] | None = None) -> None:
    """List the store and write the catalogue, again until nothing was committed or withdrawn meanwhile.

    Parameters
    ----------
    disk : Disk
        What is written to.
    root : Path
        The store.
    changed : collection of str, optional
        The entries that changed, where the catalogue is right about the others: these are not read again.
    """
    storage = LocalStorage(root)
    disk.make_directories(root / STAGING)
    with file_lock(root / STAGING / "catalog.lock", wait=True, holder="rebuilding the catalog"):
        before = None
        while before != (now := scan(root)):
            listing = _list_directory(storage, now, lambda path: changed is not None and path not in changed)
            disk.write_atomically(root / CATALOG, catalog_bytes(listing))
            before = now
