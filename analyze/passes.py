"""Passes: cells that share their rows are computed together, each representation read once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from actlas.analyze.cells import Cell
from actlas.analyze.cka import Cka, finalise, ill_conditioned, undefined
from actlas.analyze.engine import Pair, plan, run_pass
from actlas.analyze.representation import Representation, Rows
from actlas.analyze.tiling import PassPlan, Tiling, make_tiling


@dataclass(frozen=True, kw_only=True)
class Pass:
    """The cells of one row set.

    Attributes
    ----------
    cells : sequence of int
        Which cells.
    sources, rows : sequence of Representation, of (n,) int
        What is read, each once, and where the rows stand in it.
    pairs : sequence of (int, int)
        For each cell its two sources, the smaller number first.
    is_swapped : sequence of bool
        Whether the smaller number is the second side's.
    tiling : Tiling
        How the rows are cut.
    """

    cells: Sequence[int]
    sources: Sequence[Representation]
    rows: Sequence[Rows]
    pairs: Sequence[Pair]
    is_swapped: Sequence[bool]
    tiling: Tiling

    def plan(self, memory: int, itemsize: int | None = None) -> PassPlan:
        """Return how it will be done within a budget in bytes, with numbers as they are stored or of another size."""
        return plan(self.sources, self.pairs, self.tiling, memory=memory, itemsize=itemsize)


def passes_of(cells: Sequence[Cell]) -> list[Pass]:
    """Group the cells that can be computed by row set."""
    members: dict[str, list[int]] = {}
    for index, cell in enumerate(cells):
        if not cell.rows.reason:
            members.setdefault(cell.rows.digest, []).append(index)
    return [_pass(cells, indices) for indices in members.values()]


def _pass(cells: Sequence[Cell], indices: Sequence[int]) -> Pass:
    sources: dict[object, tuple[int, Representation, Rows]] = {}

    def number(source: Representation, rows: Rows) -> int:
        return sources.setdefault(source.key, (len(sources), source, rows))[0]

    chosen = [cells[index] for index in indices]
    numbers = [(number(cell.a, cell.rows.rows_a), number(cell.b, cell.rows.rows_b)) for cell in chosen]
    return Pass(
        cells=indices,
        sources=[source for _, source, _ in sources.values()],
        rows=[rows for _, _, rows in sources.values()],
        pairs=[(min(pair), max(pair)) for pair in numbers],
        is_swapped=[a > b for a, b in numbers],
        tiling=make_tiling(chosen[0].rows.groups),
    )


def evaluate(cells: Sequence[Cell], memory: int, dtype: npt.DTypeLike | None = None) -> list[Cka]:
    """Compute cells; those that float32 cannot do justice to, again in float64.

    Raises
    ------
    MemoryBudget
        When the budget holds not even one pair of tiles.
    Corrupt
        When stored rows cannot be read.
    """
    values = [undefined(cell.rows.reason) for cell in cells]
    for one in passes_of(cells):
        result = run_pass(one.sources, one.rows, one.pairs, one.tiling, memory=memory, dtype=dtype)
        found = finalise(result, one.pairs, one.tiling, widths=[source.width for source in one.sources])
        poor = ill_conditioned(result, one.tiling)
        for index, value, is_swapped in zip(one.cells, found, one.is_swapped, strict=True):
            values[index] = value.swapped if is_swapped else value
        again = [index for index, pair in zip(one.cells, one.pairs, strict=True) if poor & {*pair}]
        exact = evaluate([cells[index] for index in again], memory, np.float64)
        for index, value in zip(again, exact, strict=True):
            values[index] = value
    return values
