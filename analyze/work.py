"""Work: the blocks of one task, in the form in which they are computed, here or in another process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from actlas.analyze.beside import Beside
from actlas.analyze.blocks import Block
from actlas.analyze.cells import Cell, Opened
from actlas.analyze.moments import ZScored
from actlas.analyze.passes import evaluate, passes_of
from actlas.analyze.question import Question
from actlas.analyze.requests import check_budget
from actlas.analyze.rows import Row, rows_of
from actlas.analyze.tiling import PassPlan
from actlas.store import Depth, Store

Prepared = Sequence[Sequence[Cell]]


@dataclass(frozen=True, kw_only=True)
class Work:
    """The blocks of one task.

    Attributes
    ----------
    question : Question
        What is asked.
    blocks : tuple of Block
        Those of one task that are to be computed.
    memory : int
        Budget in bytes.
    depth : {"size", "sample", "full"}
        How far the entries are verified first.
    """

    question: Question
    blocks: tuple[Block, ...]
    memory: int
    depth: Depth

    @property
    def task(self) -> str:
        """The task."""
        return self.blocks[0].task


def prepare(store: Store, work: Work) -> Prepared:
    """Open and join the entries; nothing of their states is read.

    Raises
    ------
    ActError
        When an entry is damaged, two cannot be joined, or the budget is too small.
    """
    opened = Opened(store, work.question, work.depth)
    prepared = [opened.cells(block) for block in work.blocks]
    for cells in prepared:
        for cell in cells:
            check_budget(work.question.whole, len(cell.rows.ids), (cell.a.width, cell.b.width), work.memory)
    plans(work, prepared)
    return prepared


def locally(works: Sequence[Work], prepared: Sequence[Prepared]) -> Iterator[tuple[Work, list[list[Row]]]]:
    """Yield each work with its rows, computed here one after the other."""
    for work, cells in zip(works, prepared, strict=True):
        yield work, compute(work, cells)


def plans(work: Work, prepared: Prepared) -> list[PassPlan]:
    """Return how each pass over the task will be done; an audit passes over the rows twice more, once read in float64.

    Raises
    ------
    MemoryBudget
        When the budget holds not even one pair of tiles.
    """
    passes = passes_of([cell for cells in prepared for cell in cells])
    found = [one.plan(work.memory) for one in passes]
    if work.question.audit:
        found += [one.plan(work.memory, itemsize) for one in passes for itemsize in (ZScored.itemsize, None)]
    return found


def compute(work: Work, prepared: Prepared) -> list[list[Row]]:
    """Return the rows of each block."""
    values = iter(evaluate([cell for cells in prepared for cell in cells], work.memory))
    beside = Beside(work.question, work.memory)
    return [
        rows_of(block, cells, [next(values) for _ in cells], beside)
        for block, cells in zip(work.blocks, prepared, strict=True)
    ]
