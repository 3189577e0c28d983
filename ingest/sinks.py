"""Sinks: what is computed batch by batch becomes superblocks of entries, in task order or as the tokens come."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from actlas.ingest.capture import States
from actlas.ingest.pipeline import Lane
from actlas.ingest.plan import Batch
from actlas.store import EntryWriter
from actlas.store.dtype import LOGICAL

Array = npt.NDArray[Any]
Wrote = Callable[[int], None]


class Sink(Protocol):
    """Takes the batches of a plan, in its order."""

    def begin(self, superblock: Sequence[Batch]) -> bool:
        """Begin a superblock of the plan; return whether any of it is needed."""

    def needs(self, batch: Batch) -> bool:
        """Return whether a batch is needed."""

    def put(self, batch: Batch, captured: States) -> None:
        """Take what was computed of a batch."""

    def end(self) -> None:
        """End the superblock that was begun."""


class RowSink:
    """Entries with one row an example: superblocks of the plan are theirs, their rows in task order.

    Parameters
    ----------
    entries : sequence of EntryWriter
        One for each position of the capture that is no ``all``, in its order.
    lane : Lane
        What they go through.
    wrote : callable
        Told the bytes of each superblock that is on the disk.
    """

    def __init__(self, entries: Sequence[EntryWriter], lane: Lane, wrote: Wrote) -> None:
        self._entries, self._lane, self._wrote = entries, lane, wrote
        self._first = 0
        self._blocks: list[dict[str, Array]] = []

    def begin(self, superblock: Sequence[Batch]) -> bool:  # noqa: D102
        rows = sorted(row for batch in superblock for row in batch.rows)
        self._first = rows[0]
        if all(entry.n_written > self._first for entry in self._entries):
            return False
        self._lane.begin()
        self._blocks = [_empty_block(entry, len(rows)) for entry in self._entries]
        return True

    def needs(self, batch: Batch) -> bool:  # noqa: D102, ARG002
        return True

    def put(self, batch: Batch, captured: States) -> None:  # noqa: D102
        outputs = {} if captured.outputs is None else dict(captured.outputs)
        places = [row - self._first for row in batch.rows]
        self._lane.copy(
            [captured.hidden, captured.final, *outputs.values()], partial(_spread, self._blocks, places, list(outputs))
        )

    def end(self) -> None:  # noqa: D102
        self._lane.write(partial(_write, self._entries, self._blocks, self._first, self._wrote))


class TokenSink:
    """An entry in which every token is a row: they come as the plan computes them, and superblocks hold so many bytes.

    Parameters
    ----------
    entry : EntryWriter
        The entry.
    offsets : sequence of int
        Row of each example's first token.
    lane : Lane
        What it goes through.
    wrote : callable
        Told the bytes of each superblock that is on the disk.
    """

    def __init__(self, entry: EntryWriter, offsets: Sequence[int], lane: Lane, wrote: Wrote) -> None:
        self._entry, self._offsets, self._lane, self._wrote = entry, offsets, lane, wrote
        self._next = self._begun = self._stop = (
            entry.n_written
        )  # the next row, and those of the superblock that is open
        self._block: dict[str, Array] = {}

    def begin(self, superblock: Sequence[Batch]) -> bool:  # noqa: D102
        return any(map(self.needs, superblock))

    def needs(self, batch: Batch) -> bool:  # noqa: D102
        last = batch.rows[-1]
        return self._offsets[last] + self._entry.spec.n_tokens[last] > self._next

    def put(self, batch: Batch, captured: States) -> None:  # noqa: D102
        assert captured.all_hidden is not None
        assert captured.all_final is not None
        first = self._offsets[batch.rows[0]]
        end = first + captured.all_hidden.shape[1]
        while self._next < end:
            if self._next == self._stop:
                self._open()
            start, stop = self._next, min(end, self._stop)
            rows, places = slice(start - first, stop - first), slice(start - self._begun, stop - self._begun)
            pieces = [captured.all_hidden[:, rows], captured.all_final[rows]]
            self._lane.copy(pieces, partial(_lay, self._block, places))
            self._next = stop
            if stop == self._stop:
                self._lane.write(partial(_write, [self._entry], [self._block], self._begun, self._wrote))
        self._lane.settle()  # or the states of several batches, each larger than a superblock, would wait in memory

    def end(self) -> None:  # noqa: D102
        pass

    def _open(self) -> None:
        self._lane.begin()
        spec = self._entry.spec
        self._begun, self._stop = self._next, min(self._next + spec.superblock_rows, spec.n_rows)
        self._block = _empty_block(self._entry, self._stop - self._begun)


def make_sinks(
    entries: Sequence[EntryWriter], offsets: Sequence[int], lane: Callable[[], Lane], wrote: Wrote
) -> list[Sink]:
    """Return the sinks of the entries of one pass.

    Parameters
    ----------
    entries : sequence of EntryWriter
        In the order of the capture's positions.
    offsets : sequence of int
        Where tokens are rows: that of each example's first.
    lane : callable
        Makes a lane.
    wrote : callable
        Told the bytes of each superblock that is on the disk.
    """
    by_example = [entry for entry in entries if entry.spec.offsets is None]
    sinks: list[Sink] = [RowSink(by_example, lane(), wrote)] if by_example else []
    return sinks + [TokenSink(entry, offsets, lane(), wrote) for entry in entries if entry.spec.offsets is not None]


def _empty_block(entry: EntryWriter, n_rows: int) -> dict[str, Array]:
    rows = slice(0, n_rows)
    return {
        name: np.empty(array.block_shape(rows), LOGICAL.get(array.dtype, array.dtype))
        for name, array in entry.spec.arrays.items()
    }


def _spread(
    blocks: Sequence[dict[str, Array]], places: Sequence[int], outputs: Sequence[str], arrays: Sequence[Array]
) -> None:
    """Put a batch into the blocks of its positions: states (n_positions, n_layers, n, p), final (n_positions, n, q)."""
    hidden, final, *rest = arrays
    for number, block in enumerate(blocks):
        block["hidden_states"][:, places] = hidden[number].view(block["hidden_states"].dtype)
        if "final_norm" in block:
            block["final_norm"][places] = final[number].view(block["final_norm"].dtype)
        for name, values in zip(outputs, rest, strict=True):
            if name in block:
                block[name][places] = values


def _lay(block: dict[str, Array], places: slice, arrays: Sequence[Array]) -> None:
    """Put rows into a block of tokens."""
    block["hidden_states"][:, places] = arrays[0].view(block["hidden_states"].dtype)
    if "final_norm" in block:
        block["final_norm"][places] = arrays[1].view(block["final_norm"].dtype)


def _write(entries: Sequence[EntryWriter], blocks: Sequence[dict[str, Array]], first: int, wrote: Wrote) -> None:
    """Write blocks to the entries that do not have them."""
    for entry, block in zip(entries, blocks, strict=True):
        if entry.n_written == first:
            before = entry.n_bytes
            entry.write(**block)
            wrote(entry.n_bytes - before)
