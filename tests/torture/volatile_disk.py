"""A disk that loses power: what was not flushed may be there, in part, or not at all.

The model is that of POSIX, harsher than ext4. A file and its names are apart: fsync of a file keeps its bytes, fsync of
a directory keeps the names in it, and neither does the other's work. Of what was not flushed any part may be kept, in
any order. Two things are taken for granted, as all journaling file systems give them: a rename happens whole or not at
all, and what was flushed is there.
"""

import random
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from actlas.store.disk import Data, Disk

_PAGE_BYTES = 512

Order = Literal["all", "journal", "any"]


@dataclass(eq=False)
class Node:
    """A file or a directory, apart from its names."""

    is_directory: bool
    children: dict[str, "Node"] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Names:
    """Names that appear or vanish together: in a directory, under a name, a node or nothing."""

    changes: tuple[tuple[Node, str, Node | None], ...]


@dataclass(frozen=True, eq=False)
class Bytes:
    """New content of a file."""

    node: Node
    data: bytes
    is_added: bool


@dataclass(frozen=True, eq=False)
class Sync:
    """A flush of a file or a directory."""

    node: Node


@dataclass(frozen=True, eq=False)
class Mark:
    """A promise that holds from here on."""

    text: str


Record = Names | Bytes | Sync | Mark


class VolatileDisk(Disk):
    """A disk that does what it is told and keeps a log, from which the state after a power loss is made.

    Parameters
    ----------
    base : Path
        The directory that all happens in; what is there at first is flushed.
    """

    def __init__(self, base: Path) -> None:
        self.log: list[Record] = []
        self._base, self._lock = base, threading.RLock()
        self._top = Node(is_directory=True)
        self._take_over(base, self._top)
        self.log.append(Sync(self._top))

    def _take_over(self, directory: Path, node: Node) -> None:
        for path in directory.iterdir():
            child = node.children[path.name] = Node(path.is_dir())
            self.log.append(Names(((node, path.name, child),)))
            if path.is_dir():
                self._take_over(path, child)
            else:
                self.log.append(Bytes(child, path.read_bytes(), is_added=False))
            self.log.append(Sync(child))

    def mark(self, text: str) -> None:
        """Note a promise."""
        with self._lock:
            self.log.append(Mark(text))

    def _node(self, path: Path) -> Node:
        node = self._top
        for name in path.relative_to(self._base).parts:
            node = node.children[name]
        return node

    def _change(self, *changes: tuple[Path, Node | None]) -> None:
        record = Names(tuple((self._node(path.parent), path.name, node) for path, node in changes))
        for directory, name, node in record.changes:
            if node is None:
                directory.children.pop(name, None)
            else:
                directory.children[name] = node
        self.log.append(record)

    def make_directory(self, path: Path) -> None:
        with self._lock:
            is_new = not path.exists()
            super().make_directory(path)
            if is_new:
                self._change((path, Node(is_directory=True)))

    def write(self, path: Path, data: Data) -> None:
        with self._lock:
            self._put(path, data, is_added=False)
            super().write(path, data)

    def append(self, path: Path, data: Data) -> None:
        with self._lock:
            self._put(path, data, is_added=True)
            super().append(path, data)

    def _put(self, path: Path, data: Data, *, is_added: bool) -> None:
        if not path.exists():
            self._change((path, Node(is_directory=False)))
        self.log.append(Bytes(self._node(path), bytes(data), is_added))

    def sync(self, path: Path) -> None:
        with self._lock:
            self.log.append(Sync(self._node(path)))

    def rename(self, source: Path, target: Path) -> None:
        with self._lock:
            super().rename(source, target)
            self._change((source, None), (target, self._node(source)))

    def link(self, source: Path, target: Path) -> None:
        with self._lock:
            super().link(source, target)
            self._change((target, self._node(source)))

    def unlink(self, path: Path) -> None:
        with self._lock:
            if path.exists():
                self._change((path, None))
            super().unlink(path)

    def remove_directory(self, path: Path) -> None:
        with self._lock:
            super().remove_directory(path)
            self._change((path, None))

    def lose_power(self, length: int, order: Order, seeded: random.Random, image: Path) -> set[str]:
        """Make the directory that is found after the power went when the log had some length; return what was promised.

        Parameters
        ----------
        length : int
            Records of the log that came before.
        order : {"all", "journal", "any"}
            What is kept of what was not flushed: all of it, as after a kill; of names the first ones, as ext4 keeps them;
            or any. Of bytes it is any in the last two cases.
        seeded : random.Random
            What chance decides.
        image : Path
            The directory to be made.
        """
        log = self.log[:length]
        kept = _kept_names(log, order, seeded)
        names: dict[Node, dict[str, Node]] = {}
        for record in log:
            if isinstance(record, Names) and record in kept:
                for directory, name, node in record.changes:
                    names.setdefault(directory, {}).pop(name, None)
                    if node is not None:
                        names[directory][name] = node
        contents = {node: _content(log, node, order, seeded) for node in _files(log)}
        _write_out(self._top, names, contents, image)
        return {record.text for record in log if isinstance(record, Mark)}


def _kept_names(log: list[Record], order: Order, seeded: random.Random) -> set[Names]:
    records = [record for record in log if isinstance(record, Names)]
    flushed: set[Names] = set()
    seen: list[Names] = []
    for record in log:
        if isinstance(record, Names):
            seen.append(record)
        elif isinstance(record, Sync) and record.node.is_directory:
            flushed |= {one for one in seen if any(directory is record.node for directory, _, _ in one.changes)}
    if order == "all":
        return set(records)
    if order == "journal":
        last = max((number for number, record in enumerate(records) if record in flushed), default=-1)
        return set(records[: seeded.randint(last + 1, len(records))])
    share = seeded.choice((0.1, 0.5, 0.9))
    return flushed | {record for record in records if seeded.random() < share}


def _files(log: list[Record]) -> list[Node]:
    return list({record.node: None for record in log if isinstance(record, Bytes)})


def _content(log: list[Record], node: Node, order: Order, seeded: random.Random) -> bytes:
    """Return what is left of a file: what was flushed, and of what came after it whatever chance leaves."""
    flushed, now = b"", b""
    for record in log:
        if isinstance(record, Bytes) and record.node is node:
            now = now + record.data if record.is_added else record.data
        elif isinstance(record, Sync) and record.node is node:
            flushed = now
    if order == "all" or now == flushed:
        return now
    safe = len(flushed) if now.startswith(flushed) else 0  # an appended tail does not endanger what stands before it
    match seeded.choice(("old", "new", "cut", "zeros", "pages", "garbage")):
        case "old":
            return flushed
        case "cut":
            return now[: seeded.randint(safe, len(now))]
        case "zeros":
            return now[:safe] + bytes(len(now) - safe)
        case "pages":
            pages = [now[start : start + _PAGE_BYTES] for start in range(safe, len(now), _PAGE_BYTES)]
            return now[:safe] + b"".join(page if seeded.random() < 0.5 else bytes(len(page)) for page in pages)
        case "garbage":
            return now[:safe] + seeded.randbytes(len(now) - safe)
        case _:
            return now


def _write_out(top: Node, names: dict[Node, dict[str, Node]], contents: dict[Node, bytes], image: Path) -> None:
    image.mkdir()
    for name, node in names.get(top, {}).items():
        if node.is_directory:
            _write_out(node, names, contents, image / name)
        else:
            (image / name).write_bytes(contents.get(node, b""))
