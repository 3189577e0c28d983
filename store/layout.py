"""Where things stand in a store, and what its root says."""

import json
from pathlib import Path

from actlas.store.errors import AlreadyExists, Corrupt, Incomplete, InvalidInput, NotFound
from actlas.store.files import fsync_path, read_json, write_atomically
from actlas.store.slug import check_slug

FORMAT = 1
BATCH_TOKENS = 16384  # padded tokens in one batch, the default of a new store

GROUP_JSON = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}).encode()


def task_directory(root: Path, task: str) -> Path:
    """Return the directory of a task's tables."""
    return root / "tasks" / check_slug(task, "task")


def model_directory(root: Path, model: str) -> Path:
    """Return the directory of a model's entries."""
    return root / "models" / check_slug(model, "model")


def entry_directory(root: Path, model: str, task: str, rendering: str, position: str, key: str) -> Path:
    """Return the directory of one entry."""
    name = f"{check_slug(rendering, 'rendering')}-{check_slug(position, 'position')}-{key[:8]}"
    return model_directory(root, model) / check_slug(task, "task") / name


def staging_directory(root: Path) -> Path:
    """Return the directory in which entries are built, invisible to readers."""
    return root / ".staging"


def create_root(root: Path, batch_tokens: int) -> None:
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
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise AlreadyExists(f"{root}: expected a new path or an empty directory for a new store; choose another path")
    try:
        root.mkdir(exist_ok=True)
        for name in ("tasks", "models"):
            (root / name).mkdir()
        write_atomically(root / "models" / "zarr.json", GROUP_JSON)
        write_atomically(root / "zarr.json", _root_json(batch_tokens))
    except OSError as error:
        raise InvalidInput(f"{root}: the store cannot be made there ({error.strerror})") from error
    fsync_path(root.parent)


def _root_json(batch_tokens: int) -> bytes:
    attributes = {"actlas": {"format": FORMAT, "batch_tokens": batch_tokens}}
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1).encode()


def read_root(root: Path) -> int:
    """Check that `root` is a store that this version reads, and return its token budget.

    Raises
    ------
    NotFound
        When there is nothing, or no store.
    InvalidInput
        When a newer actlas wrote it.
    Corrupt
        When its root metadata cannot be understood.
    """
    if not root.exists():
        raise NotFound(f"no store at {root}: the path does not exist; `act ingest` makes one")
    try:
        attributes = read_json(root / "zarr.json").get("attributes")
    except Incomplete as error:
        raise NotFound(
            f"{root} is not an actlas store: it has no readable zarr.json; give the store's top directory"
        ) from error
    ours = attributes.get("actlas") if isinstance(attributes, dict) else None
    if not isinstance(ours, dict):
        raise NotFound(f"{root} is a Zarr group but not an actlas store: its zarr.json has no attribute 'actlas'")
    version, batch_tokens = ours.get("format"), ours.get("batch_tokens")
    if isinstance(version, int) and version > FORMAT:
        raise InvalidInput(
            f"{root}: written in store format {version}, this actlas reads up to {FORMAT}; install a newer actlas"
        )
    if version != FORMAT or not isinstance(batch_tokens, int) or batch_tokens < 1:
        raise Corrupt(f"{root / 'zarr.json'}: expected format {FORMAT} and a positive batch_tokens, got {ours}")
    return batch_tokens


def ensure_group(directory: Path) -> None:
    """Make a directory that is also a Zarr group, so that the store is one hierarchy for any Zarr reader."""
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "zarr.json").exists():
        write_atomically(directory / "zarr.json", GROUP_JSON)
        fsync_path(directory.parent)
