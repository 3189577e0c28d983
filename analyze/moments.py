"""Moments of the features over a row set, and representations changed by them: z-scored, or without the largest features."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from actlas.analyze.hsic import Float64
from actlas.analyze.representation import Array, Representation, Rows
from actlas.store import InvalidInput

BLOCK_ROWS = 2048  # rows that are in memory at once


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMoments:
    """What is known of every feature of a representation over the rows of a row set.

    Attributes
    ----------
    n_rows : int
        Number of rows n.
    mean, variance : (p,) float64
        The variance is the mean squared deviation; exactly 0 where a feature is constant.
    low, high : (p,) float64
        Smallest and largest value.
    """

    n_rows: int
    mean: Float64
    variance: Float64
    low: Float64
    high: Float64

    @property
    def trace(self) -> float:
        """Trace of the centred Gram matrix K: the squared norms of all centred rows, or columns, together."""
        return float(self.n_rows * self.variance.sum())

    def largest_features(self, k: int) -> npt.NDArray[np.intp]:
        """Return the k features of largest variance, the largest first, ties by index; all where there are fewer."""
        return np.argsort(-self.variance, kind="stable")[:k]


def row_blocks(source: Representation, rows: Rows) -> Iterator[Float64]:
    """Yield the rows in float64, up to 2,048 at a time and in their order; every block is the caller's own."""
    for start in range(0, len(rows), BLOCK_ROWS):
        yield source.read(rows[start : start + BLOCK_ROWS]).astype(np.float64)


def feature_moments(source: Representation, rows: Rows) -> FeatureMoments:
    """Return the moments over some rows, which are read once.

    Values are taken from the first row on, so that a mean of many deviations costs no digits and a constant feature has no
    variance: the relative error is at most about n times that of float64, as the first row is one of the n.

    Parameters
    ----------
    source : Representation
        Of which features.
    rows : (n,) int
        Over which rows, in any order.

    Raises
    ------
    Corrupt
        When stored rows cannot be read.
    """
    origin = source.read(rows[:1])[0].astype(np.float64)
    low, high = origin, origin
    total, squares = np.zeros(source.width), np.zeros(source.width)
    for block in row_blocks(source, rows):
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        block -= origin
        total += block.sum(axis=0)
        squares += np.square(block, out=block).sum(axis=0)
    shift = total / len(rows)
    return FeatureMoments(
        n_rows=len(rows), mean=origin + shift, variance=squares / len(rows) - shift**2, low=low, high=high
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ZScored:
    """A representation whose features have mean 0 and variance 1 over a row set; a constant feature is 0.

    Attributes
    ----------
    source : Representation
        What is z-scored, as it is read: in float64.
    moments : FeatureMoments
        Its own, over the row set.
    """

    source: Representation
    moments: FeatureMoments
    itemsize: ClassVar[int] = 8

    @property
    def key(self) -> tuple[Any, ...]:
        """That it is z-scored, and what is."""
        return ("z-scored", *self.source.key)

    @property
    def width(self) -> int:
        """Number of features."""
        return self.source.width

    def nonfinite(self) -> npt.NDArray[np.bool_]:
        """Return for every row whether it holds a NaN or an infinity, as it is read."""
        return self.source.nonfinite()

    @cached_property
    def _inverse_deviation(self) -> Float64:
        deviation = np.sqrt(self.moments.variance)
        return np.divide(1.0, deviation, where=deviation > 0, out=np.zeros_like(deviation))

    def _scored(self, values: npt.NDArray[Any]) -> Float64:
        scored = values.astype(np.float64)
        scored -= self.moments.mean
        scored *= self._inverse_deviation
        return scored

    def read(self, rows: Rows) -> Array:
        """Return some rows, (len(rows), n_features)."""
        return self._scored(self.source.read(rows))

    def mean(self, rows: Rows) -> Array:
        """Return the column means over `rows`: 0 but for rounding, where they are the row set."""
        return self._scored(self.source.mean(rows))

    def largest(self, rows: Rows) -> float:  # noqa: ARG002
        """Return the largest magnitude over the row set, of which `rows` are."""
        return float(np.abs([self._scored(self.moments.low), self._scored(self.moments.high)]).max())


@dataclass(frozen=True, kw_only=True, eq=False)
class WithoutTop:
    """A representation without its k features of largest variance over a row set.

    Attributes
    ----------
    source : Representation
        What they are taken from.
    moments : FeatureMoments
        Its own, over the row set.
    k : int
        How many, from 1 to one less than there are.

    Raises
    ------
    InvalidInput
        For another k.
    """

    source: Representation
    moments: FeatureMoments
    k: int

    def __post_init__(self) -> None:
        if not 1 <= self.k < self.source.width:
            raise InvalidInput(
                f"k: expected 1 to {self.source.width - 1} of {self.source.width} features to leave out, got {self.k}"
            )

    @cached_property
    def _kept(self) -> npt.NDArray[np.intp]:
        return np.delete(np.arange(self.source.width), self.moments.largest_features(self.k))

    @property
    def key(self) -> tuple[Any, ...]:
        """How many are left out, and of what."""
        return ("without", self.k, *self.source.key)

    @property
    def width(self) -> int:
        """Number of features that are left."""
        return self.source.width - self.k

    def nonfinite(self) -> npt.NDArray[np.bool_]:
        """Return for every row of what they are taken from whether it holds a NaN or an infinity."""
        return self.source.nonfinite()

    @property
    def itemsize(self) -> int:
        """Bytes of one number as it is read."""
        return self.source.itemsize

    def read(self, rows: Rows) -> Array:
        """Return some rows, (len(rows), n_features)."""
        return np.asarray(self.source.read(rows)[:, self._kept])

    def mean(self, rows: Rows) -> Array:
        """Return the column means over `rows`."""
        return np.asarray(self.source.mean(rows)[self._kept])

    def largest(self, rows: Rows) -> float:  # noqa: ARG002
        """Return the largest magnitude over the row set, of which `rows` are."""
        return float(np.abs([self.moments.low[self._kept], self.moments.high[self._kept]]).max())
