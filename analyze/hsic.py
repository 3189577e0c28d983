"""The arithmetic of linear CKA on tiles of U-centred Gram matrices: per tile, combine, finalise.

X is (n, p), Xc is X minus its column means, K = Xc Xc^T with diagonal k. The U-centred matrix is
P_ij = K_ij + (k_i + k_j)/(n-2) - sum(k)/((n-1)(n-2)) off the diagonal and 0 on it (Szekely and Rizzo 2014; the unbiased
HSIC of Song et al. 2012, equation 5, is sum(P*Q)/(n(n-3))). Every sum is split over tiles of rows; tiles hold whole
groups of rows, so that the jackknife over groups comes from the same pass.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = Any  # an array of NumPy or CuPy, as the namespace `xp` says
Float64 = npt.NDArray[np.float64]

MIN_EXAMPLES = 4  # the unbiased HSIC divides by n(n - 3)


@dataclass(frozen=True, kw_only=True)
class UTile:
    """One tile of one U-centred Gram matrix.

    Attributes
    ----------
    values : (n_i, n_j)
        P over the tile's rows i and j.
    over_columns : (n_i, groups_j) or None
        Sums of P over the groups of j; on a diagonal tile without each row's own group. None where every group is one
        row, for then it is P itself.
    over_rows : (groups_i, n_j) or None
        Sums of P over the groups of i; None on a diagonal tile, which is symmetric.
    within : (groups_i,) or None
        On a diagonal tile the sum of P inside each group.
    """

    values: Array
    over_columns: Array | None = None
    over_rows: Array | None = None
    within: Array | None = None


def u_tile(
    X_i: Array, X_j: Array, k_i: Array, k_j: Array, k_sum: float, n: int, *, diagonal: bool, xp: Any = np
) -> Array:
    """Return P over the rows of two tiles of centred rows.

    Parameters
    ----------
    X_i, X_j : (n_i, p), (n_j, p)
        Rows of Xc. Centred before the product: afterwards the digits would be gone.
    k_i, k_j : (n_i,), (n_j,) float64
        Squared norms of these rows.
    k_sum : float
        Sum of all n squared norms.
    n : int
        Rows in all.
    diagonal : bool
        Whether i and j are the same rows.
    """
    P = X_i @ X_j.T
    shift = k_sum / ((n - 1) * (n - 2))
    P += (k_i / (n - 2) - shift).astype(P.dtype)[:, None]
    P += (k_j / (n - 2)).astype(P.dtype)[None, :]
    if diagonal:
        xp.fill_diagonal(P, 0)
    return P


def with_group_sums(P: Array, Z_i: Array, Z_j: Array, *, diagonal: bool) -> UTile:
    """Return a tile with its sums over groups.

    Parameters
    ----------
    P : (n_i, n_j)
        The tile.
    Z_i, Z_j : (n_i, groups_i), (n_j, groups_j)
        One-hot membership of the rows in groups, in the dtype of P.
    diagonal : bool
        Whether i and j are the same rows.
    """
    over_columns = P @ Z_j
    if not diagonal:
        return UTile(values=P, over_columns=over_columns, over_rows=Z_i.T @ P)
    return UTile(values=P, over_columns=over_columns * (1 - Z_i), within=(over_columns * Z_i).sum(axis=0))


@dataclass(frozen=True, kw_only=True)
class TileSums:
    """What one tile adds to the sums of one pair of representations; None where it adds nothing.

    Attributes
    ----------
    rows_i, rows_j : (n_i,), (n_j,)
        Row sums of P*Q.
    cross_i, cross_j : (groups_i,), (groups_j,)
        For each group the products of both sides' sums over it, summed over the rows outside.
    within_i : (groups_i,)
        Sum of P*Q inside each group.
    """

    rows_i: Array
    rows_j: Array | None = None
    cross_i: Array | None = None
    cross_j: Array | None = None
    within_i: Array | None = None


def tile_sums(a: UTile, b: UTile, Z_i: Array | None, *, diagonal: bool, xp: Any = np) -> TileSums:
    """Return the sums of one pair over one tile, in float64; `Z_i` as in `with_group_sums`, None without groups."""

    def dot(axes: str, left: Array, right: Array) -> Array:
        return xp.einsum(axes, left, right).astype(xp.float64)

    rows_i = dot("ij,ij->i", a.values, b.values)
    rows_j = None if diagonal else dot("ij,ij->j", a.values, b.values)
    if Z_i is None:
        return TileSums(rows_i=rows_i, rows_j=rows_j)
    over_columns = dot("ig,ig->g", a.over_columns, b.over_columns)
    if diagonal:
        inside = dot("ig,ig->g", (a.values * b.values) @ Z_i, Z_i)
        return TileSums(rows_i=rows_i, cross_i=over_columns, within_i=inside)
    over_rows = dot("gj,gj->g", a.over_rows, b.over_rows)
    return TileSums(rows_i=rows_i, rows_j=rows_j, cross_i=over_rows, cross_j=over_columns)


@dataclass(frozen=True, kw_only=True)
class PairSums:
    """All sums of one pair of representations over all tiles.

    Attributes
    ----------
    rows : (n,) float64
        q_i = sum_j P_ij Q_ij.
    cross, within : (n_groups,) float64
        As in `TileSums`, over all tiles; with single rows as groups `cross` is q and `within` is 0.
    """

    rows: Float64
    cross: Float64
    within: Float64

    @property
    def total(self) -> float:
        """S = sum of P*Q."""
        return float(self.rows.sum())


def hsic_biased(S: float, k: Float64, l: Float64) -> float:  # noqa: E741
    """Return the inner product <K, L> of two centred Gram matrices from the U-centred sum S and their diagonals."""
    n = len(k)
    return float(S - k.sum() * l.sum() / ((n - 1) * (n - 2)) + 2 * (k @ l) / (n - 2) + k @ l)


def ratio(xy: Any, xx: Any, yy: Any) -> Any:
    """Return xy / sqrt(xx yy), NaN where a self term is not positive."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((xx > 0) & (yy > 0), xy / np.sqrt(xx) / np.sqrt(yy), np.nan)


