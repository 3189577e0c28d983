"""From sums to numbers: debiased and biased linear CKA with standard error, null mean, and reasons for NaN."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from actlas.analyze.engine import Pair, PassResult
from actlas.analyze.hsic import MIN_EXAMPLES, Float64, hsic_biased, jackknife_error, leave_group_out, ratio
from actlas.analyze.tiling import Tiling

_FLOAT32_EPSILON = 1e-7
_LONG_ROW = 1e4  # of squared norms, a hundredfold length
_LEAST_LEFT = 1e-2


@dataclass(frozen=True, kw_only=True)
class SideSums:
    """Of one side, rows in processed order.

    Attributes
    ----------
    k : (n,) float64
        Diagonal of K, of scaled rows.
    q : (n,) float64
        Row sums of P*P, in the same unit squared.
    participation : float
        Participation ratio tr(K)^2 / |K|^2.
    """

    k: Float64
    q: Float64
    participation: float


@dataclass(frozen=True, kw_only=True)
class Cka:
    """Linear CKA of one pair of representations.

    Attributes
    ----------
    cka : float
        Debiased: unbiased HSIC in numerator and both self terms (Song et al. 2012). May be negative.
    se : float
        Its jackknife standard error, over rows or over groups of rows.
    cka_biased : float
        The plain ratio <K, L> / (|K| |L|) (Kornblith et al. 2019), in [0, 1].
    null_mean : float
        Mean of the biased CKA over all permutations of the rows of one side.
    participation_x, participation_y : float
        Participation ratio tr(K)^2 / |K|^2 of both sides.
    reason : str
        Why a number is NaN; empty where none is.
    left_out : (n_groups,) float64
        The debiased CKA without each group; NaN throughout where the error is.
    x, y : SideSums or None
        Of both sides; None where there are no numbers.
    """

    cka: float
    se: float
    cka_biased: float
    null_mean: float
    participation_x: float
    participation_y: float
    reason: str
    left_out: Float64 = field(default_factory=lambda: np.full(1, np.nan), repr=False, compare=False)
    x: SideSums | None = field(default=None, repr=False, compare=False)
    y: SideSums | None = field(default=None, repr=False, compare=False)

    @property
    def swapped(self) -> "Cka":
        """The same with x for y."""
        return replace(
            self, participation_x=self.participation_y, participation_y=self.participation_x, x=self.y, y=self.x
        )


def undefined(reason: str) -> Cka:
    """Return a cell without numbers."""
    nan = float("nan")
    return Cka(cka=nan, se=nan, cka_biased=nan, null_mean=nan, participation_x=nan, participation_y=nan, reason=reason)


def finalise(result: PassResult, pairs: Sequence[Pair], tiling: Tiling, *, widths: Sequence[int]) -> list[Cka]:
    """Return the numbers of the pairs.

    Parameters
    ----------
    result : PassResult
        Sums of the pass.
    pairs : sequence of (int, int)
        Which pairs, smaller number first.
    tiling : Tiling
        The tiling of the pass.
    widths : sequence of int
        Features of every representation.
    """
    selves = [_finish_self(result, source, tiling, width) for source, width in enumerate(widths)]
    return [_finish_pair(result, pair, tiling, selves[pair[0]], selves[pair[1]]) for pair in pairs]


def ill_conditioned(result: PassResult, tiling: Tiling) -> set[int]:
    """Return the representations of a float32 pass whose sums a few rows dominate, so that float32 is not enough.

    Those are the ones where one row is 100 times as long as the others, or where leaving a group out leaves under a
    hundredth of S: what remains is then a difference of nearly equal numbers.
    """
    if result.epsilon < _FLOAT32_EPSILON:
        return set()
    found = set()
    for source, k in enumerate(result.norms):
        sums, within = result.pairs[source, source], result.within[source]
        left_out = leave_group_out(sums, within, within, tiling.group_of_row)
        if k.max() > _LONG_ROW * np.median(k) or not np.nanmin(left_out) > _LEAST_LEFT * sums.total:
            found.add(source)
    return found


@dataclass(frozen=True, kw_only=True)
class _Self:
    """One representation with itself."""

    k: Float64
    q: Float64
    S: float
    biased: float  # |K|^2
    left_out: Float64  # S without each group
    reason: str

    @property
    def participation(self) -> float:
        return float(self.k.sum()) ** 2 / self.biased

    @property
    def sums(self) -> SideSums:
        return SideSums(k=self.k, q=self.q, participation=self.participation)


def _finish_self(result: PassResult, source: int, tiling: Tiling, width: int) -> _Self:
    k, sums, within = result.norms[source], result.pairs[source, source], result.within[source]
    left_out, rounding = leave_group_out(sums, within, within, tiling.group_of_row), 1e3 * result.epsilon
    return _Self(
        k=k,
        q=sums.rows,
        S=sums.total,
        biased=hsic_biased(sums.total, k, k),
        left_out=np.where(left_out > rounding * sums.total, left_out, np.nan),
        reason=_degenerate(sums.total, k, width, result.epsilon),
    )


def _degenerate(S: float, k: Float64, width: int, epsilon: float) -> str:
    # Rows are scaled to magnitudes up to 1 before they are centred: what is left of a constant is float64 rounding.
    if k.sum() <= len(k) * width * 1e-28:
        return "constant representation"
    if (16 * epsilon * k.sum()) ** 2 >= S:
        return "all rows are equally far apart"
    return ""


def _finish_pair(result: PassResult, pair: Pair, tiling: Tiling, x: _Self, y: _Self) -> Cka:
    if x.reason or y.reason:
        return undefined(x.reason or y.reason)
    sums = result.pairs[pair]
    left_out = leave_group_out(sums, result.within[pair[0]], result.within[pair[1]], tiling.group_of_row)
    without = ratio(left_out, x.left_out, y.left_out)
    se, reason = _standard_error(without, tiling)
    return Cka(
        cka=float(ratio(sums.total, x.S, y.S)),
        se=se,
        cka_biased=float(ratio(hsic_biased(sums.total, x.k, y.k), x.biased, y.biased)),
        null_mean=float(np.sqrt(x.participation * y.participation)) / (tiling.n_rows - 1),
        participation_x=x.participation,
        participation_y=y.participation,
        reason=reason,
        left_out=np.full_like(without, np.nan) if reason else without,
        x=x.sums,
        y=y.sums,
    )


def _standard_error(left_out: Float64, tiling: Tiling) -> tuple[float, str]:
    unit = "group" if tiling.is_grouped else "row"
    if tiling.n_rows - np.bincount(tiling.group_of_row).max() < MIN_EXAMPLES:
        return float("nan"), f"no standard error: under {MIN_EXAMPLES} rows remain when a {unit} is left out"
    if not np.isfinite(left_out).all():
        return float("nan"), f"no standard error: a representation has no structure left when one {unit} is left out"
    return jackknife_error(left_out), ""
