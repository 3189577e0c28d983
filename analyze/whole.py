"""Metrics that need two representations whole, and measures of one: plain functions of float64 matrices in memory.

Rows are examples. A metric is NaN where a side has no structure; nothing is added to a denominator, but in `cknna`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from actlas.analyze.hsic import MIN_EXAMPLES
from actlas.store import InvalidInput

Matrix = npt.NDArray[np.float64]

_SHARES = (0.90, 0.95, 0.99)
_CKNNA_EPSILON = 1e-6
_DECIMALS = 12  # to which distances and cosines are told apart: beyond, rounding would decide ranks and neighbours


def centred(x: Matrix) -> Matrix:
    """Return a matrix minus its column means; a column of one value becomes zero, not what rounding makes of it."""
    return np.where(x.max(axis=0) == x.min(axis=0), 0.0, x - x.mean(axis=0))


def cka_rbf(x: Matrix, y: Matrix) -> float:
    """CKA with Gaussian kernels and the biased HSIC (Kornblith et al. 2019).

    sigma^2 of each side is the median of all n^2 squared distances, the zeros on the diagonal among them.
    """
    k, m = (_doubly_centred(_gaussian(side)) for side in (x, y))
    return _ratio((k * m).sum(), (k * k).sum(), (m * m).sum())


def cka_minibatch(x: Matrix, y: Matrix, *, batch: int = 256) -> float:
    """Ratio of sums of the unbiased HSIC over contiguous batches of rows; a rest under 4 is dropped (Nguyen et al. 2021).

    Parameters
    ----------
    x, y : (n, p), (n, q)
        Two representations.
    batch : int
        Rows of a batch, at least 4.
    """
    if batch < MIN_EXAMPLES:
        raise InvalidInput(f"batch: expected at least {MIN_EXAMPLES} rows, got {batch}")
    starts = range(0, len(x), batch)
    return _cka_of_groups(x, y, [np.arange(start, min(start + batch, len(x))) for start in starts])


def cka_within(x: Matrix, y: Matrix, *, groups: Sequence[Any] | None = None) -> float:
    """Ratio of sums of the unbiased HSIC inside groups of rows: what all rows of a group share is taken out.

    Parameters
    ----------
    x, y : (n, p), (n, q)
        Two representations.
    groups : sequence of n values
        The group of each row, such as its template; groups of under 4 rows are dropped.
    """
    if groups is None or len(groups) != len(x):
        got = "none" if groups is None else len(groups)
        raise InvalidInput(f"groups: expected one value for each of {len(x)} rows, got {got}")
    _, numbers = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
    return _cka_of_groups(x, y, [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)])


def procrustes(x: Matrix, y: Matrix) -> float:
    """Nuclear norm of Xc' Yc over the product of the norms, in [0, 1]: shape after the best rotation."""
    a, b = _without_rotation(x), _without_rotation(y)
    nuclear = np.linalg.svd(a.T @ b, compute_uv=False).sum()
    return _ratio(nuclear, (a * a).sum(), (b * b).sum())


def rsa(x: Matrix, y: Matrix, *, distance: str = "correlation", method: str = "spearman") -> float:
    """Correlation of the upper triangles of two distance matrices between rows (Kriegeskorte et al. 2008).

    Parameters
    ----------
    x, y : (n, p), (n, q)
        Two representations.
    distance : {"correlation", "euclidean"}
        1 minus Pearson's correlation of two rows, or their Euclidean distance.
    method : {"spearman", "pearson"}
        How the distances are correlated; ties have their mean rank.
    """
    for given, known, name in ((distance, _DISTANCES, "distance"), (method, _RANKINGS, "method")):
        if given not in known:
            raise InvalidInput(f"{name} {given!r}: expected one of {', '.join(known)}")
    upper = np.triu_indices(len(x), 1)
    found = [_DISTANCES[distance](side)[upper] for side in (x, y)]
    if not all(np.isfinite(one).all() for one in found):  # ranks would hide it
        return float("nan")
    a, b = (_RANKINGS[method](one) for one in found)
    a, b = a - a.mean(), b - b.mean()
    return _ratio((a * b).sum(), (a * a).sum(), (b * b).sum())


def svcca(x: Matrix, y: Matrix, *, variance: float = 0.99) -> float:
    """Mean canonical correlation of the directions that hold a share of each side's variance (Raghu et al. 2017).

    Parameters
    ----------
    x, y : (n, p), (n, q)
        Two representations.
    variance : float
        The share, by squared singular values; 0.99 as in the paper.
    """
    if not 0 < variance <= 1:
        raise InvalidInput(f"variance: expected a share above 0 and up to 1, got {variance}")
    a, b = (_directions(side, variance) for side in (x, y))
    if not min(a.shape[1], b.shape[1]):
        return float("nan")
    return float(np.linalg.svd(a.T @ b, compute_uv=False).clip(max=1).mean())


