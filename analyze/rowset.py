"""Row sets: which examples a pair of representations is compared on. A pair's rows depend on that pair alone."""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from actlas.analyze.choice import EVERY_ROW, RowChoice, rows_where
from actlas.analyze.hsic import MIN_EXAMPLES
from actlas.analyze.representation import Representation, Rows
from actlas.store import GROUPING, Entry, InvalidInput, Mismatch, Task

MAX_LOST_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class RowSet:
    """The rows of one pair of representations.

    Attributes
    ----------
    ids : sequence of str
        Their example ids, in order.
    rows_a, rows_b : (n,) int
        Where they stand in each entry.
    groups : sequence of length n
        The group of each row; distinct where rows are independent.
    n_dropped : int
        Shared examples left out because a value is not finite on either side.
    n_shared : int
        Examples that both entries have, of those that were chosen by their columns.
    n_wanted : int
        Rows asked for, where a number was.
    """

    ids: Sequence[str]
    rows_a: Rows
    rows_b: Rows
    groups: Sequence[object]
    n_dropped: int
    n_shared: int
    n_wanted: int = 0

    @cached_property
    def digest(self) -> str:
        """Digest of ids and groups: pairs of one digest share a pass."""
        first_seen: dict[object, int] = {}
        numbers = [first_seen.setdefault(group, len(first_seen)) for group in self.groups]
        return hashlib.sha256(json.dumps([list(self.ids), numbers]).encode()).hexdigest()

    @cached_property
    def n_groups(self) -> int:
        """Number of independent groups."""
        return len(set(self.groups))

    @property
    def reason(self) -> str:
        """Why the pair has no number: too many rows are not finite, or too few are left; empty where it has one."""
        n, n_finite = len(self.ids), self.n_shared - self.n_dropped
        if self.n_dropped > MAX_LOST_SHARE * self.n_shared or n_finite < MIN_EXAMPLES:
            return f"{self.n_dropped} of {self.n_shared} rows are not finite"
        return f"{n} rows, asked for {self.n_wanted}" if n < self.n_wanted else ""

    def among(self, ids: Collection[str]) -> "RowSet":
        """Return the rows whose ids are among others."""
        others = set(ids)
        kept = np.array([row for row, example in enumerate(self.ids) if example in others], np.intp)
        return RowSet(
            [self.ids[row] for row in kept],
            self.rows_a[kept],
            self.rows_b[kept],
            [self.groups[row] for row in kept],
            self.n_dropped + len(self.ids) - len(kept),
            self.n_shared,
        )


@dataclass(frozen=True, eq=False)
class Join:
    """The examples that two entries share, in the order of the first.

    Attributes
    ----------
    a, b : Entry
        The entries.
    ids : list of str
        Shared example ids.
    rows_a, rows_b : (n_shared,) int
        Where they stand in each entry.
    n_unmatched : int
        Examples that only one of the entries has.
    choice : RowChoice
        Which of them are compared.
    """

    a: Entry
    b: Entry
    ids: list[str]
    rows_a: Rows
    rows_b: Rows
    n_unmatched: int
    choice: RowChoice
    _row_sets: dict[bytes, RowSet] = field(default_factory=dict)

    @property
    def has_equal_plans(self) -> bool:
        """Whether both were computed in the same batches."""
        return self.a.identity.plan_digest == self.b.identity.plan_digest

    @cached_property
    def groups(self) -> list[object] | None:
        """The source of every shared example, or None where neither task says.

        An example without a source, or with an empty one, stands alone.

        Raises
        ------
        Mismatch
            When both tasks name sources and they differ.
        """
        of_a, of_b = (_sources(entry.read_task()) for entry in (self.a, self.b))
        if of_a and of_b and (differing := [example for example in self.ids if of_a.get(example) != of_b.get(example)]):
            raise Mismatch(
                f"task {self.a.task!r}: {self.a.model} and {self.b.model} were ingested with another {GROUPING} for "
                f"{len(differing)} shared examples (first: {differing[0]}); ingest both from the same tasks file"
            )
        sources = of_a or of_b
        return [sources.get(example, (example,)) for example in self.ids] if sources else None

    @cached_property
    def order_of_draw(self) -> npt.NDArray[np.intp]:
        """Rows in the order in which they are drawn: by a digest of seed and id, so that other rows change nothing."""
        keys = [hashlib.sha256(f"{self.choice.seed} {example}".encode()).digest() for example in self.ids]
        return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.intp)

    def row_set(self, a: Representation, b: Representation) -> RowSet:
        """Return the chosen rows that are finite in both representations; nothing is read but stored counts."""
        finite = ~(a.nonfinite()[self.rows_a] | b.nonfinite()[self.rows_b])
        if finite.tobytes() not in self._row_sets:
            self._row_sets[finite.tobytes()] = self._rows_where(finite)
        return self._row_sets[finite.tobytes()]

    def _rows_where(self, finite: npt.NDArray[np.bool_]) -> RowSet:
        kept, n_wanted = np.flatnonzero(finite), self.choice.match_n or 0
        if n_wanted:
            kept = np.sort(self.order_of_draw[finite[self.order_of_draw]][:n_wanted])
        ids = [self.ids[index] for index in kept]
        groups = ids if self.groups is None else [self.groups[index] for index in kept]
        return RowSet(ids, self.rows_a[kept], self.rows_b[kept], groups, int((~finite).sum()), len(self.ids), n_wanted)


