"""What is said of a cell: the columns of the long table."""

import math
from collections.abc import Sequence
from typing import Any

from actlas.analyze.beside import Beside, Columns
from actlas.analyze.blocks import Block
from actlas.analyze.cells import Cell
from actlas.analyze.cka import Cka
from actlas.analyze.hsic import difference_error
from actlas.analyze.representation import Representation, StoredRepresentation

Row = dict[str, Any]

_NOT_SHOWN = ("name_b", "rows")


def rows_of(block: Block, cells: Sequence[Cell], values: Sequence[Cka], beside: Beside) -> list[Row]:
    """Return a row for each cell of a block, or for each two of a difference, without what the block says itself.

    Of ``rows``, the digest of what a number was computed on, nothing is shown; it is kept for the lock of a result.
    """
    if block.kind == "difference":
        return [_difference(cells[at], values[at], cells[at + 1], values[at + 1]) for at in range(0, len(cells), 2)]
    columns = beside.columns(cells, values)
    return [_row(cell, value, more) for cell, value, more in zip(cells, values, columns, strict=True)]


def names_of(block: Block, row: Row) -> Row:
    """Return a row with the task, the models and the entries of its block in front of and behind it."""
    names, ids = [str(ref) for ref in block.refs], [record.id for record in block.records]
    about = {name: value for name, value in row.items() if name not in _NOT_SHOWN}
    if block.kind == "difference":
        return {"task": block.task, "reference": names[0], "model_a": names[1], "model_b": names[2], **about}
    name_b = row["name_b"] or names[-1]
    model_b = f"{names[0]} {row['name_b']}" if row["name_b"] else name_b
    return {
        "task": block.task,
        "model_a": names[0],
        "model_b": model_b,
        **about,
        "entry_a": ids[0],
        "entry_b": "" if row["name_b"] else ids[-1],
    }


def _row(cell: Cell, value: Cka, columns: Columns) -> Row:
    n, p, q = len(cell.rows.ids), cell.a.width, cell.b.width
    flags = {
        "rows assumed independent": cell.joined.groups is None,
        "n < p": n < max(p, q),
        "plans differ": not cell.joined.has_equal_plans,
        "within the noise floor": 1 - value.cka <= max(_noise(cell.a), _noise(cell.b)),
    }
    return {
        "name_b": cell.name_b,
        "rows": cell.rows.digest,
        "layer_a": cell.layer_a,
        "layer_b": cell.layer_b,
        "cka": value.cka,
        "cka_se": value.se,
        "cka_biased": value.cka_biased,
        "null_mean": value.null_mean,
        "n": n,
        "groups": cell.rows.n_groups,
        "dropped": cell.rows.n_dropped,
        "unmatched": cell.joined.n_unmatched,
        "p": p,
        "q": q,
        "participation_a": value.participation_x,
        "participation_b": value.participation_y,
        **columns,
        "flags": "; ".join([*(flag for flag, holds in flags.items() if holds), *columns["flags"]]),
        "reason": value.reason,
    }


def _noise(source: Representation) -> float:
    """Return how far from 1 the debiased CKA of a representation with its own re-computation is; 0 where not measured."""
    if not isinstance(source, StoredRepresentation):
        return 0.0
    found = source.entry.provenance.get("noise_floor") or {}
    by_layer = dict(zip(found.get("layers", ()), found.get("cka", ()), strict=True))
    cka = by_layer.get(source.layer)
    return 0.0 if cka is None else max(0.0, 1 - cka)


def _difference(a: Cell, cka_a: Cka, b: Cell, cka_b: Cka) -> Row:
    """Return CKA(r, a) - CKA(r, b) with its paired error; z is the difference in units of it."""
    same_rows = a.rows.digest == b.rows.digest
    difference = cka_a.cka - cka_b.cka
    se = difference_error(cka_a.left_out, cka_b.left_out) if same_rows else float("nan")
    reason = "" if same_rows else "no standard error: the two tasks group the rows differently"
    return {
        "rows": f"{a.rows.digest} {b.rows.digest}",
        "layer": a.layer_a,
        "cka_a": cka_a.cka,
        "cka_b": cka_b.cka,
        "difference": difference,
        "se": se,
        "z": difference / se if se > 0 else float("nan"),
        "p_value": math.erfc(abs(difference / se) / math.sqrt(2)) if se > 0 else float("nan"),
        "n": len(a.rows.ids),
        "groups": a.rows.n_groups,
        "reason": reason or cka_a.reason or cka_b.reason,
    }
