"""Publishing: an S3 bucket that receives entries. Every object is read back, and the manifest comes last."""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict

from actlas.store.catalog import Listing, Record, catalog_bytes, describe, read_catalog
from actlas.store.chunks import in_threads
from actlas.store.digest import bytes_digest
from actlas.store.documents import json_bytes, seal
from actlas.store.entry import Entry
from actlas.store.errors import Corrupt, Incomplete, InvalidInput, Mismatch, ReadOnly, Unreachable
from actlas.store.labels import join_labels, read_labels
from actlas.store.layout import CATALOG, GROUP_JSON, MANIFEST, model_directory, read_root, root_json, task_directory
from actlas.store.manifest import parse_manifest, read_checked
from actlas.store.mirror import place_of
from actlas.store.model import check_name_is_free
from actlas.store.reader import Store
from actlas.store.remote import RemoteStorage
from actlas.store.storage import Storage
from actlas.store.task import check_table, task_files
from actlas.store.verify import digest_of

_MANIFEST_BYTES = 16 << 20
_CATALOG_ROUNDS = 20
_DEPTH = 4  # models/<model>/<task>/<entry>/manifest.json


class Bucket:
    """The destination of a copy.

    Parameters
    ----------
    storage : Storage
        An ``s3://`` URL.
    source : Store
        Whose token budget a new store gets.

    Raises
    ------
    ReadOnly
        For a web server.
    NotFound
        When there is no such bucket, or something else than a store at this place.
    InvalidInput
        When the store there has another token budget.
    """

    def __init__(self, storage: Storage, source: Store) -> None:
        if not isinstance(storage, RemoteStorage) or not storage.location.startswith("s3://"):
            raise ReadOnly(f"{storage.location}: nothing can be written there; copy to a directory or an s3:// URL")
        self._storage = storage
        if not storage.exists("zarr.json"):
            self._put_checked("models/zarr.json", GROUP_JSON)
            self._put_checked("zarr.json", root_json(source.batch_tokens))
        if (batch_tokens := read_root(storage)) != source.batch_tokens:
            raise InvalidInput(
                f"{storage.location}: its batches have {batch_tokens} tokens, those of {source.location} "
                f"{source.batch_tokens}; values depend on that, so publish into a store of its own"
            )
        self._listed = {record.path for record in self._catalog().records}

    def receive(self, source: Store, entry: Entry) -> tuple[str, bool]:
        """Copy an entry with its model, task and labels; return its id and whether it is new.

        Raises
        ------
        Mismatch
            When other values stand under its key, or its model's name belongs to another checkpoint.
        Corrupt, Incomplete, Unreachable
            When the source cannot be read as it was written, or the bucket does not keep what it was given.
        """
        path = place_of(entry)
        is_there = self._storage.exists(f"{path}/{MANIFEST}")
        if is_there and (there := Entry(self._storage, path)).id != entry.id:
            raise Mismatch(
                f"{there.location}: holds other values under this key: expected id {entry.id[:12]}, got {there.id[:12]}; "
                "copy into another store"
            )
        self._put_surroundings(source, entry)
        if not is_there:
            sizes = self._storage.list(path)
            in_threads(
                lambda name: self._put_file(source, entry, path, name, sizes),
                list(entry.manifest.files),
                self._storage.n_requests,
            )
            self._put_checked(f"{path}/{MANIFEST}", json_bytes(entry.manifest.as_json()))
        if not is_there or path not in self._listed:
            self._put_catalog(path)
        return entry.id, not is_there

    def _put_surroundings(self, source: Store, entry: Entry) -> None:
        """Copy model, task and labels: the labels first, so that no restricted prompt is ever there without its label."""
        model = source.model(entry.model)
        check_name_is_free(self._storage, model.name, model.identity)
        model_place, task_place = model_directory(entry.model), task_directory(entry.task)
        for directory, labels in (
            (task_place, source.task_labels(entry.task)),
            (model_place, source.labels(entry.model)),
        ):
            joined = join_labels(self._storage, directory, labels)
            if joined != read_labels(self._storage, directory):
                self._put_checked(f"{directory}/labels.json", json_bytes(seal(joined)))
        for directory in (model_place, f"{model_place}/{entry.task}"):
            self._put_missing(f"{directory}/zarr.json", GROUP_JSON)
        self._put_missing(f"{model_place}/model.json", json_bytes(seal(asdict(model))))
        self._put_task(entry)

    def _put_task(self, entry: Entry) -> None:
        """Put a task's table, unless a sound one is there already."""
        with contextlib.suppress(Incomplete, Corrupt):
            check_table(self._storage, entry.task, entry.identity.task_digest)
            return
        for name, data in task_files(entry.read_task()).items():
            self._put_checked(name, data)

    def _put_file(self, source: Store, entry: Entry, path: str, name: str, sizes: Mapping[str, int]) -> None:
        """Put one file, unless an earlier copy did."""
        target, file = f"{path}/{name}", entry.manifest.files[name]
        if sizes.get(target) == file["size"] and self._digest(target, file["size"]) == file["xxh3_128"]:
            return
        self._put_checked(target, read_checked(source.storage, entry.path, name, entry.manifest.files))

    def _put_missing(self, name: str, data: bytes) -> None:
        if not self._storage.exists(name):
            self._put_checked(name, data)

    def _put_checked(self, name: str, data: bytes) -> None:
        self._storage.put(name, data)
        if self._digest(name, len(data)) != bytes_digest(data):
            raise Corrupt(
                f"{self._storage.where(name)}: the server gives back other bytes than it was given; copy again"
            )

    def _digest(self, name: str, size: int) -> str:
        return digest_of(self._storage, name, size)

    def _put_catalog(self, path: str) -> None:
        """List the manifests, that of the entry just published among them, and put the catalogue until it stays.

        Nothing is locked: who publishes at the same time may put one that lacks this entry.
        """
        for _ in range(_CATALOG_ROUNDS):
            known = self._catalog()
            wanted = self._listing(path, known)
            if wanted == known:
                return
            self._storage.put(CATALOG, catalog_bytes(wanted))
        raise Unreachable(
            f"{self._storage.where(CATALOG)}: another one is put there again and again; wait until nobody else publishes, "
            "then copy again"
        )

    def _catalog(self) -> Listing:
        with contextlib.suppress(Incomplete, Corrupt):  # missing or damaged: it is a copy
            return read_catalog(self._storage)
        return Listing(records=(), withdrawn=(), problems={})

    def _listing(self, path: str, known: Listing) -> Listing:
        suffix = f"/{MANIFEST}"
        names = [name for name in self._storage.list("models") if name.endswith(suffix) and name.count("/") == _DEPTH]
        by_path = {record.path: record for record in known.records}
        there = {name.removesuffix(suffix) for name in names}
        # Some servers, Swift among them, list a new file only after a while.
        there |= {one for one in {path, *by_path} - there if self._storage.exists(f"{one}{suffix}")}
        records = []
        for one in sorted(there):
            with contextlib.suppress(Incomplete, Corrupt):  # not this entry's fault
                records.append(by_path[one] if one in by_path and one != path else self._describe(one))
        withdrawn = tuple(tombstone for tombstone in known.withdrawn if tombstone.path not in there)
        return Listing(records=tuple(records), withdrawn=withdrawn, problems={})

    def _describe(self, path: str) -> Record:
        name = f"{path}/{MANIFEST}"
        data = self._storage.read(name, limit=_MANIFEST_BYTES)
        return describe(path, parse_manifest(data, self._storage.where(name)), data)
