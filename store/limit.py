"""The size limit of a store, which whoever writes to it respects."""

from pathlib import Path

from actlas.store.catalog import list_store
from actlas.store.disk import Disk
from actlas.store.documents import read_json, seal, unseal, write_json
from actlas.store.errors import Corrupt, InvalidInput
from actlas.store.storage import LocalStorage, Storage

_NAME = "limit.json"


def read_limit(storage: Storage) -> int | None:
    """Return the limit in bytes, or None where there is none.

    Raises
    ------
    Corrupt
        When its file was changed other than by actlas.
    """
    if not storage.exists(_NAME):
        return None
    limit = unseal(read_json(storage, _NAME), storage.where(_NAME)).get("max_bytes")
    if not isinstance(limit, int):
        raise Corrupt(
            f"{storage.where(_NAME)}: expected a number of bytes, got {limit!r}; set it again with `act limit`"
        )
    return limit


def write_limit(disk: Disk, root: Path, max_bytes: int | None) -> None:
    """Set the limit in bytes, or take it away."""
    if max_bytes is None:
        disk.unlink(root / _NAME)
        disk.sync(root)
    else:
        write_json(disk, root / _NAME, seal({"max_bytes": max_bytes}))


def check_limit(storage: LocalStorage, n_more: int) -> None:
    """Refuse to let a store grow beyond its limit.

    Parameters
    ----------
    storage : LocalStorage
        The store.
    n_more : int
        Bytes that are to be added.

    Raises
    ------
    InvalidInput
        When its entries and `n_more` bytes are more than the limit.
    """
    limit = read_limit(storage)
    if limit is None:
        return
    used = sum(record.n_bytes for record in list_store(storage).records)
    if used + n_more > limit:
        raise InvalidInput(
            f"{storage.location}: its entries hold {used:,} bytes, {n_more:,} more would exceed its limit of {limit:,}; "
            "`act rm` what is not needed, or raise it with `act limit`"
        )
