"""catalog.json: what is committed, for readers that cannot list directories. A copy, never the truth."""

import contextlib
from pathlib import Path
from typing import Any

from actlas.store.entry import Entry
from actlas.store.errors import ActError
from actlas.store.files import file_lock, read_json, write_json
from actlas.store.layout import FORMAT, staging_directory
from actlas.store.reader import Store


def rebuild_catalog(root: Path) -> None:
    """List the store and write the catalog, again until nothing was committed meanwhile."""
    with file_lock(staging_directory(root) / "catalog.lock", wait=True, holder="rebuilding the catalog"):
        store, listed, known = Store(root), None, _read_known(root)
        while listed != (listed := _list_entries(store, known)):
            write_json(root / "catalog.json", {"format": FORMAT, "entries": listed})


def _read_known(root: Path) -> dict[str, dict[str, Any]]:
    try:
        return {record["path"]: record for record in read_json(root / "catalog.json")["entries"]}
    except (ActError, KeyError, TypeError):  # missing or damaged: it is a copy, and made again
        return {}


def _list_entries(store: Store, known: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """List what is there; entries never change, so that only new ones are read."""
    listed: list[dict[str, Any]] = []
    for path in store._entry_paths():
        name = path.relative_to(store.root).as_posix()
        with contextlib.suppress(ActError):  # one damaged entry must not stop the commits of others
            listed.append(known.get(name) or _describe(Entry(store.root, path)))
            known[name] = listed[-1]
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
