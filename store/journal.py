"""The journal of an entry under construction: which superblocks are in staging, and what was written in them.

It stands beside the staging directory. Each line is a sealed JSON object: first what all superblocks have in common,
then one line a superblock. What a line says is believed only when the files in staging say the same.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from actlas.store.digest import canonical_json
from actlas.store.disk import Disk
from actlas.store.documents import parse_json, seal, unseal
from actlas.store.errors import ActError

Leaves = dict[str, list[bytes]]  # for each array the leaf digests of one superblock


class Journal:
    """The journal at one path.

    Parameters
    ----------
    disk : Disk
        What is written to.
    path : Path
        The file.
    """

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk, self._path = disk, path

    def read(self, header: Mapping[str, Any]) -> list[Leaves]:
        """Return the leaf digests of every superblock that was finished under this very header; none under another.

        A last line that a crash cut short, and whatever follows a damaged line, is not counted.
        """
        return self._read(lambda found: found == dict(header))

    def count(self) -> int:
        """Return how many superblocks `read` would find under the header that is there."""
        return len(self._read(lambda _header: True))

    def _read(self, accept: Callable[[dict[str, Any]], bool]) -> list[Leaves]:
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        found: list[Leaves] = []
        try:
            if not lines or not accept(unseal(parse_json(lines[0], str(self._path)), str(self._path))):
                return []
            for number, line in enumerate(lines[1:]):
                entry = unseal(parse_json(line, str(self._path)), str(self._path))
                if entry["superblock"] != number:
                    break
                found.append({name: [bytes.fromhex(leaf) for leaf in one] for name, one in entry["leaves"].items()})
        except (ActError, KeyError, ValueError, TypeError, AttributeError):
            pass
        return found

    def begin(self, header: Mapping[str, Any], superblocks: Sequence[Leaves]) -> None:
        """Start anew, with some superblocks that are there already."""
        lines = [_line(dict(header)), *(_line(_entry(number, one)) for number, one in enumerate(superblocks))]
        self._disk.write_atomically(self._path, b"".join(lines))

    def add(self, number: int, leaves: Leaves) -> None:
        """Note a superblock; its files are flushed already."""
        self._disk.append(self._path, _line(_entry(number, leaves)))
        self._disk.sync(self._path)

    def remove(self) -> None:
        """Remove the file."""
        self._disk.unlink(self._path)


def _entry(number: int, leaves: Leaves) -> dict[str, Any]:
    return {"superblock": number, "leaves": {name: [leaf.hex() for leaf in one] for name, one in leaves.items()}}


def _line(value: dict[str, Any]) -> bytes:
    return canonical_json(seal(value)) + b"\n"
