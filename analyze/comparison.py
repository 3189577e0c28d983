"""Compare models from a store: select, join, group by row set, one pass for each, one table."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from actlas.analyze.cka import Cka, finalise, ill_conditioned, undefined
from actlas.analyze.engine import MEMORY, run_pass
from actlas.analyze.representation import Rows, StoredRepresentation
from actlas.analyze.requests import answer, check_budget, parse_request
from actlas.analyze.results import to_dataset
from actlas.analyze.rowset import Join, RowSet, join
from actlas.analyze.selection import (
    Layers,
    ModelRef,
    layer_pairs,
    model_pairs,
    parse_models,
    select_entries,
    select_tasks,
)
from actlas.analyze.tiling import make_tiling
from actlas.store import Depth, InvalidInput, NotFound, Store, check_entry

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class _Cell:
    """One number to be computed."""

    pair: tuple[ModelRef, ModelRef]
    joined: Join
    a: StoredRepresentation
    b: StoredRepresentation
    rows: RowSet


def compare(
    store: Store,
    models: Sequence[str],
    *,
    tasks: str | Sequence[str] | None = None,
    layers: Layers = "matched",
    position: str = "last",
    metrics: Sequence[str] = (),
    memory: int = MEMORY,
    depth: Depth = "size",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Compare models by linear CKA on every task that they share, out of core.

    Parameters
    ----------
    store : Store
        Where their activations are.
    models : sequence of str
        ``model`` or ``model:rendering``; all pairs are compared.
    tasks : str or sequence of str, optional
        Names or glob patterns; all tasks by default.
    layers : {"matched", "all"}
        Each layer with the same layer of the other model, or all pairs of layers, also inside each model.
    position : str
        Of which position the entries are.
    metrics : sequence of str
        Metrics beside CKA, such as ``procrustes`` or ``mutual-knn:5``; see docs/reference/metrics.md. Each pair of
        representations is read whole for these, and computed in float64.
    memory : int
        Budget in bytes.
    depth : {"size", "sample", "full"}
        How far the entries are verified first: presence and sizes of their files, a sample of the files, or all bytes.
        Whatever it is, every chunk that is read is checked against its checksum.
    progress : callable, optional
        Called with passes done, passes in all, and the task at hand.

    Returns
    -------
    xarray.Dataset
        Dimensions (pair, task, layer), or (pair, task, layer_a, layer_b) for all layers. See `compare_table` for the
        variables.

    Raises
    ------
    ActError
        As `compare_table`.
    """
    return to_dataset(
        compare_table(
            store,
            models,
            tasks=tasks,
            layers=layers,
            position=position,
            metrics=metrics,
            memory=memory,
            depth=depth,
            progress=progress,
        ),
        layers,
    )


