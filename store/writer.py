"""Writing: a store open for writing, in which an entry is built in staging and committed whole."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actlas.store.catalog import rebuild_catalog
from actlas.store.disk import Disk
from actlas.store.entry import Entry
from actlas.store.entry_writer import EntryWriter
from actlas.store.errors import AlreadyExists, ReadOnly
from actlas.store.labels import write_labels
from actlas.store.layout import (
    BATCH_TOKENS,
    MANIFEST,
    STAGING,
    create_root,
    ensure_group,
    entry_directory,
    model_directory,
    task_directory,
)
from actlas.store.limit import check_limit
from actlas.store.lock import file_lock
from actlas.store.model import check_name_is_free, write_model
from actlas.store.reader import Store
from actlas.store.spec import EntrySpec
from actlas.store.storage import LocalStorage, open_storage
from actlas.store.task import write_task
from actlas.store.tombstone import remove_tombstone


class StoreWriter:
    """A store open for writing.

    Attributes
    ----------
    root : Path
        Its directory.
    reader : Store
        The same store, open for reading.
    disk : Disk
        What it is written through.
    """

    def __init__(self, place: str | Path, *, disk: Disk | None = None) -> None:
        self.root = writable_root(place)
        self.disk = disk or Disk()
        self.reader = Store(self.root)

    def __repr__(self) -> str:
        return f"<StoreWriter {self.root}>"

    @property
    def _storage(self) -> LocalStorage:
        return LocalStorage(self.root)

    def path_of(self, spec: EntrySpec) -> str:
        """Return the directory in which an entry stands, relative to the store."""
        return entry_directory(spec.model.name, spec.task.slug, spec.rendering, spec.position, spec.identity.key)

    def find(self, spec: EntrySpec) -> Entry | None:
        """Return the committed entry of this key, or None.

        Raises
        ------
        Mismatch
            When the model's name belongs to another checkpoint.
        """
        check_name_is_free(self._storage, spec.model.name, spec.model.identity)
        path = self.path_of(spec)
        if not (self.root / path / MANIFEST).exists():
            return None
        entry = Entry(self._storage, path)
        if entry.key != spec.identity.key:
            raise AlreadyExists(
                f"{entry.location}: holds key {entry.key}, expected {spec.identity.key}: the first digits collide"
            )
        return entry

    def label(self, model: str, labels: Mapping[str, Any]) -> dict[str, Any]:
        """Merge labels into those of a model that has entries, and return them all; None takes one away.

        Raises
        ------
        NotFound
            When the store has no entry of such a model.
        """
        self.reader.model(model)
        return write_labels(self.disk, self.root, model_directory(model), labels)

    def label_task(self, task: str, labels: Mapping[str, Any]) -> dict[str, Any]:
        """Merge labels into those of a task that has entries, and return them all; None takes one away.

        Raises
        ------
        NotFound
            When the store has no entry on such a task.
        """
        self.reader.task_labels(task)
        return write_labels(self.disk, self.root, task_directory(task), labels)

    @contextmanager
    def new_entry(self, spec: EntrySpec, *, on_wait: Callable[[str], None] | None = None) -> Iterator[EntryWriter]:
        """Build an entry in staging; whatever happens inside, nothing of it is visible before `commit`.

        Superblocks that a killed writer left under this key are taken over: begin with the example `n_written`. Where
        another process is writing this entry, this waits for it; where it is committed by then, `n_written` is all of it.

        Parameters
        ----------
        spec : EntrySpec
            What it is.
        on_wait : callable, optional
            Told once, with a message, when there is something to wait for.
        """
        staging = self.root / STAGING
        self.disk.make_directories(staging)
        lock = staging / f"{spec.identity.key}.lock"
        with file_lock(lock, wait=True, holder=f"writing {spec.names}", on_wait=on_wait):
            writer = EntryWriter(self.disk, self.root, spec, committed=self.find(spec))
            try:
                yield writer
            finally:
                if writer.n_written == 0:
                    writer.forget()

    def commit(
        self, writer: EntryWriter, provenance: Mapping[str, Any], labels: Mapping[str, Any] | None = None
    ) -> Entry:
        """Make a complete entry visible, with its model and task, by one rename.

        Returns
        -------
        Entry
            The committed entry; another process's, where one with the same key came first.

        Raises
        ------
        AlreadyExists
            When something that is not this entry stands in its place.
        InvalidInput
            When the entry is not complete, or the store would grow beyond its limit.
        """
        if writer.committed is not None:
            writer.forget()
            rebuild_catalog(self.disk, self.root, changed={writer.committed.path})  # a kill may have come before it
            return writer.committed
        writer.finish(provenance)
        spec, path = writer.spec, self.path_of(writer.spec)
        check_limit(self._storage, writer.n_bytes)
        write_model(self.disk, self.root, spec.model)
        if labels:
            write_labels(self.disk, self.root, model_directory(spec.model.name), labels)
        write_task(self.disk, self.root, spec.task)
        entry = self.put_in_place(writer.directory, path, lambda: self.find(spec))
        writer.forget()
        return entry

    def put_in_place(self, staged: Path, path: str, find: Callable[[], Entry | None]) -> Entry:
        """Rename a sealed directory from staging to its place, and bring the catalogue up to date.

        Parameters
        ----------
        staged : Path
            The directory.
        path : str
            Its place, relative to the store.
        find : callable
            Returns the entry that belongs there, if it is there.

        Raises
        ------
        AlreadyExists
            When something else stands in its place.
        """
        final = self.root / path
        ensure_group(self.disk, final.parent.parent)
        ensure_group(self.disk, final.parent)
        try:
            self.disk.rename(staged, final)
        except OSError as error:
            # Another process was first, or NFS lost the answer to a rename that worked: what is there decides.
            if (entry := find()) is None:
                if not final.exists():
                    raise
                raise AlreadyExists(
                    f"{final}: cannot be put there ({error.strerror}); `act rm` what stands in its place"
                ) from error
            if staged.exists():
                return entry
        self.disk.sync(final.parent)
        for directory in [*final.iterdir(), final]:
            if directory.is_dir():
                self.disk.set_writable(directory, False)
        remove_tombstone(self.disk, self.root, path)
        rebuild_catalog(self.disk, self.root, changed={path})
        return Entry(self._storage, path)


def writable_root(place: str | Path) -> Path:
    """Return the directory of a store that is to be written to.

    Raises
    ------
    ReadOnly
        For a URL, or a directory that this user cannot write to.
    """
    storage = open_storage(place)
    if not isinstance(storage, LocalStorage):
        raise ReadOnly(
            f"{storage.location}: a store at a URL is read-only; write to a local store, then publish it with `act copy`"
        )
    if storage.root.exists() and not os.access(storage.root, os.W_OK):
        raise ReadOnly(f"{place}: this store cannot be written to; ask its owner, or ingest into a store of your own")
    return storage.root


def create_store(path: str | Path, *, batch_tokens: int = BATCH_TOKENS) -> StoreWriter:
    """Make an empty store and open it for writing.

    Parameters
    ----------
    path : str or Path
        A new path, or an empty directory.
    batch_tokens : int
        Padded tokens in one batch, the same for every checkpoint of the store.

    Raises
    ------
    AlreadyExists
        When something stands at `path`.
    ReadOnly
        For a URL.
    """
    create_root(Disk(), writable_root(path), batch_tokens)
    return StoreWriter(path)


def open_writer(path: str | Path) -> StoreWriter:
    """Open a store for writing.

    Raises
    ------
    NotFound
        When there is no store at `path`.
    ReadOnly
        When this user cannot write there, or it is a URL.
    """
    return StoreWriter(path)