def _sources(task: Task) -> dict[str, object]:
    column = task.column(GROUPING) or []
    return {
        example: source for example, source in zip(task.example_ids, column, strict=False) if source not in (None, "")
    }


def join(a: Entry, b: Entry, choice: RowChoice = EVERY_ROW) -> Join:
    """Join two entries of one task by example id.

    Raises
    ------
    InvalidInput
        When they share fewer than 4 examples or a smaller share than is asked for, or fewer than 4 are chosen.
    Mismatch
        When one tokenizer and rendering gave different tokens for the same example.
    """
    where_b = {example: row for row, example in enumerate(b.example_ids)}
    shared = [(example, row, where_b[example]) for row, example in enumerate(a.example_ids) if example in where_b]
    n_unmatched = a.n_examples + b.n_examples - 2 * len(shared)
    n_larger = max(a.n_examples, b.n_examples)
    if len(shared) < choice.min_shared * n_larger:
        raise InvalidInput(
            f"task {a.task!r}: {a.model} and {b.model} share {len(shared)} of {n_larger} examples, expected at least "
            f"{choice.min_shared:.0%}; ingest both from the same tasks file, or ask for a smaller share"
        )
    shared = _chosen(a, shared, choice)
    if len(shared) < MIN_EXAMPLES:
        raise InvalidInput(
            f"task {a.task!r}: {a.model} and {b.model} share {len(shared)} examples, expected at least {MIN_EXAMPLES}; "
            f"they have {a.n_examples} and {b.n_examples}; ingest both from the same tasks file, or leave the task out "
            "with --tasks"
        )
    joined = Join(
        a,
        b,
        [example for example, _, _ in shared],
        np.array([row for _, row, _ in shared], np.intp),
        np.array([row for _, _, row in shared], np.intp),
        n_unmatched,
        choice,
    )
    _check_tokens(joined)
    return joined


def _chosen(a: Entry, shared: list[tuple[str, int, int]], choice: RowChoice) -> list[tuple[str, int, int]]:
    if choice.where is None:
        return shared
    task = a.read_task()
    fitting = {example for example, fits in zip(task.example_ids, rows_where(task, choice.where), strict=True) if fits}
    chosen = [row for row in shared if row[0] in fitting]
    if len(chosen) < MIN_EXAMPLES:
        raise InvalidInput(
            f"task {a.task!r}: {len(chosen)} of {len(shared)} shared examples fit {choice.where!r}, expected at least "
            f"{MIN_EXAMPLES}; ask for more, or leave the task out with --tasks"
        )
    return chosen


def _check_tokens(joined: Join) -> None:
    a, b = joined.a, joined.b
    one = (a.identity.tokenizer_digest, a.identity.rendering_digest)
    if one != (b.identity.tokenizer_digest, b.identity.rendering_digest):
        return  # another tokenizer or rendering: other tokens are what was asked for
    digests_a, digests_b = a.token_digests, b.token_digests
    differing = [
        example
        for example, row_a, row_b in zip(joined.ids, joined.rows_a, joined.rows_b, strict=True)
        if digests_a[row_a] != digests_b[row_b]
    ]
    if differing:
        raise Mismatch(
            f"task {a.task!r}: {a.model} and {b.model} saw different tokens for {len(differing)} of {len(joined.ids)} "
            f"shared examples (first: {differing[0]}) under one tokenizer and rendering; ingest the older entry again "
            f"({a.location}, {b.location})"
        )
