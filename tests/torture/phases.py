"""The jobs that faults interrupt: each is started, broken off somewhere, looked at, and done again."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from actlas.store import BATCH_TOKENS, StoreWriter, create_store, open_store, open_writer, store_exists
from actlas.store.collect import collect
from actlas.store.disk import Disk
from actlas.store.layout import create_root
from actlas.store.mirror import Mirror
from actlas.store.withdraw import withdraw
from tests.store.tiny import LEAF, tiny_model, tiny_spec, tiny_task, tiny_values, write_superblocks, write_tiny
from tests.torture.exact import (
    assert_complete,
    long_entry,
    long_spec,
    remove,
    scratch,
    short_entry,
    short_spec,
    visible,
)

LABELS = {"trained_on": ["long"]}

Mark = Callable[[str], None]


@dataclass(frozen=True)
class Phase:
    """A job on the stores below a directory.

    Attributes
    ----------
    prepare : callable
        Makes what is there before.
    work : callable
        Does the job through a disk, and marks what is promised from then on.
    check : callable
        Asserts what must hold wherever the job was broken off, given the promises; returns what became of the entry.
    finish : callable
        Does the job again with nothing in the way, and asserts that the outcome is that of an uninterrupted run.
    """

    prepare: Callable[[Path], None]
    work: Callable[[Path, Disk, Mark], None]
    check: Callable[[Path, set[str]], str]
    finish: Callable[[Path, set[str]], None]

    @contextmanager
    def bases(self) -> Iterator[Iterator[Path]]:
        """Fresh copies of what is there before, each gone when the next is asked for."""
        with scratch() as directory:
            (directory / "before").mkdir()
            self.prepare(directory / "before")
            yield self._copies(directory / "before", directory / "now")

    @staticmethod
    def _copies(before: Path, now: Path) -> Iterator[Path]:
        while True:
            shutil.copytree(before, now)
            yield now
            remove(now)


def nothing(_: str) -> None:
    """Mark nothing."""


def lab(base: Path) -> Path:
    return base / "lab.act"


def write_long(writer: StoreWriter, mark: Mark = nothing, *, at_least: int = 0) -> None:
    """Write and commit what is not written yet of the long entry."""
    spec = long_spec()
    hidden_states, final_norm = tiny_values(spec)
    with writer.new_entry(spec) as entry:
        assert entry.n_written >= at_least, "superblocks that were promised are lost"
        for start in range(entry.n_written, len(spec.task), LEAF):
            entry.write(hidden_states[:, start : start + LEAF], final_norm[start : start + LEAF])
            mark(f"written {entry.n_written}")
        writer.commit(entry, {}, LABELS)


def _written(promised: set[str]) -> int:
    return max((int(one.split()[1]) for one in promised if one.startswith("written ")), default=0)


def _prepare_nothing(base: Path) -> None:
    pass


def _prepare_superblocks(base: Path, n_superblocks: int) -> None:
    with create_store(lab(base)).new_entry(long_spec()) as entry:
        write_superblocks(entry, long_spec(), n_superblocks)


def _ingest(base: Path, disk: Disk, mark: Mark) -> None:
    if not store_exists(lab(base)):
        create_root(disk, lab(base), BATCH_TOKENS)
    mark("made")
    write_long(StoreWriter(lab(base), disk=disk), mark)
    mark("committed")


def _check_ingest(base: Path, promised: set[str]) -> str:
    if not store_exists(lab(base)):
        assert "made" not in promised, "the store is lost"
        return "absent"
    is_there = bool(visible(lab(base), long_entry()))
    if "committed" in promised:
        assert is_there, "a committed entry is lost"
        assert open_store(lab(base)).labels("pythia") == LABELS
    return "exact" if is_there else "absent"


def _finish_ingest(base: Path, promised: set[str]) -> None:
    writer = open_writer(lab(base)) if store_exists(lab(base)) else create_store(lab(base))
    write_long(writer, at_least=_written(promised))
    assert_complete(lab(base), long_entry())


def _prepare_two(base: Path) -> None:
    writer = create_store(lab(base))
    write_long(writer)
    write_tiny(writer, short_spec())


def _withdraw(base: Path, disk: Disk, mark: Mark) -> None:
    writer = StoreWriter(lab(base), disk=disk)
    path = writer.path_of(long_spec())
    if (lab(base) / path).exists():
        withdraw(writer, path, why="torture")
    mark("withdrawn")


def _check_withdraw(base: Path, promised: set[str]) -> str:
    ids = visible(lab(base), long_entry(), short_entry())
    assert short_entry().id in ids, "another entry is lost"
    assert not ("withdrawn" in promised and long_entry().id in ids), "a withdrawn entry is back"
    return "exact" if long_entry().id in ids else "absent"


def _finish_withdraw(base: Path, promised: set[str]) -> None:
    _withdraw(base, Disk(), nothing)
    collect(open_writer(lab(base)))  # where a kill came between the rename and the catalogue
    assert_complete(lab(base), short_entry())
    write_long(open_writer(lab(base)))
    assert_complete(lab(base), long_entry(), short_entry())


def _prepare_rubbish(base: Path) -> None:
    """One entry, one in the trash, one left behind in staging."""
    _prepare_two(base)
    _withdraw(base, Disk(), nothing)
    spec = tiny_spec(model=tiny_model(), task=tiny_task(9, "left"))
    with open_writer(lab(base)).new_entry(spec) as entry:
        entry.write(*tiny_values(spec))


def _rubbish(base: Path) -> list[Path]:
    return [path for name in (".staging", ".trash") for path in (lab(base) / name).glob("*")]


def _collect(base: Path, disk: Disk, mark: Mark) -> None:
    collect(StoreWriter(lab(base), disk=disk), older_than=0)
    mark("collected")


def _check_collect(base: Path, promised: set[str]) -> str:
    assert visible(lab(base), short_entry()) == {short_entry().id}
    return "exact"


def _finish_collect(base: Path, promised: set[str]) -> None:
    _collect(base, Disk(), nothing)
    assert _rubbish(base) == []
    assert_complete(lab(base), short_entry())
    write_long(open_writer(lab(base)))
    assert_complete(lab(base), long_entry(), short_entry())


def _copy(base: Path, disk: Disk, mark: Mark) -> None:
    source, target = open_store(lab(base)), base / "copy.act"
    if not store_exists(target):
        create_root(disk, target, source.batch_tokens)
    mark("made")
    mirror = Mirror(StoreWriter(target, disk=disk))
    for entry in source.entries():
        mirror.receive(source, entry)
        mark(f"copied {entry.id}")


def _check_copy(base: Path, promised: set[str]) -> str:
    assert visible(lab(base), long_entry(), short_entry()) == {long_entry().id, short_entry().id}
    if not store_exists(base / "copy.act"):
        assert "made" not in promised, "the store is lost"
        return "absent"
    ids = visible(base / "copy.act", long_entry(), short_entry())
    assert {one.split()[1] for one in promised if one.startswith("copied ")} <= ids, "a copied entry is lost"
    return "exact" if ids else "absent"


def _finish_copy(base: Path, promised: set[str]) -> None:
    _copy(base, Disk(), nothing)
    collect(open_writer(base / "copy.act"))  # where a kill came between the rename and the catalogue
    assert_complete(base / "copy.act", long_entry(), short_entry())


PHASES = {
    "ingest": Phase(_prepare_nothing, _ingest, _check_ingest, _finish_ingest),
    "resume": Phase(lambda base: _prepare_superblocks(base, 1), _ingest, _check_ingest, _finish_ingest),
    "commit": Phase(lambda base: _prepare_superblocks(base, 2), _ingest, _check_ingest, _finish_ingest),
    "withdraw": Phase(_prepare_two, _withdraw, _check_withdraw, _finish_withdraw),
    "gc": Phase(_prepare_rubbish, _collect, _check_collect, _finish_collect),
    "copy": Phase(_prepare_two, _copy, _check_copy, _finish_copy),
}