def linear_r2(x: Matrix, y: Matrix) -> float:
    """In-sample share of the variance of X that a linear map of Y explains (Kornblith et al. 2019); not symmetric."""
    total = (centred(x) ** 2).sum()
    basis = _directions(y, 1.0)
    return float(((basis.T @ centred(x)) ** 2).sum() / total) if total > 0 and basis.shape[1] else float("nan")


def mutual_knn(x: Matrix, y: Matrix, *, k: int = 10) -> float:
    """Mean overlap of the k nearest neighbours by cosine, each row itself excluded (Huh et al. 2024).

    Parameters
    ----------
    x, y : (n, p), (n, q)
        Two representations; they are not centred.
    k : int
        Neighbours, at least 1 and below n. Ties go to the lower row.
    """
    masks = [_neighbours(_cosines(side), k) for side in (x, y)]
    return float((masks[0] & masks[1]).sum() / (k * len(x))) if _have_directions(x, y) else float("nan")


def cknna(x: Matrix, y: Matrix, *, k: int = 10) -> float:
    """CKA of the cosines between rows that are nearest neighbours on both sides (Huh et al. 2024).

    Not symmetric: a row need not be among the nearest of its own nearest. The denominator has 1e-6 added to it, as in the
    authors' code, whose numbers these are; it weighs where the kept cosines vary little.

    Parameters
    ----------
    x, y : (n, p), (n, q)
        Two representations; they are not centred.
    k : int
        Neighbours, at least 1 and below n. Ties go to the lower row.
    """
    cosines = [_cosines(side) for side in (x, y)]
    masks = [_neighbours(one, k) for one in cosines]
    if not _have_directions(x, y):
        return float("nan")

    def of(a: int, b: int) -> float:
        both = masks[a] & masks[b]
        return unbiased_hsic(cosines[a] * both, cosines[b] * both)

    own = of(0, 0) * of(1, 1)
    return float(of(0, 1) / (np.sqrt(own) + _CKNNA_EPSILON)) if own > 0 else float("nan")


def measures(x: Matrix) -> dict[str, float]:
    """Return how many dimensions one representation uses, and what its rows are like.

    Parameters
    ----------
    x : (n, p)
        A representation.

    Returns
    -------
    dict
        ``participation_ratio`` (sum l)^2 / sum l^2 of the eigenvalues l of the covariance; ``effective_rank``: the
        exponential of the entropy of the singular values of the centred matrix, as shares of their sum (Roy and Vetterli
        2007); ``dims_90``, ``dims_95``, ``dims_99``: the fewest principal directions that hold the share of the variance;
        ``mean_cosine`` between different rows, not centred (anisotropy, Ethayarajh 2019); ``mean_norm`` and ``sd_norm`` of
        the rows. NaN where a measure is undefined.
    """
    singular = np.asarray(np.linalg.svd(centred(x), compute_uv=False), np.float64)
    norms = np.linalg.norm(x, axis=1)
    has_variance = bool(len(singular)) and singular[0] > _rounding(x)
    eigenvalues = singular**2
    found = {f"dims_{share * 100:.0f}": float("nan") for share in _SHARES}
    if has_variance:
        found = {f"dims_{share * 100:.0f}": float(_n_directions(singular, share)) for share in _SHARES}
    cosines, n = _cosines(x), len(x)
    return {
        "participation_ratio": float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum()) if has_variance else float("nan"),
        "effective_rank": _effective_rank(singular) if has_variance else float("nan"),
        **found,
        "mean_cosine": float((cosines.sum() - np.trace(cosines)) / (n * (n - 1)))
        if (norms > 0).all()
        else float("nan"),
        "mean_norm": float(norms.mean()),
        "sd_norm": float(norms.std(ddof=1)),
    }


