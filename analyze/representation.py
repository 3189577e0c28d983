"""Representations: one layer of one entry, or an array in memory; read by rows, as it is stored."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from actlas.store import Entry

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.intp]

_SPARSE = 2  # rows that span more than this many times their number are read one by one
_MEAN_ROWS = 2048  # rows read at once where a mean has to be computed


class Representation(Protocol):
    """A matrix (n_examples, n_features) that can be read by rows."""

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from others, so that it is read once however often it is compared."""

    @property
    def width(self) -> int:
        """Number of features."""

    @property
    def itemsize(self) -> int:
        """Bytes of one number as it is read."""

    def nonfinite(self) -> npt.NDArray[np.bool_]:
        """Return for every row whether it holds a NaN or an infinity; known without reading it."""

    def read(self, rows: Rows) -> Array:
        """Return some rows, (len(rows), n_features)."""

    def mean(self, rows: Rows) -> Array:
        """Return the column means over `rows`, float64."""

    def largest(self, rows: Rows) -> float:
        """Return the largest magnitude in `rows`."""


@dataclass(frozen=True, kw_only=True)
class StoredRepresentation:
    """One layer of one entry."""

    entry: Entry
    layer: int

    @property
    def key(self) -> tuple[Any, ...]:
        """Entry and layer."""
        return (self.entry.path, self.layer)

    @property
    def width(self) -> int:
        """Number of features."""
        return self.entry.width

    @property
    def itemsize(self) -> int:
        """Bytes of one stored number."""
        return int(self.entry.dtype.itemsize)

    def nonfinite(self) -> npt.NDArray[np.bool_]:
        """Return for every row of the entry whether it holds a NaN or an infinity, from the stored counts."""
        return np.asarray(self.entry.nonfinite[self.entry.layer_index(self.layer)] > 0)

    def read(self, rows: Rows) -> Array:
        """Read some rows in the entry's dtype."""
        first, last = int(rows.min()), int(rows.max())
        if last - first >= _SPARSE * len(rows):
            return self.entry.read(self.layer, rows)
        # Whole chunks are decoded either way: rows that lie close together are picked from one contiguous read.
        read = self.entry.read(self.layer, slice(first, last + 1))
        return read if np.array_equal(rows, np.arange(first, last + 1)) else read[rows - first]

    def mean(self, rows: Rows) -> Array:
        """Return the stored means where they are over these very rows, else read the rows once."""
        finite = np.flatnonzero(~self.nonfinite())
        if len(rows) == len(finite) and np.array_equal(np.sort(rows), finite):
            return np.asarray(self.entry.mean[self.entry.layer_index(self.layer)])
        total = np.zeros(self.width)
        for start in range(0, len(rows), _MEAN_ROWS):
            total += self.read(rows[start : start + _MEAN_ROWS]).astype(np.float32).sum(axis=0, dtype=np.float64)
        return total / len(rows)

    def largest(self, rows: Rows) -> float:
        """Return the stored largest magnitude."""
        return float(self.entry.max_abs[self.entry.layer_index(self.layer), rows].max())


@dataclass(frozen=True, eq=False)
class ArrayRepresentation:
    """An array in memory, taken as float64."""

    values: npt.NDArray[np.float64]
    key: tuple[Any, ...] = ()

    def nonfinite(self) -> npt.NDArray[np.bool_]:
        """Return for every row whether it holds a NaN or an infinity."""
        return np.asarray(~np.isfinite(self.values).all(axis=1))

    @property
    def width(self) -> int:
        """Number of features."""
        return int(self.values.shape[1])

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return 8

    def read(self, rows: Rows) -> Array:
        """Return some rows."""
        return np.asarray(self.values[rows])

    def mean(self, rows: Rows) -> Array:
        """Return the column means over `rows`."""
        return np.asarray(self.values[rows].mean(axis=0))

    def largest(self, rows: Rows) -> float:
        """Return the largest magnitude in `rows`."""
        return float(np.abs(self.values[rows]).max(initial=0))
