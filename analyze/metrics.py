"""The registry of metrics, and `similarity` of two arrays in memory."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from actlas.analyze import whole
from actlas.analyze.cka import Cka, finalise
from actlas.analyze.engine import run_pass
from actlas.analyze.hsic import MIN_EXAMPLES
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
    compute : callable
        Takes two matrices (n, p) and (n, q) in float64, and options; returns the number.
    source : str
        Where it is defined.
    is_symmetric : bool
        Whether the order of the two matters not.
    grows : bool
        Whether it grows as examples are taken away, until it is 1 whatever the data: compare it at equal n only.
    is_streamed : bool
        Whether `compare` computes it out of core.
    """

    title: str
    compute: Callable[..., float]
    source: str
    is_symmetric: bool = True
    grows: bool = False
    is_streamed: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Its options with their defaults."""
        return {
            name: parameter.default
            for name, parameter in inspect.signature(self.compute).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }


def _cell(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Cka:
    rows, tiling = np.arange(len(x)), make_tiling(range(len(x)))
    sources = [ArrayRepresentation(x), ArrayRepresentation(y)]
    result = run_pass(sources, [rows, rows], [(0, 1)], tiling, dtype=np.float64)
    [cell] = finalise(result, [(0, 1)], tiling, widths=[source.width for source in sources])
    return cell


METRICS = {
    "cka": Metric(
        title="linear CKA (debiased)",
        compute=lambda x, y: _cell(x, y).cka,
        source="Song et al. 2012, eq. 5; Kornblith et al. 2019",
        is_streamed=True,
    ),
    "cka-biased": Metric(
        title="linear CKA (biased)",
        compute=lambda x, y: _cell(x, y).cka_biased,
        source="Kornblith et al. 2019",
        grows=True,
        is_streamed=True,
    ),
    "cka-within": Metric(
        title="linear CKA within groups", compute=whole.cka_within, source="Song et al. 2012, eq. 5, inside each group"
    ),
    "cka-minibatch": Metric(title="minibatch CKA", compute=whole.cka_minibatch, source="Nguyen et al. 2021"),
    "cka-rbf": Metric(title="RBF CKA", compute=whole.cka_rbf, source="Kornblith et al. 2019", grows=True),
    "procrustes": Metric(
        title="Procrustes similarity", compute=whole.procrustes, source="Williams et al. 2021", grows=True
    ),
    "rsa": Metric(title="RSA", compute=whole.rsa, source="Kriegeskorte et al. 2008"),
    "svcca": Metric(title="SVCCA", compute=whole.svcca, source="Raghu et al. 2017", grows=True),
    "linear-r2": Metric(
        title="linear R2 of X from Y",
        compute=whole.linear_r2,
        source="Kornblith et al. 2019",
        is_symmetric=False,
        grows=True,
    ),
    "mutual-knn": Metric(title="mutual k-NN", compute=whole.mutual_knn, source="Huh et al. 2024"),
    "cknna": Metric(title="CKNNA", compute=whole.cknna, source="Huh et al. 2024", is_symmetric=False),
}


def similarity(x: npt.ArrayLike, y: npt.ArrayLike, metric: str = "cka", **options: Any) -> float:
    """Return how alike two representations of the same examples are, in float64.

    Parameters
    ----------
    x, y : (n, p), (n, q)
        Row i of both is the same example.
    metric : str
        One of `METRICS`; docs/reference/metrics.md defines them.
    **options
        Of the metric, such as ``k=20`` for ``mutual-knn``.

    Returns
    -------
    float
        NaN where the metric is undefined, as for a constant representation.

    Raises
    ------
    InvalidInput
        For other shapes, fewer than 4 rows, values that are not finite, an unknown metric, or options that it does not have.
    """
    if not isinstance(metric, str) or metric not in METRICS:
        raise InvalidInput(f"no metric {metric!r}; {near_misses(str(metric), METRICS)}")
    chosen = METRICS[metric]
    if unknown := sorted({*options} - {*chosen.options}):
        raise InvalidInput(f"{metric} has no option {', '.join(unknown)}; it has {', '.join(chosen.options) or 'none'}")
    x, y = _pair(x, y)
    return chosen.compute(x, y, **options)


def _pair(x: npt.ArrayLike, y: npt.ArrayLike) -> list[npt.NDArray[np.float64]]:
    sides = [_matrix(array, name) for array, name in ((x, "x"), (y, "y"))]
    n = len(sides[0])
    if len(sides[1]) != n:
        raise InvalidInput(
            f"expected as many rows in y as in x, got {len(sides[1])} and {n}; rows are paired by number"
        )
    if n < MIN_EXAMPLES:
        raise InvalidInput(f"expected at least {MIN_EXAMPLES} rows, got {n}; the unbiased HSIC divides by n - 3")
    return sides


def measures(x: npt.ArrayLike) -> dict[str, float]:
    """Return how many dimensions a representation uses and what its rows are like, in float64.

    Parameters
    ----------
    x : (n, p)
        Row i is an example.

    Returns
    -------
    dict
        ``participation_ratio``, ``effective_rank``, ``dims_90``, ``dims_95``, ``dims_99``, ``mean_cosine``, ``mean_norm``
        and ``sd_norm``; docs/reference/metrics.md defines them. NaN where one is undefined.

    Raises
    ------
    InvalidInput
        For other shapes, fewer than 2 rows, and values that are not finite.
    """
    matrix = _matrix(x, "x")
    if len(matrix) < 2:
        raise InvalidInput(f"x: expected at least 2 rows, got {len(matrix)}")
    exponent = _exponent(np.asarray(x, np.float64))
    found = whole.measures(matrix)
    return found | {name: float(np.ldexp(found[name], exponent)) for name in ("mean_norm", "sd_norm")}


def _exponent(values: npt.NDArray[np.float64]) -> int:
    return int(np.frexp(np.abs(values).max(initial=0))[1])


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
    return np.asarray(np.ldexp(values, -_exponent(values)))
