"""A local store that receives entries of another one, byte by byte."""

from pathlib import Path

from actlas.store.chunks import in_threads
from actlas.store.digest import file_digest
from actlas.store.entry import Entry
from actlas.store.errors import Mismatch
from actlas.store.labels import join_labels, write_labels
from actlas.store.layout import MANIFEST, STAGING, entry_directory, model_directory, task_directory
from actlas.store.limit import check_limit
from actlas.store.lock import file_lock
from actlas.store.manifest import list_files, read_checked, write_manifest
from actlas.store.model import write_model
from actlas.store.reader import Store
from actlas.store.storage import LocalStorage
from actlas.store.task import write_task
from actlas.store.writer import StoreWriter


def place_of(entry: Entry) -> str:
    """Return where an entry belongs, relative to its store; not where it was found."""
    return entry_directory(entry.model, entry.task, entry.rendering, entry.position, entry.key)


class Mirror:
    """The destination of a copy.

    Parameters
    ----------
    writer : StoreWriter
        The store.
    """

    def __init__(self, writer: StoreWriter) -> None:
        self.writer = writer

    def receive(self, source: Store, entry: Entry) -> tuple[str, bool]:
        """Copy an entry with its model, task and labels; return its id and whether it is new.

        Raises
        ------
        Mismatch
            When other values stand under its key, or its model's name belongs to another checkpoint.
        Corrupt, Incomplete, Unreachable
            When the source cannot be read as it was written.
        """
        staging = self.writer.root / STAGING
        self.writer.disk.make_directories(staging)
        name = f"copy-{entry.key}"
        with file_lock(staging / f"{name}.lock", wait=True, holder=f"copying {entry.label}"):
            there = self._find(entry)
            self._bring_surroundings(source, entry)
            if there is None:
                self._bring(source, entry, staging / name)
            return entry.id, there is None

    def _find(self, entry: Entry) -> Entry | None:
        root, path = self.writer.root, place_of(entry)
        if not (root / path / MANIFEST).exists():
            return None
        there = Entry(LocalStorage(root), path)
        if there.id != entry.id:
            raise Mismatch(
                f"{there.location}: holds other values under this key: expected id {entry.id[:12]}, got {there.id[:12]}; "
                "`act rm` one of the two, or copy into another store"
            )
        return there

    def _bring(self, source: Store, entry: Entry, staged: Path) -> None:
        disk, root = self.writer.disk, self.writer.root
        check_limit(LocalStorage(root), entry.manifest.n_bytes)
        disk.make_directories(staged)
        self._clean(entry, staged)
        for directory in sorted({str(Path(name).parent) for name in entry.manifest.files}):
            disk.make_directory(staged / directory)
        names = list(entry.manifest.files)
        in_threads(lambda name: self._bring_file(source, entry, staged, name), names, source.storage.n_requests)
        write_manifest(disk, staged, entry.manifest)
        for path in sorted(staged.rglob("*")):
            if path.is_dir():
                disk.sync(path)
            else:
                disk.set_writable(path, False)
        disk.sync(staged)
        self.writer.put_in_place(staged, place_of(entry), lambda: self._find(entry))
        disk.remove_tree(staged)  # where another process was first

    def _clean(self, entry: Entry, staged: Path) -> None:
        """Remove what an earlier copy left, but for files that are whole."""
        for name in [*list_files(staged), MANIFEST]:
            file, path = entry.manifest.files.get(name), staged / name
            if path.exists() and (file is None or file_digest(path) != file["xxh3_128"]):
                self.writer.disk.unlink(path)

    def _bring_file(self, source: Store, entry: Entry, staged: Path, name: str) -> None:
        if not (staged / name).exists():
            data = read_checked(source.storage, entry.path, name, entry.manifest.files)
            self.writer.disk.write(staged / name, data)
            self.writer.disk.sync(staged / name)

    def _bring_surroundings(self, source: Store, entry: Entry) -> None:
        """Copy model, task and labels: before the entry, so that no restricted task is ever there without its label."""
        disk, root = self.writer.disk, self.writer.root
        write_model(disk, root, source.model(entry.model))
        for directory, labels in (
            (task_directory(entry.task), source.task_labels(entry.task)),
            (model_directory(entry.model), source.labels(entry.model)),
        ):
            write_labels(disk, root, directory, join_labels(LocalStorage(root), directory, labels))
        write_task(disk, root, entry.read_task())