def leave_group_out(
    pair: PairSums, within_x: Float64, within_y: Float64, group_of_row: npt.NDArray[np.intp]
) -> Float64:
    """Return S of the remaining rows, U-centred anew, for every group left out in turn.

    Rows of P sum to 0, so that the sums over the rows that remain are minus the sums over those left out; with m rows
    remaining the U-centred product is sum(PQ) - 2/(m-2) sum_i r_i s_i + sum(r) sum(s)/((m-1)(m-2)). For single
    rows this is S - 2(n-2)/(n-3) q_i.

    Parameters
    ----------
    pair : PairSums
        Of the pair (x, y).
    within_x, within_y : (n_groups,) float64
        Sum of P and of Q inside each group.
    group_of_row : (n,) int
        Group of each row, 0 to n_groups - 1.
    """
    n = len(group_of_row)
    m = n - np.bincount(group_of_row)
    q = np.bincount(group_of_row, weights=pair.rows)
    with np.errstate(divide="ignore", invalid="ignore"):  # fewer than 4 remaining rows: the caller says NaN
        left = pair.total - 2 * q + pair.within
        return np.asarray(left - 2 * pair.cross / (m - 2) + within_x * within_y / ((m - 1) * (m - 2)))


def jackknife_error(leave_one_out: Float64) -> float:
    """Return the delete-one jackknife standard error, sqrt((g-1)/g sum (theta_-i - mean)^2) (Efron, Tibshirani 1993)."""
    g = len(leave_one_out)
    deviation = leave_one_out - leave_one_out.mean()
    return float(np.sqrt((g - 1) / g * (deviation @ deviation)))


def difference_error(left_out_a: Float64, left_out_b: Float64) -> float:
    """Return the jackknife standard error of theta_a - theta_b, two numbers from the same rows.

    Both change together when rows are left out, so that this is not the root of the sum of two squared errors. It is an
    error of sampling alone: pairs of rows of one group stay in debiased CKA, and where a few groups share most of the
    variance that moves both numbers, and their difference, by more than this.

    Parameters
    ----------
    left_out_a, left_out_b : (n_groups,) float64
        Each number without each group of rows in turn; the same groups in the same order. A NaN makes the error NaN.
    """
    return jackknife_error(left_out_a - left_out_b)
