"""The plan: the frozen list of batches of one task, the same for every checkpoint."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

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

    @cached_property
    def digest(self) -> str:
        """Digest of budget and batches: values depend on them, and on their padding, in every dtype below float32.

        A prompt that is cut at another context is the longest of its batch, so this digest tells the two apart.
        """
        batches = [[[list(batch.rows), batch.n_padded] for batch in superblock] for superblock in self.superblocks]
        return json_digest({"batch_tokens": self.batch_tokens, "superblocks": batches})


def token_offsets(plan: Plan, lengths: Sequence[int]) -> list[int]:
    """Return for each example how many tokens the plan computes before it, padding left out."""
    offsets, n_tokens = [0] * len(lengths), 0
    for batch in (batch for superblock in plan.superblocks for batch in superblock):
        for row in batch.rows:
            offsets[row] = n_tokens
            n_tokens += lengths[row]
    return offsets


def make_plan(lengths: Sequence[int], batch_tokens: int) -> Plan:
    """Cut a task into batches: sorted by length inside each superblock, longest first, as many as the budget holds.

    A batch that holds a quarter of the budget ends before a row with which over 4 percent of it would be padding.

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
    chosen: list[int] = []
    n_tokens = 0
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        n_padded = (len(chosen) + 1) * lengths[chosen[0] if chosen else row]
        full = n_padded > batch_tokens
        # Lengths of prompts are so uneven that batches filled to the budget alone would be padding by 7 to 16 percent.
        wasteful = 4 * n_padded > batch_tokens and 25 * (n_tokens + lengths[row]) < 24 * n_padded
        if chosen and (full or wasteful):
            yield Batch(tuple(chosen), len(chosen) * lengths[chosen[0]])
            chosen, n_tokens = [], 0
        chosen.append(row)
        n_tokens += lengths[row]
    yield Batch(tuple(chosen), len(chosen) * lengths[chosen[0]])
