"""Arrivals: what an import finds, checked before anything is written, and read superblock by superblock."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from actlas.store.digest import LEAF_ROWS, leaf_digests
from actlas.store.dtype import LOGICAL, Array, to_stored
from actlas.store.errors import InvalidInput, Mismatch, near_misses
from actlas.store.foreign import ForeignArray, open_array
from actlas.store.pattern import Place
from actlas.store.task import Task, make_task


@dataclass(frozen=True, eq=False)
class Arrival:
    """An entry to be: the arrays of its layers, all of one shape and dtype.

    Attributes
    ----------
    task : Task
        Its examples.
    layers : tuple of int
        Its layers, ascending.
    arrays : sequence of ForeignArray
        Where the values of each layer are.
    dtype : str
        What they are kept in.
    """

    task: Task
    layers: tuple[int, ...]
    arrays: Sequence[ForeignArray]
    dtype: str

    @property
    def width(self) -> int:
        """Features p."""
        return self.arrays[0].shape[1]

    def leaves(self) -> list[bytes]:
        """Return the leaf digests of the hidden states, in the order of format 1."""
        by_layer = [
            [leaf for block in array.blocks(self.dtype) for leaf in leaf_digests(to_stored(block, self.dtype))]
            for array in self.arrays
        ]
        return [leaf for superblock in zip(*by_layer, strict=True) for leaf in superblock]

    def superblocks(self, start: int) -> Iterator[Array]:
        """Return the superblocks from row `start` on, (n_layers, at most 2,048, n_features), each in the same memory."""
        memory = np.empty((len(self.layers), min(LEAF_ROWS, len(self.task)), self.width), LOGICAL[self.dtype])
        streams = [array.blocks(self.dtype, start) for array in self.arrays]
        for first in range(start, len(self.task), LEAF_ROWS):
            n_rows = min(LEAF_ROWS, len(self.task) - first)
            for layer, (array, stream) in enumerate(zip(self.arrays, streams, strict=True)):
                block = next(stream, None)
                if block is None or len(block) != n_rows:
                    raise changed(array.where)
                memory[layer, :n_rows] = block
            yield memory[:, :n_rows]


def arrivals(
    places: Mapping[str, Mapping[int, Place]], tasks: Sequence[Task] | None, *, row_ids: bool, dtype: str | None
) -> list[Arrival]:
    """Return the entries to be; parameters as in `import_entries`.

    Raises
    ------
    InvalidInput
        When it is not said what the examples are, or arrays do not fit each other or the examples.
    """
    examples = _examples(list(places), tasks, row_ids)
    return [_arrival(name, found, examples, dtype) for name, found in places.items()]


def _examples(names: Sequence[str], tasks: Sequence[Task] | None, row_ids: bool) -> Mapping[str, Task] | None:
    """Return the task of each name, or None where row numbers are to do."""
    if row_ids == (tasks is not None):
        raise InvalidInput(
            f"examples of {', '.join(names[:10])}: expected what the rows are, so that models can be joined by example; give "
            "their prompts and targets, in the order of the rows, with --tasks FILE, or say --row-ids to make ids from "
            "row numbers (one of the two)"
        )
    if tasks is None:
        return None
    by_name = {task.slug: task for task in tasks}
    for name in names:
        if name not in by_name:
            raise InvalidInput(
                f"task {name!r}: there are arrays of it, but --tasks has no examples of it; {near_misses(name, by_name)}"
            )
    return by_name


def _arrival(name: str, places: Mapping[int, Place], examples: Mapping[str, Task] | None, dtype: str | None) -> Arrival:
    arrays = [open_array(place.file, place.array) for place in places.values()]
    first = arrays[0]
    for array in arrays:
        if (array.shape, array.dtype) != (first.shape, first.dtype):
            raise InvalidInput(
                f"task {name!r}: expected one shape and dtype in all layers, got {first.shape} {first.dtype} in "
                f"{first.where} and {array.shape} {array.dtype} in {array.where}"
            )
    kept, n_rows = first.logical_dtype(dtype), first.shape[0]
    task = _row_task(name, n_rows) if examples is None else examples[name]
    if len(task) != n_rows:
        twice = f" ({task.n_duplicates} that stand there twice are counted once)" if task.n_duplicates else ""
        raise InvalidInput(
            f"task {name!r}: expected one row an example, got {n_rows} rows in {first.where} and {len(task)} examples "
            f"in --tasks{twice}; give the examples of these rows, in their order"
        )
    return Arrival(task, tuple(places), arrays, kept)


def _row_task(name: str, n_rows: int) -> Task:
    return make_task(name, [{"prompt": f"row {row}", "target": ""} for row in range(n_rows)])


def changed(where: str) -> Mismatch:
    """Return the error for a file that is another one than it was."""
    return Mismatch(f"{where}: it, or another layer of the task, changed while it was read; import it again")
