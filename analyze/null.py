"""The permutation null of biased linear CKA: its first three moments in closed form, and real permutations.

K = Xc Xc^T and L = Yc Yc^T are doubly centred; the null is <K, P L P^T> / (|K| |L|) over all n! permutations P of the rows
of one side, which supposes that rows are exchangeable: rows that share a source are not. Moments of this kind are due to
Kazi-Aoual, Hitier, Sabatier and Lebreton (1995, Computational Statistics and Data Analysis 20) and Josse, Pages and Husson
(2008, the same journal 53). With J = I - 11^T/n, <J, P L P^T> = tr L for every P, so that K - tr(K)/(n-1) J, which has no
trace, gives every moment about the mean without a difference of large numbers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from actlas.store import InvalidInput

Matrix = npt.NDArray[np.float64]
Item = TypeVar("Item")

_EPSILON = float(np.finfo(np.float64).eps)
_ROUNDING = 1e-12  # by which two equal values of CKA may differ when their terms are summed in another order
_CENTRED = 1e-5  # of the trace: what a row of a Gram from float32 rows may sum to
_NORMAL = 1e-6  # skewness under which the gamma's shape 4/skewness^2 has lost the digits that the normal keeps


@dataclass(frozen=True, kw_only=True)
class Invariants:
    """What the null needs to know of one side: sums that no permutation of its rows changes.

    But for the first two they are those of k = K0/|K|, with K0 = K - tr(K)/(n-1) J; all are without units, and NaN
    for a constant representation.

    Attributes
    ----------
    n : int
        Rows.
    participation : float
        Participation ratio tr(K)^2/|K|^2.
    squares : float
        tr k^2; 0 where all rows are equally far apart.
    diagonal_squares : float
        sum_i k_ii^2.
    cubes : float
        tr k^3.
    entry_cubes : float
        sum_ij k_ij^3.
    diagonal_cubes : float
        sum_i k_ii^3.
    diagonal_by_square : float
        sum_i k_ii (k^2)_ii.
    diagonal_form : float
        sum_ij k_ii k_ij k_jj.
    """

    n: int
    participation: float
    squares: float
    diagonal_squares: float
    cubes: float
    entry_cubes: float
    diagonal_cubes: float
    diagonal_by_square: float
    diagonal_form: float


# Each sum is a graph: indices are vertices, entries of k are edges, diagonal entries loops. With two or three edges the
# number of vertices and loops tells the graphs apart in which no vertex stands at the end of a single edge.
_GRAPHS = {
    2: {(2, 0): "squares", (1, 2): "diagonal_squares"},
    3: {
        (3, 0): "cubes",
        (2, 0): "entry_cubes",
        (1, 3): "diagonal_cubes",
        (2, 1): "diagonal_by_square",
        (2, 2): "diagonal_form",
    },
}


@dataclass(frozen=True, kw_only=True)
class NullMoments:
    """Moments of biased CKA over permutations of the rows of one side.

    Attributes
    ----------
    mean, sd : float
        NaN where a side is constant; sd is 0 where all permutations give one value.
    skewness : float
        Third moment about the mean over sd^3; NaN where sd is 0.
    """

    mean: float
    sd: float
    skewness: float


@dataclass(frozen=True, kw_only=True)
class PermutationTest:
    """Biased CKA against permutations that were really made.

    Attributes
    ----------
    value : float
        Biased CKA of the rows as they are paired.
    p : float
        (1 + permutations that reach the value) / (1 + permutations); NaN where a side is constant.
    moments : NullMoments
        Of the sample of permutations.
    """

    value: float
    p: float
    moments: NullMoments


def invariants(gram: Matrix) -> Invariants:
    """Return what the null needs to know of one side; takes one n x n product and two n x n matrices of memory.

    Parameters
    ----------
    gram : (n, n) float64
        K = Xc Xc^T of rows from which the column means were subtracted.

    Raises
    ------
    InvalidInput
        For a matrix that is not square, finite and doubly centred.
    """
    gram = _centred_gram(gram, "gram")
    n, norm, trace = len(gram), float(np.linalg.norm(gram)), float(np.trace(gram))
    k = _without_trace(gram, norm, trace)
    d, squared = k.diagonal(), k * k
    return Invariants(
        n=n,
        participation=(trace / norm) ** 2 if norm > 0 else math.nan,
        squares=float(squared.sum()),
        diagonal_squares=float(d @ d),
        cubes=float(np.vdot(k @ k, k)),
        entry_cubes=float(np.vdot(squared, k)),
        diagonal_cubes=float((d**3).sum()),
        diagonal_by_square=float(d @ squared.sum(axis=1)),
        diagonal_form=float(d @ k @ d),
    )


def null_moments(x: Invariants, y: Invariants) -> NullMoments:
    """Return mean, standard deviation and skewness of biased CKA over all n! permutations, exactly, for any n >= 2.

    The mean is sqrt(PR_x PR_y)/(n-1). The usual closed forms of variance and skewness divide by n-3 and by n-5; the sums
    over different indices that stand here in their place are empty where n is too small, and so divide by nothing.

    Parameters
    ----------
    x, y : Invariants
        Of both sides.

    Raises
    ------
    InvalidInput
        For sides with different numbers of rows.
    """
    if x.n != y.n:
        raise InvalidInput(
            f"expected two sides with the same rows, got {x.n} and {y.n} rows; join them by example first"
        )
    if math.isnan(x.participation) or math.isnan(y.participation):
        return NullMoments(mean=math.nan, sd=math.nan, skewness=math.nan)
    mean = math.sqrt(x.participation * y.participation) / (x.n - 1)
    variance = _central_moment(x, y, 2)
    if variance <= _EPSILON * x.squares * y.squares:
        return NullMoments(mean=mean, sd=0.0, skewness=math.nan)
    return NullMoments(mean=mean, sd=math.sqrt(variance), skewness=_central_moment(x, y, 3) / variance**1.5)


def p_value(value: float, moments: NullMoments) -> float:
    """Return the probability that a permutation reaches a value, by the Pearson type III curve with these moments.

    The curve is a shifted gamma (mirrored for a negative skewness, where it ends: beyond its end p is 0), and the normal
    where the skewness is 0 (Josse, Pages and Husson 2008).

    Parameters
    ----------
    value : float
        Biased CKA.
    moments : NullMoments
        As `null_moments` returns them.

    Returns
    -------
    float
        In [0, 1]; NaN where the value or a moment is NaN.
    """
    from scipy.special import gammainc, gammaincc, ndtr

    if math.isnan(value) or math.isnan(moments.skewness):
        return math.nan
    z, skewness = (value - moments.mean) / moments.sd, moments.skewness
    if abs(skewness) < _NORMAL:
        return float(ndtr(-z))
    shape = 4 / skewness**2
    quantile = max(shape + 2 * z / skewness, 0.0)
    return float(gammaincc(shape, quantile) if skewness > 0 else gammainc(shape, quantile))


def permutation_test(K: Matrix, L: Matrix, *, permutations: int = 999, seed: int = 0) -> PermutationTest:
    """Compare biased CKA with that under random permutations of the rows of one side.

    Parameters
    ----------
    K, L : (n, n) float64
        Xc Xc^T and Yc Yc^T of rows from which the column means were subtracted.
    permutations : int
        How many are drawn; the smallest p is 1/(1 + permutations).
    seed : int
        Of the draws; equal seeds give equal results, whatever was computed before.

    Raises
    ------
    InvalidInput
        For matrices that are not square, finite, doubly centred and of one shape, or for fewer than 2 permutations.
    """
    K, L = _centred_gram(K, "K"), _centred_gram(L, "L")
    if K.shape != L.shape:
        raise InvalidInput(
            f"expected K and L over the same rows, got {len(K)} and {len(L)}; join them by example first"
        )
    if permutations < 2:
        raise InvalidInput(f"permutations: expected at least 2, got {permutations}")
    norm = float(np.linalg.norm(K)) * float(np.linalg.norm(L))
    if norm == 0:
        undefined = NullMoments(mean=math.nan, sd=math.nan, skewness=math.nan)
        return PermutationTest(value=math.nan, p=math.nan, moments=undefined)
    generator = np.random.default_rng(seed)
    orders = (generator.permutation(len(K)) for _ in range(permutations))
    drawn = np.array([np.vdot(K, L[np.ix_(order, order)]) for order in orders]) / norm
    value = float(np.vdot(K, L)) / norm
    reached = int((drawn >= value - _ROUNDING).sum())
    return PermutationTest(value=value, p=(1 + reached) / (1 + permutations), moments=_sample_moments(drawn))


def _sample_moments(drawn: Matrix) -> NullMoments:
    mean, sd = float(drawn.mean()), float(drawn.std(ddof=1))
    if sd <= _ROUNDING:
        return NullMoments(mean=mean, sd=0.0, skewness=math.nan)
    return NullMoments(mean=mean, sd=sd, skewness=float(((drawn - mean) ** 3).mean() / drawn.std() ** 3))


def _centred_gram(values: npt.ArrayLike, name: str) -> Matrix:
    gram = np.asarray(values, np.float64)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or len(gram) < 2:
        raise InvalidInput(f"{name}: expected a Gram matrix (n, n) of at least 2 rows, got shape {gram.shape}")
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        largest = float(np.abs(gram.sum(axis=0)).max())
    if not largest <= _CENTRED * float(np.trace(gram)):
        raise InvalidInput(
            f"{name}: expected finite numbers and columns that sum to 0, got a column that sums to {largest:.3g}; "
            "subtract the column means from the rows before the product"
        )
    return gram


def _without_trace(gram: Matrix, norm: float, trace: float) -> Matrix:
    n, shift = len(gram), trace / (len(gram) - 1)
    k = gram + shift / n
    np.fill_diagonal(k, k.diagonal() - shift)
    if np.linalg.norm(k) <= 16 * _EPSILON * trace:  # all rows equally far apart, or all the same: the rest is rounding
        return np.zeros_like(k)
    return np.asarray(k / norm)


def _central_moment(x: Invariants, y: Invariants, degree: int) -> float:
    """Return E[<k, P l P^T>^degree]: over patterns of equal indices, a sum of x times the mean of one of y.

    The 2 degree indices of a product of entries fall into a pattern, a set partition of them; a permutation takes the
    indices of a pattern with v blocks to v different indices, each of the n!/(n-v)! choices equally often.
    """
    vertices, weights = _sums_over_different_indices(degree)
    names = _GRAPHS[degree].values()
    a, b = (weights @ np.array([getattr(side, name) for name in names]) for side in (x, y))
    return math.fsum(a_i * b_i / math.perm(x.n, v) for a_i, b_i, v in zip(a, b, vertices, strict=True) if v <= x.n)


@cache
def _sums_over_different_indices(degree: int) -> tuple[list[int], Matrix]:
    """Return, for every pattern of indices, its number of blocks and its sum over different indices.

    By Moebius inversion on the lattice of set partitions (Rota 1964) the sum over different indices is the sum over all
    coarser patterns, where indices are free, of prod (-1)^(m-1) (m-1)! over blocks that m blocks were merged into. A free
    index that stands at one entry alone sums a row of k to 0.

    Returns
    -------
    vertices : list of int
        Blocks of each pattern.
    weights : (n_patterns, n_invariants)
        Of the invariants in `_GRAPHS`.
    """
    columns = {graph: column for column, graph in enumerate(_GRAPHS[degree])}
    patterns = list(_set_partitions(range(2 * degree)))
    weights = np.zeros((len(patterns), len(columns)))
    for row, pattern in enumerate(patterns):
        for merged in _set_partitions(pattern):
            graph = _graph([[index for block in blocks for index in block] for blocks in merged])
            if graph in columns:
                sizes = [len(blocks) - 1 for blocks in merged]
                weights[row, columns[graph]] += (-1) ** sum(sizes) * math.prod(map(math.factorial, sizes))
    return [len(pattern) for pattern in patterns], weights


def _graph(pattern: Sequence[Sequence[int]]) -> tuple[int, int] | None:
    """Return the numbers of vertices and loops; None where one vertex is the end of a single edge.

    Indices 0 and 1 are the ends of the first edge, 2 and 3 of the second.
    """
    if min(map(len, pattern)) == 1:
        return None
    edges = [{index // 2 for index in block if {index, index ^ 1} <= {*block}} for block in pattern]
    return len(pattern), sum(map(len, edges))


def _set_partitions(items: Sequence[Item]) -> Iterator[list[list[Item]]]:
    if not items:
        yield []
        return
    for partition in _set_partitions(items[1:]):
        yield [[items[0]], *partition]
        for at, block in enumerate(partition):
            yield [*partition[:at], [items[0], *block], *partition[at + 1 :]]
