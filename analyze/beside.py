"""What is said of a cell beside CKA when it is asked for: other metrics, the permutation null, the audit, behaviour."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from actlas.analyze.audit import CentredRows, first_eigenvalue_share, flags, influence, row_shares, top_shares
from actlas.analyze.behaviour import Behaviour, behaviour
from actlas.analyze.cells import Cell
from actlas.analyze.cka import Cka, SideSums
from actlas.analyze.moments import FeatureMoments, WithoutTop, ZScored, feature_moments, row_blocks
from actlas.analyze.null import Invariants, invariants, null_moments, p_value
from actlas.analyze.passes import evaluate
from actlas.analyze.question import Question
from actlas.analyze.representation import Representation, Rows
from actlas.analyze.requests import answer
from actlas.analyze.tiling import make_tiling

LEFT_OUT = 3  # features of largest variance that the audit leaves out

Columns = dict[str, Any]

_NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class _SideAudit:
    """What the audit says of one representation on one row set."""

    top_variance: float
    top_gram: float
    first_eigenvalue: float
    largest_row: float


@dataclass(frozen=True, eq=False)
class Beside:
    """Columns beside CKA, each side of a pair looked at once.

    Attributes
    ----------
    question : Question
        What is asked.
    memory : int
        Budget in bytes.
    """

    question: Question
    memory: int
    _moments: dict[object, FeatureMoments] = field(default_factory=dict)
    _invariants: dict[object, Invariants] = field(default_factory=dict)
    _audits: dict[object, _SideAudit] = field(default_factory=dict)
    _behaviours: dict[object, Behaviour] = field(default_factory=dict)

    def columns(self, cells: Sequence[Cell], values: Sequence[Cka]) -> list[Columns]:
        """Return for each cell what was asked for; ``flags`` holds a list."""
        asked = self.question
        columns: list[Columns] = [
            answer(asked.metrics, cell.joined, cell.rows, cell.a, cell.b) | {"flags": []} for cell in cells
        ]
        parts: list[Callable[[Sequence[Cell], Sequence[Cka]], list[Columns]]] = []
        parts += [self._null] if asked.null else []
        parts += [self._audit] if asked.audit else []
        parts += [self._behaviour] if asked.behaviour else []
        for part in parts:
            for row, more in zip(columns, part(cells, values), strict=True):
                row["flags"] += more.pop("flags", [])
                row |= more
        return columns

    def _null(self, cells: Sequence[Cell], values: Sequence[Cka]) -> list[Columns]:
        return [self._null_of(cell, value) for cell, value in zip(cells, values, strict=True)]

    def _null_of(self, cell: Cell, value: Cka) -> Columns:
        if np.isnan(value.cka_biased):
            return dict.fromkeys(("null_sd", "null_skewness", "p_value"), _NAN)
        moments = null_moments(*(self._invariants_of(cell, *side) for side in _sides(cell)))
        return {
            "null_sd": moments.sd,
            "null_skewness": moments.skewness,
            "p_value": p_value(value.cka_biased, moments),
        }

    def _invariants_of(self, cell: Cell, source: Representation, rows: Rows) -> Invariants:
        key = (source.key, cell.rows.digest)
        if key not in self._invariants:
            X = np.concatenate(list(row_blocks(source, rows)))
            X -= X.mean(axis=0)
            X *= np.ldexp(1.0, -int(np.frexp(np.abs(X).max())[1]))  # exact, and far from overflow
            X -= X.mean(axis=0)
            self._invariants[key] = invariants(X @ X.T)
        return self._invariants[key]

    def _audit(self, cells: Sequence[Cell], values: Sequence[Cka]) -> list[Columns]:
        scored = evaluate([self._scored(cell) for cell in cells], self.memory)
        wide = [index for index, cell in enumerate(cells) if min(cell.a.width, cell.b.width) > LEFT_OUT]
        rest = dict(zip(wide, evaluate([self._without_top(cells[index]) for index in wide], self.memory), strict=True))
        return [
            {
                "cka_zscored": scored[index].cka,
                f"cka_without_top_{LEFT_OUT}": rest[index].cka if index in rest else _NAN,
                **self._audit_of(cell, value),
            }
            for index, (cell, value) in enumerate(zip(cells, values, strict=True))
        ]

    def _scored(self, cell: Cell) -> Cell:
        a, b = (
            source if cell.rows.reason else ZScored(source=source, moments=self._moments_of(cell, source, rows))
            for source, rows in _sides(cell)
        )
        return replace(cell, a=a, b=b)

    def _without_top(self, cell: Cell) -> Cell:
        a, b = (
            source
            if cell.rows.reason
            else WithoutTop(source=source, moments=self._moments_of(cell, source, rows), k=LEFT_OUT)
            for source, rows in _sides(cell)
        )
        return replace(cell, a=a, b=b)

    def _moments_of(self, cell: Cell, source: Representation, rows: Rows) -> FeatureMoments:
        key = (source.key, cell.rows.digest)
        if key not in self._moments:
            self._moments[key] = feature_moments(source, rows)
        return self._moments[key]

    def _audit_of(self, cell: Cell, value: Cka) -> Columns:
        sides = zip("ab", _sides(cell), (value.x, value.y), strict=True)
        found = {name: self._side(cell, source, rows, sums) for name, (source, rows), sums in sides}
        moved = influence(value.left_out, value.cka)
        columns: Columns = {
            f"{what}_{name}": getattr(side, what) for what in _SideAudit.__annotations__ for name, side in found.items()
        }
        said = {
            flag
            for side in found.values()
            for flag in flags(first_eigenvalue=side.first_eigenvalue, largest_row=side.largest_row)
        }
        return columns | {
            "most_influential": "" if moved.index is None else _name_of_group(cell, moved.index),
            "influence": moved.change,
            "flags": sorted(said),
        }

    def _side(self, cell: Cell, source: Representation, rows: Rows, sums: SideSums | None) -> _SideAudit:
        if sums is None:
            return _SideAudit(top_variance=_NAN, top_gram=_NAN, first_eigenvalue=_NAN, largest_row=_NAN)
        key = (source.key, cell.rows.digest)
        if key not in self._audits:
            order = make_tiling(cell.rows.groups).order
            centred = CentredRows(source=source, rows=rows[order], moments=self._moments_of(cell, source, rows))
            [top] = top_shares(centred, sums.participation, (1,))
            self._audits[key] = _SideAudit(
                top_variance=top.variance,
                top_gram=top.gram,
                first_eigenvalue=first_eigenvalue_share(centred, sums.participation),
                largest_row=float(row_shares(centred, sums.k, sums.q).max()),
            )
        return self._audits[key]

    def _behaviour(self, cells: Sequence[Cell], values: Sequence[Cka]) -> list[Columns]:  # noqa: ARG002
        return [self._behaviour_of(cell) for cell in cells]

    def _behaviour_of(self, cell: Cell) -> Columns:
        names = ("top_agreement", "kl", "shared_mass", "nll_difference")
        if cell.name_b or cell.rows.reason:
            return {f"{name}{end}": _NAN for name in names for end in ("", "_se")}
        key = (cell.joined.a.path, cell.joined.b.path, cell.rows.digest)
        if key not in self._behaviours:
            rows = cell.rows
            self._behaviours[key] = behaviour(cell.joined.a, cell.joined.b, rows.rows_a, rows.rows_b, rows.groups)
        means = {name: getattr(self._behaviours[key], name) for name in names}
        return {f"{name}{end}": mean.se if end else mean.value for name, mean in means.items() for end in ("", "_se")}


def _sides(cell: Cell) -> tuple[tuple[Representation, Rows], tuple[Representation, Rows]]:
    return (cell.a, cell.rows.rows_a), (cell.b, cell.rows.rows_b)


def _name_of_group(cell: Cell, index: int) -> str:
    """Return the source, or the example where it stands alone, of the group that the tiling numbers `index`."""
    group = list(dict.fromkeys(cell.rows.groups))[index]
    return str(group[0] if isinstance(group, tuple) else group)
