"""Replaying: a result is computed again from the entries that its lock names, and held against its numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from actlas.analyze.blocks import Block
from actlas.analyze.comparison import Comparison, Means, answer
from actlas.analyze.lock import Lock, LockedBlock, versions
from actlas.analyze.rows import Row, names_of
from actlas.analyze.selection import parse_model
from actlas.store import Mismatch, NotFound, Record, Store

TOLERANCE = 1e-6  # the error that float32 blocks may have

Floats = npt.NDArray[np.float64]

_MEANS = Means()


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """Where the numbers of a column are furthest from those of the lock.

    Attributes
    ----------
    table : {"comparisons", "differences"}
        In which table of the result.
    column : str
        Which column.
    difference : float
        The largest absolute difference; infinite where only one of the two is NaN.
    where : str
        Task, models and layer.
    locked, recomputed : float
        The two numbers there.
    scaled : float
        The largest difference anywhere in the column, of a number over 1 as a share of it: z and participation ratios
        may be in the hundreds, and have no more digits than others.
    """

    table: str
    column: str
    difference: float
    where: str
    locked: float
    recomputed: float
    scaled: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """A result that was computed again.

    Attributes
    ----------
    comparison : Comparison
        What came out.
    deviations : tuple of Deviation
        One for each column that does not have the numbers of the lock, bit for bit.
    other_versions : dict of (str, str)
        By name the versions that differ: that of the lock, and this one.
    """

    comparison: Comparison
    deviations: tuple[Deviation, ...]
    other_versions: dict[str, tuple[str, str]]

    @property
    def is_identical(self) -> bool:
        """Whether all numbers are the same, bit for bit."""
        return not self.deviations

    @property
    def is_within(self) -> bool:
        """Whether no number differs by more than `TOLERANCE`, of a number over 1 as a share of it."""
        return all(one.scaled <= TOLERANCE for one in self.deviations)


def replay(store: Store, lock: Lock, means: Means = _MEANS) -> Replay:
    """Compute a result again, from the entries that its lock names and without the cache.

    What else is in the store now changes nothing: other tasks, other entries under the same names.

    Parameters
    ----------
    store : Store
        Where the entries are: the store of the lock, or another one that has them.
    lock : Lock
        As `read_lock` returns it.
    means : Means, optional
        With what it is computed; the cache is left out.

    Raises
    ------
    NotFound
        When entries are not there; the message names every one.
    Mismatch
        When other rows are compared than the lock says, or a column of it is no longer computed.
    ActError
        As `ask`.
    """
    comparison = answer(store, lock.question, locked_blocks(store, lock), replace(means, cache=False))
    found = [LockedBlock.of(block, rows) for block, rows in comparison.answers]
    for was, now in zip(lock.blocks, found, strict=True):
        _check_rows(was, now)
    deviations = [
        deviation
        for was, now, (block, rows) in zip(lock.blocks, found, comparison.answers, strict=True)
        for deviation in _deviations(was, now, block, rows)
    ]
    here = versions()
    other = {name: (was, here[name]) for name, was in lock.versions.items() if here.get(name, was) != was}
    return Replay(comparison=comparison, deviations=_furthest(deviations), other_versions=other)


def locked_blocks(store: Store, lock: Lock) -> list[Block]:
    """Return the blocks of a lock with the entries of a store that have their ids, under whatever name or path.

    Raises
    ------
    NotFound
        When entries are not there; the message names every one.
    Corrupt
        When the manifest of one that is not found cannot be read.
    """
    listing = store.listing()
    having: dict[str, list[Record]] = {}
    for record in listing.records:
        having.setdefault(record.id, []).append(record)
    if not {entry for block in lock.blocks for entry in block.entries} <= {*having}:
        raise _not_there(store, lock, having)
    return [_block(block, having) for block in lock.blocks]


def locked_records(store: Store, lock: Lock) -> list[Record]:
    """Return the entries that a result needs, each once; errors as `locked_blocks`."""
    return list(dict.fromkeys(record for block in locked_blocks(store, lock) for record in block.records))


def _block(locked: LockedBlock, having: dict[str, list[Record]]) -> Block:
    refs = tuple(parse_model(text) for text in locked.models)

    def is_renamed(record: Record, model: str) -> bool:
        return (record.model, record.task) != (model, locked.task)

    records = tuple(
        min(having[entry], key=lambda record: is_renamed(record, ref.model))
        for entry, ref in zip(locked.entries, refs, strict=True)
    )
    return Block(kind=locked.kind, task=locked.task, refs=refs, records=records)


def _not_there(store: Store, lock: Lock, having: dict[str, list[Record]]) -> Exception:
    """Return the error that names every missing entry; one that may be there, but damaged, is the error itself."""
    listing = store.listing()
    missing = dict.fromkeys(
        (model, block.task, entry)
        for block in lock.blocks
        for model, entry in zip(block.models, block.entries, strict=True)
        if entry not in having
    )
    places = {(parse_model(model).model, task) for model, task, _ in missing}
    for path, problem in listing.problems.items():
        _, model, task, _ = path.split("/")
        if (model, task) in places:
            return problem
    withdrawn = {one.id: f" ({one.text})" for one in listing.withdrawn}
    lines = [f"{model} on {task}, id {entry[:12]}{withdrawn.get(entry, '')}" for model, task, entry in missing]
    return NotFound(
        f"{store.location}: {len(lines)} of the entries that the result was computed from are not there; name a store "
        "that has them, or ingest them again as they were:\n  " + "\n  ".join(lines)
    )


def _check_rows(was: LockedBlock, now: LockedBlock) -> None:
    about = f"task {was.task!r}, {' and '.join(was.models)}"
    if was.rows != now.rows:
        raise Mismatch(
            f"{about}: expected the rows of the lock (digest {was.rows[:12]}), got others ({now.rows[:12]}); the entries "
            "are the same, so the question in the lock was changed, or this actlas chooses rows in another way: use the "
            "one that wrote it"
        )
    if gone := [name for name, values in was.numbers.items() if len(now.numbers.get(name, ())) != len(values)]:
        raise Mismatch(
            f"{about}: expected the columns of the lock, got none or others for {', '.join(gone)}; use the actlas that wrote it"
        )


def _deviations(was: LockedBlock, now: LockedBlock, block: Block, rows: Sequence[Row]) -> Iterable[Deviation]:
    for column, values in was.numbers.items():
        locked, recomputed = np.array(values, np.float64), np.array(now.numbers[column], np.float64)
        if np.array_equal(locked, recomputed, equal_nan=True):
            continue
        distance = _distance(locked, recomputed)
        at = int(distance.argmax())
        yield Deviation(
            table="differences" if block.kind == "difference" else "comparisons",
            column=column,
            difference=float(distance[at]),
            where=_where(names_of(block, rows[at])),
            locked=float(locked[at]),
            recomputed=float(recomputed[at]),
            scaled=float((distance / np.fmax(1, np.abs(locked))).max()),
        )


def _distance(x: Floats, y: Floats) -> Floats:
    """Return |x - y|: 0 where both are NaN, infinite where one is."""
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    distance = np.abs(np.subtract(x, y, where=~same, out=np.zeros_like(x)))
    return np.where(np.isnan(distance), np.inf, distance)


def _where(row: Row) -> str:
    if "layer" in row:
        return f"{row['task']}, {row['reference']} with {row['model_a']} minus {row['model_b']}, layer {row['layer']}"
    layers = f"{row['layer_a']}" if row["layer_a"] == row["layer_b"] else f"{row['layer_a']}-{row['layer_b']}"
    return f"{row['task']}, {row['model_a']} and {row['model_b']}, layer {layers}"


def _furthest(deviations: Iterable[Deviation]) -> tuple[Deviation, ...]:
    furthest: dict[tuple[str, str], Deviation] = {}
    for one in deviations:
        there = furthest.setdefault((one.table, one.column), one)
        further = max(there, one, key=lambda deviation: deviation.difference)
        furthest[one.table, one.column] = replace(further, scaled=max(there.scaled, one.scaled))
    return tuple(furthest.values())
