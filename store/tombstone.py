"""Tombstones: what stays behind of an entry that was withdrawn, so that readers learn when and why."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from actlas.store.disk import Disk
from actlas.store.documents import read_json, seal, unseal, write_json
from actlas.store.errors import ActError, Corrupt
from actlas.store.scan import TOMBSTONE, Scan
from actlas.store.storage import LocalStorage


@dataclass(frozen=True, kw_only=True)
class Tombstone:
    """A withdrawn entry.

    Attributes
    ----------
    path : str
        Where it stood, relative to the store.
    id : str
        Its id; empty where its manifest could not be read.
    when : str
        Date and time, ISO 8601 with the offset.
    who, why : str
        Who withdrew it, and the reason given.
    """

    path: str
    id: str
    when: str
    who: str
    why: str

    @property
    def text(self) -> str:
        """One line for people."""
        return f"{self.path} was withdrawn on {self.when} by {self.who}" + (f": {self.why}" if self.why else "")


def write_tombstone(disk: Disk, root: Path, tombstone: Tombstone) -> None:
    """Put a tombstone beside the place of its entry."""
    write_json(disk, _place(root, tombstone.path), seal(asdict(tombstone)))


def remove_tombstone(disk: Disk, root: Path, path: str) -> None:
    """Remove the tombstone of an entry that is there again."""
    place = _place(root, path)
    if place.exists():
        disk.unlink(place)


def read_tombstones(root: Path, found: Scan) -> Iterator[Tombstone]:
    """Yield the tombstones of entries that are gone; one that cannot be read is left to `act verify`."""
    for path in sorted({*found.tombstones} - {*found.directories}):
        with contextlib.suppress(ActError):
            yield read_tombstone(root, path)


def read_tombstone(root: Path, path: str) -> Tombstone:
    """Read the tombstone of one entry.

    Raises
    ------
    Corrupt, Incomplete
        When it was changed or cannot be read.
    """
    place = _place(root, path)
    raw = unseal(read_json(LocalStorage(root), place.relative_to(root).as_posix()), str(place))
    try:
        return Tombstone(**raw)
    except TypeError as error:
        raise Corrupt(f"{place}: not a tombstone ({error}); remove it") from error


def _place(root: Path, path: str) -> Path:
    return root / f"{path}{TOMBSTONE}"
