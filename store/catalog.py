"""catalog.json: what is committed, for readers that cannot list directories. A copy, never the truth."""

import contextlib
from pathlib import Path

from actlas.store.entry import Entry
from actlas.store.errors import ActError
from actlas.store.files import file_lock, write_json
from actlas.store.layout import FORMAT, staging_directory
from actlas.store.reader import Store


def rebuild_catalog(root: Path) -> None:
    """List the store and write the catalog, again until nothing was committed meanwhile."""
    with file_lock(staging_directory(root) / "catalog.lock", wait=True, holder="rebuilding the catalog"):
        store, listed = Store(root), None
        while listed != (listed := _list_entries(store)):
            write_json(root / "catalog.json", {"format": FORMAT, "entries": listed})


def _list_entries(store: Store) -> list[dict[str, object]]:
    listed: list[dict[str, object]] = []
    for path in store._entry_paths():
        with contextlib.suppress(ActError):  # one damaged entry must not stop the commits of others
            listed.append(_describe(Entry(store.root, path)))
    return listed


def _describe(entry: Entry) -> dict[str, object]:
    return {
        "path": entry.path.relative_to(entry.path.parents[3]).as_posix(),
        "id": entry.id,
        "key": entry.key,
        **entry.manifest.names,
        "dtype": entry.identity.dtype,
        "layers": list(entry.layers),
        "n_examples": entry.n_examples,
        "n_bytes": entry.manifest.n_bytes,
    }