def unbiased_hsic(k: Matrix, m: Matrix) -> float:
    """Return the unbiased HSIC of two kernel matrices (Song et al. 2012, eq. 5); they need not be symmetric."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    joint = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(axis=0) @ m.sum(axis=1)) / (n - 2)
    return float(((k * m.T).sum() + joint) / (n * (n - 3)))


def _cka_of_groups(x: Matrix, y: Matrix, groups: Sequence[npt.NDArray[np.intp]]) -> float:
    sums = np.zeros(3)
    for rows in groups:
        if len(rows) >= MIN_EXAMPLES:
            a, b = (centred(side[rows]) for side in (x, y))  # changes no HSIC, and keeps its digits
            k, m = a @ a.T, b @ b.T
            sums += [unbiased_hsic(k, m), unbiased_hsic(k, k), unbiased_hsic(m, m)]
    return _ratio(*sums)


def _ratio(joint: float, a: float, b: float) -> float:
    """Return joint / sqrt(a b), NaN where a side is nothing; the root is taken of each, for products underflow."""
    return float(joint / (np.sqrt(a) * np.sqrt(b))) if a > 0 and b > 0 else float("nan")


def _gaussian(x: Matrix) -> Matrix:
    squared = _squared_distances(x)
    width = np.median(squared)
    return np.exp(-squared / (2 * width)) if width > 0 else np.zeros_like(squared)


def _squared_distances(x: Matrix) -> Matrix:
    x = centred(x)
    gram = x @ x.T
    squares = np.diag(gram)
    distances = np.maximum(squares[:, None] + squares - 2 * gram, 0.0)
    np.fill_diagonal(distances, 0.0)
    return np.asarray((distances + distances.T) / 2)


def _euclidean_distances(x: Matrix) -> Matrix:
    return np.sqrt(_squared_distances(x))


def _correlation_distances(x: Matrix) -> Matrix:
    rows = centred(x.T).T
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    # A row of one value has no correlation: NaN all the way.
    rows = np.divide(rows, norms, where=norms > 0, out=np.full_like(rows, np.nan))
    return np.asarray(1 - rows @ rows.T)


def _doubly_centred(kernel: Matrix) -> Matrix:
    return np.asarray(kernel - kernel.mean(axis=0) - kernel.mean(axis=1, keepdims=True) + kernel.mean())


def _mean_ranks(values: Matrix) -> Matrix:
    """Return ranks from 0; values that are equal but for rounding have the mean of theirs."""
    scale = np.abs(values).max(initial=0) or 1.0
    _, inverse, counts = np.unique(np.round(values / scale, _DECIMALS), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2)[inverse], dtype=np.float64)


def _without_rotation(x: Matrix) -> Matrix:
    """Return a centred matrix with at most n columns that is the same but for a rotation."""
    x = centred(x)
    if x.shape[1] <= x.shape[0]:
        return x
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    return np.asarray(left * singular)


def _rounding(x: Matrix) -> float:
    """Return the largest singular value that rounding alone may give the centred matrix."""
    return float(np.abs(x).max(initial=0) * max(x.shape) * np.finfo(np.float64).eps)


def _n_directions(singular: Matrix, variance: float) -> int:
    shares = np.cumsum(singular**2)
    return int(np.searchsorted(shares, variance * shares[-1] * (1 - 1e-15)) + 1)


def _directions(x: Matrix, variance: float) -> Matrix:
    """Return an orthonormal basis (n, k) of the fewest directions that hold a share of the variance."""
    left, singular, _ = np.linalg.svd(centred(x), full_matrices=False)
    rank = int((singular > max(_rounding(x), singular[0] * max(x.shape) * np.finfo(np.float64).eps)).sum())
    return np.asarray(left[:, : min(rank, _n_directions(singular, variance))])


def _effective_rank(singular: Matrix) -> float:
    shares = singular[singular > 0] / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _have_directions(*sides: Matrix) -> bool:
    return all((np.linalg.norm(side, axis=1) > 0).all() for side in sides)


def _cosines(x: Matrix) -> Matrix:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    rows = np.divide(x, norms, where=norms > 0, out=np.zeros_like(x))
    return np.asarray(rows @ rows.T)


def _neighbours(cosines: Matrix, k: int) -> npt.NDArray[np.bool_]:
    """Return (n, n): whether column j is among the k nearest of row i."""
    n = len(cosines)
    if not 1 <= k < n:
        raise InvalidInput(f"k: expected 1 to {n - 1} neighbours among {n} rows, got {k}")
    similarities = np.round(cosines, _DECIMALS)
    np.fill_diagonal(similarities, -np.inf)
    nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    mask = np.zeros((n, n), bool)
    np.put_along_axis(mask, nearest, True, axis=1)
    return mask


_DISTANCES: dict[str, Callable[[Matrix], Matrix]] = {
    "correlation": _correlation_distances,
    "euclidean": _euclidean_distances,
}
_RANKINGS: dict[str, Callable[[Matrix], Matrix]] = {"spearman": _mean_ranks, "pearson": np.asarray}
