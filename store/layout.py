"""Where things stand in a store, by their names relative to its top, and what its root says."""

import json
import os
from itertools import chain
from pathlib import Path
from typing import Any

from actlas.store.disk import Disk
from actlas.store.documents import read_json, seal, unseal
from actlas.store.errors import AlreadyExists, Corrupt, Incomplete, InvalidInput, NotFound
from actlas.store.slug import check_slug
from actlas.store.storage import LocalStorage, Storage

FORMAT = 1
BATCH_TOKENS = 16384  # padded tokens in one batch, the default of a new store

GROUP_JSON = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}).encode()
CATALOG = "catalog.json"
MANIFEST = "manifest.json"
STAGING, TRASH = ".staging", ".trash"


def task_directory(task: str) -> str:
    """Return the directory of a task's tables."""
    return f"tasks/{check_slug(task, 'task')}"


def model_directory(model: str) -> str:
    """Return the directory of a model's entries."""
    return f"models/{check_slug(model, 'model')}"


def entry_directory(model: str, task: str, rendering: str, position: str, key: str) -> str:
    """Return the directory of one entry."""
    name = f"{check_slug(rendering, 'rendering')}-{check_slug(position, 'position')}-{key[:8]}"
    return f"{model_directory(model)}/{check_slug(task, 'task')}/{name}"


def create_root(disk: Disk, root: Path, batch_tokens: int) -> None:
    """Make an empty store; `root` must not exist or be an empty directory.

    Raises
    ------
    AlreadyExists
        When something stands there.
    InvalidInput
        When the directory cannot be made, or the token budget is not positive.
    """
    if batch_tokens < 1:
        raise InvalidInput(f"batch_tokens: expected a positive number of tokens, got {batch_tokens}")
    if store_exists(root):
        raise AlreadyExists(f"{root}: expected a new path or an empty directory for a new store; choose another path")
    try:
        for directory in (root, root / "tasks", root / "models"):
            disk.make_directory(directory)
        disk.write_atomically(root / "models" / "zarr.json", GROUP_JSON)
        disk.sync(root)  # the root's own file, which makes it a store, must not be kept where these names are lost
        disk.write_atomically(root / "zarr.json", root_json(batch_tokens))
        disk.sync(root.absolute().parent)
    except OSError as error:
        raise InvalidInput(f"{root}: the store cannot be made there ({error.strerror})") from error


def store_exists(root: Path) -> bool:
    """Return whether anything stands at a path that is more than an empty directory or an unfinished store."""
    return root.exists() and not (root.is_dir() and is_unfinished(root))


def is_unfinished(root: Path) -> bool:
    """Return whether a directory is empty, or holds only what a `create_root` that was killed leaves."""
    # Unlike rglob, os.walk minds no directory that a writer moves away meanwhile; and a store is known by its first names.
    below = (Path(directory, name) for directory, *names in os.walk(root) for name in chain(*names))
    return all(
        path.relative_to(root).as_posix() in {"tasks", "models", "models/zarr.json"} or path.name.endswith(".tmp")
        for path in below
    )


def root_json(batch_tokens: int) -> bytes:
    """Return the metadata of the root group."""
    attributes = {"actlas": seal({"format": FORMAT, "batch_tokens": batch_tokens})}
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1).encode()


def read_root(storage: Storage) -> int:
    """Check that there is a store that this version reads, and return its token budget.

    Raises
    ------
    NotFound
        When there is nothing, or no store.
    InvalidInput
        When a newer actlas wrote it.
    Corrupt
        When its root metadata cannot be understood.
    Unreachable
        When the server fails.
    """
    if isinstance(storage, LocalStorage) and not storage.root.exists():
        raise NotFound(f"no store at {storage.location}: the path does not exist; `act ingest` makes one")
    try:
        attributes = read_json(storage, "zarr.json").get("attributes")
    except Incomplete as error:
        raise NotFound(
            f"{storage.location} is not an actlas store: it has no readable zarr.json; give the store's top directory"
        ) from error
    ours = attributes.get("actlas") if isinstance(attributes, dict) else None
    if not isinstance(ours, dict):
        raise NotFound(
            f"{storage.location} is a Zarr group but not an actlas store: its zarr.json has no attribute 'actlas'"
        )
    check_format(ours, storage.where("zarr.json"))
    batch_tokens = unseal(ours, storage.where("zarr.json")).get("batch_tokens")
    if not isinstance(batch_tokens, int) or batch_tokens < 1:
        raise Corrupt(f"{storage.where('zarr.json')}: expected a positive batch_tokens, got {batch_tokens}")
    return batch_tokens


def check_format(document: dict[str, Any], where: str) -> None:
    """Refuse a document of another format.

    Raises
    ------
    InvalidInput
        When it is newer.
    Corrupt
        When it names none that ever was.
    """
    version = document.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise InvalidInput(
            f"{where}: written in store format {version}, this actlas reads up to {FORMAT}; install a newer actlas"
        )
    if version != FORMAT:
        raise Corrupt(f"{where}: expected format {FORMAT}, got {version!r}; restore the file from a copy")


def ensure_group(disk: Disk, directory: Path) -> None:
    """Make a directory that is also a Zarr group, so that the store is one hierarchy for any Zarr reader."""
    disk.make_directories(directory)
    if not (directory / "zarr.json").exists():
        disk.write_atomically(directory / "zarr.json", GROUP_JSON)