def compare_table(
    store: Store,
    models: Sequence[str],
    *,
    tasks: str | Sequence[str] | None = None,
    layers: Layers = "matched",
    position: str = "last",
    metrics: Sequence[str] = (),
    memory: int = MEMORY,
    depth: Depth = "size",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Compare models as `compare` does, and return a table with one row a (task, pair of models, pair of layers).

    Returns
    -------
    pandas.DataFrame
        task, model_a, model_b, layer_a, layer_b; cka with cka_se, cka_biased with null_mean; n rows in `groups`
        independent groups, rows dropped because they are not finite, examples unmatched; features p and q,
        participation_a and participation_b; a column for each of `metrics`, called as it was asked for; flags, the reason
        of a NaN, and both entries' ids.

    Raises
    ------
    NotFound
        For an unknown model or task, or models that share no task.
    InvalidInput
        For fewer than 4 shared examples or unequal depth under matched layers.
    Mismatch
        When one tokenizer and rendering gave different tokens.
    MemoryBudget
        When the budget holds not even one pair of tiles, or not what a metric needs.
    Corrupt, Incomplete
        When stored data is damaged.
    """
    if layers not in ("matched", "all"):
        raise InvalidInput(f"layers: expected 'matched' or 'all', got {layers!r}")
    if depth not in get_args(Depth):
        raise InvalidInput(f"depth: expected one of {', '.join(get_args(Depth))}, got {depth!r}")
    requests = [parse_request(text) for text in dict.fromkeys(metrics)]
    cells = list(_cells(store, parse_models(models), select_tasks(store, tasks), layers, position))
    for entry in {entry.path: entry for cell in cells for entry in (cell.joined.a, cell.joined.b)}.values():
        check_entry(store, entry, depth)
    for cell in cells:
        check_budget(requests, len(cell.rows.ids), (cell.a.width, cell.b.width), memory)
    passes: dict[tuple[str, str], list[int]] = {}
    for index, cell in enumerate(cells):
        passes.setdefault((cell.a.entry.task, cell.rows.digest), []).append(index)
    values: list[Cka] = [undefined("")] * len(cells)
    for number, ((task, _), members) in enumerate(passes.items()):
        if progress is not None:
            progress(number, len(passes), task)
        for index, value in zip(members, _run([cells[index] for index in members], memory), strict=True):
            values[index] = value
    return pd.DataFrame(
        [
            _record(cell, value, answer(requests, cell.joined, cell.rows, cell.a, cell.b))
            for cell, value in zip(cells, values, strict=True)
        ]
    )


def _cells(
    store: Store, refs: Sequence[ModelRef], tasks: Sequence[str], layers: Layers, position: str
) -> Iterable[_Cell]:
    entries = select_entries(store, refs, tasks, position)
    shared = [
        (task, pair)
        for task in tasks
        for pair in model_pairs(refs, layers)
        if all((task, ref) in entries for ref in pair)
    ]
    if not any(pair[0] != pair[1] for _, pair in shared):
        having = "; ".join(f"{ref} has {', '.join(task for task in tasks if (task, ref) in entries)}" for ref in refs)
        raise NotFound(f"{store.location}: the models share no task, so nothing can be compared: {having}")
    for task, pair in shared:
        joined = join(entries[task, pair[0]], entries[task, pair[1]])
        if joined.a.path == joined.b.path and pair[0] != pair[1]:
            raise InvalidInput(f"{pair[0]} and {pair[1]} are the same entry of task {task!r}; name every model once")
        for layer_a, layer_b in layer_pairs(joined.a, joined.b, layers):
            a = StoredRepresentation(entry=joined.a, layer=layer_a)
            b = StoredRepresentation(entry=joined.b, layer=layer_b)
            yield _Cell(pair, joined, a, b, joined.row_set(a, b))


def _run(cells: Sequence[_Cell], memory: int, dtype: npt.DTypeLike | None = None) -> list[Cka]:
    """Compute the cells of one row set; those that float32 cannot do justice to, again in float64."""
    if cells[0].rows.loses_too_much:
        rows = cells[0].rows
        return [undefined(f"{rows.n_dropped} of {rows.n_dropped + len(rows.ids)} rows are not finite")] * len(cells)
    sources: dict[tuple[str, int], tuple[int, StoredRepresentation, Rows]] = {}

    def number(source: StoredRepresentation, rows: Rows) -> int:
        return sources.setdefault((source.entry.path, source.layer), (len(sources), source, rows))[0]

    numbers = [(number(cell.a, cell.rows.rows_a), number(cell.b, cell.rows.rows_b)) for cell in cells]
    pairs = [(min(pair), max(pair)) for pair in numbers]
    tiling = make_tiling(cells[0].rows.groups)
    result = run_pass(
        [source for _, source, _ in sources.values()],
        [rows for _, _, rows in sources.values()],
        pairs,
        tiling,
        memory=memory,
        dtype=dtype,
    )
    values = finalise(result, pairs, tiling, widths=[source.width for _, source, _ in sources.values()])
    poor = ill_conditioned(result, tiling)
    again = [index for index, pair in enumerate(pairs) if poor & {*pair}]
    if again:
        for index, value in zip(again, _run([cells[index] for index in again], memory, np.float64), strict=True):
            values[index] = value
    return values


def _noise(source: StoredRepresentation) -> float:
    """Return how far from 1 the debiased CKA of a representation with its own re-computation is; 0 where not measured."""
    found = source.entry.provenance.get("noise_floor") or {}
    by_layer = dict(zip(found.get("layers", ()), found.get("cka", ()), strict=True))
    cka = by_layer.get(source.layer)
    return 0.0 if cka is None else max(0.0, 1 - cka)


def _record(cell: _Cell, value: Cka, answers: Mapping[str, float]) -> dict[str, Any]:
    numbers = asdict(value)
    n, p, q = len(cell.rows.ids), cell.a.width, cell.b.width
    flags = {
        "rows assumed independent": cell.joined.groups is None,
        "n < p": n < max(p, q),
        "plans differ": not cell.joined.has_equal_plans,
        "within the noise floor": 1 - numbers["cka"] <= max(_noise(cell.a), _noise(cell.b)),
    }
    return {
        "task": cell.joined.a.task,
        "model_a": str(cell.pair[0]),
        "model_b": str(cell.pair[1]),
        "layer_a": cell.a.layer,
        "layer_b": cell.b.layer,
        "cka": numbers["cka"],
        "cka_se": numbers["se"],
        "cka_biased": numbers["cka_biased"],
        "null_mean": numbers["null_mean"],
        "n": n,
        "groups": cell.rows.n_groups,
        "dropped": cell.rows.n_dropped,
        "unmatched": cell.joined.n_unmatched,
        "p": p,
        "q": q,
        "participation_a": numbers["participation_x"],
        "participation_b": numbers["participation_y"],
        **answers,
        "flags": "; ".join(flag for flag, holds in flags.items() if holds),
        "reason": numbers["reason"],
        "entry_a": cell.a.entry.id,
        "entry_b": cell.b.entry.id,
    }
