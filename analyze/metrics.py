"""The registry of metrics, and `similarity` of two arrays in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from actlas.analyze.cka import MIN_EXAMPLES, Cka, finalise
from actlas.analyze.engine import run_pass
from actlas.analyze.representation import ArrayRepresentation
from actlas.analyze.tiling import make_tiling
from actlas.store import InvalidInput, near_misses


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One way to say how alike two representations are.

    Attributes
    ----------
    title : str
        For axes and tables.
    pick : callable
        Takes the number from a finished cell.
    """

    title: str
    pick: Callable[[Cka], float]


METRICS = {
    "cka": Metric(title="linear CKA (debiased)", pick=lambda cell: cell.cka),
    "cka-biased": Metric(title="linear CKA (biased)", pick=lambda cell: cell.cka_biased),
}


def similarity(x: npt.ArrayLike, y: npt.ArrayLike, metric: str = "cka") -> float:
    """Return how alike two representations of the same examples are, in float64.

    Parameters
    ----------
    x, y : (n, p), (n, q)
        Row i of both is the same example.
    metric : {"cka", "cka-biased"}
        Debiased linear CKA (Song et al. 2012) or the biased one (Kornblith et al. 2019).

    Returns
    -------
    float
        NaN where the metric is undefined: a constant representation.

    Raises
    ------
    InvalidInput
        For other shapes, fewer than 4 rows, values that are not finite, or an unknown metric.
    """
    if not isinstance(metric, str) or metric not in METRICS:
        raise InvalidInput(f"no metric {metric!r}; {near_misses(str(metric), METRICS)}")
    sides = [_matrix(array, name) for array, name in ((x, "x"), (y, "y"))]
    n = len(sides[0])
    if len(sides[1]) != n:
        raise InvalidInput(
            f"expected as many rows in y as in x, got {len(sides[1])} and {n}; rows are paired by number"
        )
    if n < MIN_EXAMPLES:
        raise InvalidInput(f"expected at least {MIN_EXAMPLES} rows, got {n}; the unbiased HSIC divides by n - 3")
    rows, tiling = np.arange(n), make_tiling(range(n))
    sources = [ArrayRepresentation(side) for side in sides]
    result = run_pass(sources, [rows, rows], [(0, 1)], tiling, dtype=np.float64)
    widths = [source.width for source in sources]
    [cell] = finalise(result, [(0, 1)], tiling, widths=widths)
    return METRICS[metric].pick(cell)


def _matrix(array: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    values: npt.NDArray[Any] = np.asarray(array)
    if not np.can_cast(values.dtype, np.float64, "same_kind"):
        raise InvalidInput(f"{name}: expected numbers, got dtype {values.dtype}")
    if values.ndim != 2 or values.shape[1] == 0:
        raise InvalidInput(f"{name}: expected a matrix (n_examples, n_features), got shape {values.shape}")
    values = values.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise InvalidInput(
            f"{name}: {len(bad)} rows hold NaN or infinity (first: row {bad[0]}); drop the same rows from both"
        )
    # A power of two is exact, changes no metric, and keeps sums and squares far from overflow and underflow.
    return np.asarray(np.ldexp(values, -int(np.frexp(np.abs(values).max(initial=0))[1])))
