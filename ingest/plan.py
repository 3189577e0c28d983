"""The plan: the frozen list of batches of one task, the same for every checkpoint."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from actlas.store.digest import LEAF_ROWS, json_digest


@dataclass(frozen=True)
class Batch:
    """Examples that go through the model together.

    Attributes
    ----------
    rows : tuple of int
        Their places in the task.
    n_padded : int
        Tokens of the batch, padding counted: its rows times the longest.
    """

    rows: tuple[int, ...]
    n_padded: int


@dataclass(frozen=True)
class Plan:
    """All batches of a task, superblock by superblock.

    Attributes
    ----------
    superblocks : tuple of tuple of Batch
        Each covers the next 2,048 examples in task order.
    batch_tokens : int
        The token budget.
    """

    superblocks: tuple[tuple[Batch, ...], ...]
    batch_tokens: int

    @property
    def n_padded(self) -> int:
        """Tokens computed, padding counted."""
        return sum(batch.n_padded for superblock in self.superblocks for batch in superblock)

    @property
    def digest(self) -> str:
        """Digest of budget and batches: values depend on them in every dtype below float32."""
        rows = [[list(batch.rows) for batch in superblock] for superblock in self.superblocks]
        return json_digest({"batch_tokens": self.batch_tokens, "superblocks": rows})


def make_plan(lengths: Sequence[int], batch_tokens: int) -> Plan:
    """Cut a task into batches: sorted by length inside each superblock, longest first, as many as the budget holds.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each example, in task order.
    batch_tokens : int
        Padded tokens that a batch may have; a longer example makes a batch of its own.
    """
    starts = range(0, len(lengths), LEAF_ROWS)
    superblocks = (range(start, min(start + LEAF_ROWS, len(lengths))) for start in starts)
    return Plan(tuple(tuple(_batches(rows, lengths, batch_tokens)) for rows in superblocks), batch_tokens)


def _batches(rows: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> Iterator[Batch]:
    waiting = sorted(rows, key=lambda row: (-lengths[row], row))
    while waiting:
        longest = lengths[waiting[0]]
        size = max(1, batch_tokens // longest)
        chosen, waiting = waiting[:size], waiting[size:]
        yield Batch(tuple(chosen), len(chosen) * longest)
