"""Cells: the single numbers of a block, with the rows that each is computed on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from actlas.analyze.baselines import baselines
from actlas.analyze.blocks import Block
from actlas.analyze.question import Question
from actlas.analyze.representation import Representation, StoredRepresentation
from actlas.analyze.rowset import Join, RowSet, join
from actlas.analyze.selection import layer_pairs
from actlas.store import Depth, Entry, Record, Store, check_entry


@dataclass(frozen=True, eq=False)
class Cell:
    """One number to be computed.

    Attributes
    ----------
    joined : Join
        The two entries.
    a, b : Representation
        What is compared.
    rows : RowSet
        The rows that it is compared on.
    layer_a, layer_b : int
        Their layers; a baseline has none of its own, and repeats that of `a`.
    name_b : str
        Of a baseline its name; empty for a model.
    """

    joined: Join
    a: Representation
    b: Representation
    rows: RowSet
    layer_a: int
    layer_b: int
    name_b: str = ""


@dataclass(frozen=True, eq=False)
class Opened:
    """The entries of one task, each opened and joined once."""

    store: Store
    question: Question
    depth: Depth
    _entries: dict[str, Entry] = field(default_factory=dict)
    _joins: dict[tuple[str, str], Join] = field(default_factory=dict)

    def cells(self, block: Block) -> list[Cell]:
        """Return the cells of a block; of a difference two in a row belong together.

        Raises
        ------
        ActError
            When an entry is damaged, or two entries cannot be joined.
        """
        return list({"pair": self._pair, "baseline": self._baseline, "difference": self._difference}[block.kind](block))

    def _entry(self, record: Record) -> Entry:
        if record.path not in self._entries:
            entry = self.store.open_entry(record)
            entry.hidden_states  # noqa: B018  presence and sizes of its files are checked before anything is computed
            check_entry(self.store, entry, self.depth)
            self._entries[record.path] = entry
        return self._entries[record.path]

    def _join(self, a: Record, b: Record) -> Join:
        if (a.path, b.path) not in self._joins:
            self._joins[a.path, b.path] = join(self._entry(a), self._entry(b), self.question.rows)
        return self._joins[a.path, b.path]

    def _pair(self, block: Block) -> Iterator[Cell]:
        return self._cells(*block.records)

    def _cells(self, record_a: Record, record_b: Record) -> Iterator[Cell]:
        joined = self._join(record_a, record_b)
        for layer_a, layer_b in layer_pairs(record_a, record_b, self.question.layers):
            a = StoredRepresentation(entry=joined.a, layer=layer_a)
            b = StoredRepresentation(entry=joined.b, layer=layer_b)
            yield Cell(joined, a, b, joined.row_set(a, b), layer_a, layer_b)

    def _baseline(self, block: Block) -> Iterator[Cell]:
        [record] = block.records
        joined = self._join(record, record)
        layers = dict(layer_pairs(record, record, self.question.layers if self.question.matches_layers else "matched"))
        for name, b in baselines(joined.a):
            for layer in layers:
                a = StoredRepresentation(entry=joined.a, layer=layer)
                yield Cell(joined, a, b, joined.row_set(a, b), layer, layer, name)

    def _difference(self, block: Block) -> Iterator[Cell]:
        reference, *others = block.records
        for one, other in zip(*(self._cells(reference, other) for other in others), strict=True):
            yield from _on_common_rows(one, other)


def _on_common_rows(one: Cell, other: Cell) -> Sequence[Cell]:
    if one.rows.digest == other.rows.digest:
        return one, other
    common = set(one.rows.ids) & set(other.rows.ids)
    return [replace(cell, rows=cell.rows.among(common)) for cell in (one, other)]
