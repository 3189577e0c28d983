"""How much room a store takes, and for whom."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from actlas.store.catalog import Record
from actlas.store.reader import Store
from actlas.store.storage import LocalStorage

By = Literal["model", "task", "owner"]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one model, task or owner has in a store.

    Attributes
    ----------
    name : str
        Of the model, the task or the owner.
    n_entries, n_bytes : int
        Entries, and the size of their files.
    """

    name: str
    n_entries: int
    n_bytes: int


def usage(store: Store, by: By) -> list[Usage]:
    """Return the use of a store, the largest first.

    An owner is the label ``owner`` of the model; without it, in a local store, the owner of the files.

    Raises
    ------
    Corrupt
        When labels or a manifest were changed.
    """
    name_of = _owner_of(store) if by == "owner" else lambda record: str(getattr(record, by))
    found: dict[str, list[int]] = {}
    for record in store.records():
        found.setdefault(name_of(record), []).append(record.n_bytes)
    uses = [Usage(name=name, n_entries=len(sizes), n_bytes=sum(sizes)) for name, sizes in found.items()]
    return sorted(uses, key=lambda one: (-one.n_bytes, one.name))


def _owner_of(store: Store) -> Callable[[Record], str]:
    labelled: dict[str, str | None] = {}

    def owner(record: Record) -> str:
        if record.model not in labelled:
            label = store.labels(record.model).get("owner")
            labelled[record.model] = None if label is None else str(label)
        return labelled[record.model] or _file_owner(store, record)

    return owner


def _file_owner(store: Store, record: Record) -> str:
    if not isinstance(store.storage, LocalStorage):
        return "unknown"
    path: Path = store.storage.root / record.path
    try:
        return path.owner()
    except KeyError:
        return f"user {path.stat().st_uid}"
