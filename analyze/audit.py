"""The audit of a CKA value: whether a few features, one direction or one row carry it.

Shares are of |K|^2, the sum of all squared entries of the centred Gram matrix K = Xc Xc^T, which is also the sum of its
squared eigenvalues: the denominator of the biased CKA, and nearly that of the debiased. They are computed with K scaled to
trace 1, where |K|^2 is 1 / PR; PR = tr(K)^2 / |K|^2 is the participation ratio that `actlas.analyze.cka` finds.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from actlas.analyze.hsic import Float64
from actlas.analyze.moments import BLOCK_ROWS, FeatureMoments, row_blocks
from actlas.analyze.representation import Representation, Rows
from actlas.store import InvalidInput

FIRST_EIGENVALUE_LIMIT = 0.5
ROW_LIMIT = 0.1

_TOLERANCE = 1e-3  # relative, of an eigenvalue
_LEAST_STEPS = 8  # with fewer, 1 of 3,300 random matrices gave an eigenvalue that is not the largest
_ROUNDING = 1e-12  # relative: a shorter new direction is none


@dataclass(frozen=True, kw_only=True, eq=False)
class CentredRows:
    """The rows of a representation, centred and divided by the root of tr(K), so that their Gram matrix has trace 1.

    Where 2,048 rows are all, they are read once and stay in memory with this object, in float64; more are read again, 2,048
    at a time, whenever they are needed.

    Attributes
    ----------
    source : Representation
        Which representation.
    rows : (n,) int
        Its rows of a row set.
    moments : FeatureMoments
        Its moments over these rows.
    """

    source: Representation
    rows: Rows
    moments: FeatureMoments

    @property
    def is_constant(self) -> bool:
        """Whether all rows are equal, so that every share is undefined."""
        return self.moments.trace == 0

    def blocks(self) -> Iterable[Float64]:
        """Return the rows in blocks (n_block, p), in the order of `rows`."""
        return self._held if len(self.rows) <= BLOCK_ROWS else self._stream()

    @cached_property
    def _held(self) -> list[Float64]:
        return list(self._stream())

    def _stream(self) -> Iterable[Float64]:
        scale = 1 / np.sqrt(self.moments.trace)
        for block in row_blocks(self.source, self.rows):
            block -= self.moments.mean
            block *= scale
            yield block

    def covariance_times(self, vector: Float64) -> Float64:
        """Return Xc^T Xc v, (p,), reading the rows once."""
        return np.asarray(sum(block.T @ (block @ vector) for block in self.blocks()))

    def gram_times(self, vector: Float64) -> Float64:
        """Return K v = Xc Xc^T v, (n,), reading the rows once or, where they are more than a block, twice."""
        parts = np.split(vector, range(BLOCK_ROWS, len(vector), BLOCK_ROWS))
        projected = sum(block.T @ part for block, part in zip(self.blocks(), parts, strict=True))
        return np.concatenate([block @ projected for block in self.blocks()])


@dataclass(frozen=True, kw_only=True)
class TopShare:
    """What the k features of largest variance hold, or all where there are fewer.

    Attributes
    ----------
    k : int
        How many.
    variance : float
        Their share of the variance.
    gram : float
        |X_S X_S^T|^2 / |K|^2: the share of |K|^2 that their Gram matrix alone has.
    """

    k: int
    variance: float
    gram: float


def top_shares(centred: CentredRows, participation: float, k: Sequence[int] = (1, 3, 10)) -> list[TopShare]:
    """Return what the features of largest variance hold; they are read once. NaN for a constant representation.

    Parameters
    ----------
    centred : CentredRows
        The representation.
    participation : float
        Its participation ratio, of the pass over the same rows.
    k : sequence of int
        For how many features, each at least 1.

    Raises
    ------
    InvalidInput
        For a k under 1.
    """
    if min(k) < 1:
        raise InvalidInput(f"k: expected numbers of features from 1 on, got {list(k)}")
    if centred.is_constant:
        return [TopShare(k=one, variance=float("nan"), gram=float("nan")) for one in k]
    features = centred.moments.largest_features(max(k))
    # |X_S X_S^T| = |X_S^T X_S|, and that matrix is small.
    gram = np.asarray(sum(block[:, features].T @ block[:, features] for block in centred.blocks()))
    variance = centred.moments.variance
    return [
        TopShare(
            k=one,
            variance=float(variance[features[:one]].sum() / variance.sum()),
            gram=float((gram[:one, :one] ** 2).sum() * participation),
        )
        for one in k
    ]


def first_eigenvalue_share(centred: CentredRows, participation: float) -> float:
    """Return lambda_1^2 / |K|^2, where lambda_1 is the largest eigenvalue of K, to a relative 2e-3.

    By Lanczos steps on Xc^T Xc, each of which reads the rows once: 8 where the eigenvalue stands out, some tens where none
    does. NaN for a constant representation.

    Parameters
    ----------
    centred : CentredRows
        The representation.
    participation : float
        Its participation ratio, of the pass over the same rows.
    """
    if centred.is_constant:
        return float("nan")
    # Weighted by the deviations, the start is near the eigenvector where a few features have most of the variance.
    signs = np.random.default_rng(0).choice([-1.0, 1.0], centred.source.width)
    start = signs * np.sqrt(centred.moments.variance)
    return float(_largest_eigenvalue(centred.covariance_times, start, len(centred.rows)) ** 2 * participation)


def _largest_eigenvalue(multiply: Callable[[Float64], Float64], start: Float64, rank: int) -> float:
    """Return the largest eigenvalue of a symmetric matrix of at most this rank, to a relative 1e-3, from below.

    Lanczos with full reorthogonalisation (Parlett 1998, chapter 13): an eigenvalue is as near to the largest Ritz value as
    the norm of its residual. That it is the largest one, and not another that the start happens to be near to, is what
    the least number of steps is for.
    """
    basis = np.empty((0, len(start)))
    diagonal: list[float] = []
    beside: list[float] = []
    vector, largest = start / np.linalg.norm(start), 0.0
    for step in range(1, min(rank, len(start)) + 1):
        basis = np.vstack([basis, vector])
        image = multiply(vector)
        diagonal.append(float(vector @ image))
        for _ in range(2):
            image = image - basis.T @ (basis @ image)
        tridiagonal: Float64 = np.diag(diagonal) + np.diag(beside, -1) + np.diag(beside, 1)
        values, vectors = np.linalg.eigh(tridiagonal)
        length, largest = float(np.linalg.norm(image)), float(values[-1])
        has_converged = step >= _LEAST_STEPS and length * abs(vectors[-1, -1]) <= _TOLERANCE * largest
        if has_converged or length <= _ROUNDING * largest:
            break
        beside.append(length)
        vector = image / length
    return largest


def row_shares(centred: CentredRows, k: Float64, q: Float64) -> Float64:
    """Return for every row its share (K^2)_ii / |K|^2, where (K^2)_ii = sum_j K_ij^2; the shares sum to 1.

    From the sums of the pass, for off the diagonal K_ij = P_ij - (k_i + k_j)/(n-2) + sum(k)/((n-1)(n-2)) and the rows of K
    sum to 0. What those do not have is K k, for which the rows are read once more (twice, if more than 2,048). NaN for
    a constant representation.

    Parameters
    ----------
    centred : CentredRows
        The representation, its rows in the order of `k`: for a pass, ``rows[tiling.order]``.
    k : (n,) float64
        Diagonal of K, as in `PassResult.norms`: in any unit.
    q : (n,) float64
        Row sums of P*P, as in `PairSums.rows` of the representation with itself, in the same unit squared.

    Returns
    -------
    (n,) float64
        In the order of `k`.
    """
    n, trace = len(k), k.sum()
    if centred.is_constant:
        return np.full(n, np.nan)
    k, q = k / trace, q / trace**2
    off_diagonal = centred.gram_times(k) - k**2  # of K k
    shift = k / (n - 2) - 1 / ((n - 1) * (n - 2))  # P_ij = K_ij + shift_i + k_j / (n - 2)
    crossed = off_diagonal / (n - 2) - shift * k
    squared = (n - 1) * shift**2 + 2 * shift * (1 - k) / (n - 2) + (k @ k - k**2) / (n - 2) ** 2
    squares = k**2 + q - 2 * crossed - squared
    return np.asarray(squares / squares.sum())


@dataclass(frozen=True, kw_only=True)
class Influence:
    """The row, or group of rows, whose removal moves a value most.

    Attributes
    ----------
    index : int or None
        Which, in the order of the left-out values; None where nothing is known.
    change : float
        The value without it minus the value with it; NaN where it is undefined without it.
    """

    index: int | None
    change: float


def influence(left_out: Float64, value: float) -> Influence:
    """Return whose removal moves a value most, from the leave-one-out values of its jackknife.

    Parameters
    ----------
    left_out : (n,) float64
        The value without each row or group; one without which it is undefined (NaN) moves it more than any other.
    value : float
        The value with all.
    """
    change = left_out - value
    is_undefined = ~np.isfinite(change)
    if is_undefined.all():
        return Influence(index=None, change=float("nan"))
    index = int(np.where(is_undefined, np.inf, np.abs(change)).argmax())
    return Influence(index=index, change=float("nan") if is_undefined[index] else float(change[index]))


def flags(*, first_eigenvalue: float, largest_row: float) -> list[str]:
    """Return in plain English what is unusual about a representation; what is NaN is not flagged.

    Parameters
    ----------
    first_eigenvalue : float
        As `first_eigenvalue_share` returns it.
    largest_row : float
        The largest of `row_shares`.
    """
    holds = {
        "first eigenvalue over half of |K|^2": first_eigenvalue > FIRST_EIGENVALUE_LIMIT,
        "one row over a tenth of |K|^2": largest_row > ROW_LIMIT,
    }
    return [name for name, does in holds.items() if does]
