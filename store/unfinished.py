"""Entries that are not finished: what stands in staging under a key, without waiting for it or touching it."""

from pathlib import Path
from typing import Literal

from actlas.store.disk import Disk
from actlas.store.journal import Journal
from actlas.store.layout import STAGING
from actlas.store.lock import is_locked


def find_unfinished(root: Path, key: str) -> tuple[Literal["running", "interrupted"] | None, int]:
    """Return whether an entry is being written or was interrupted, and how many superblocks its journal counts.

    Whether a writer can go on from them is known only when it has read them again.

    Parameters
    ----------
    root : Path
        The store, which need not exist.
    key : str
        The entry's.
    """
    staging = root / STAGING
    running = is_locked(staging / f"{key}.lock")
    journal = staging / f"{key}.journal"
    if not (running or journal.exists() or (staging / key).exists()):
        return None, 0
    return "running" if running else "interrupted", Journal(Disk(), journal).count()
