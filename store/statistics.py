"""Statistics kept beside hidden states: non-finite values, largest magnitude and column means."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from actlas.store.dtype import Array


@dataclass(frozen=True, kw_only=True)
class BlockStatistics:
    """Statistics of one block of rows.

    Attributes
    ----------
    nonfinite : (n_layers, n_rows) uint32
        NaN and infinite values in each row.
    max_abs : (n_layers, n_rows) float32
        Largest magnitude among a row's finite values; 0 where there is none.
    total : (n_layers, n_features) float64
        Column sums over the rows that are finite throughout.
    """

    nonfinite: npt.NDArray[np.uint32]
    max_abs: npt.NDArray[np.float32]
    total: npt.NDArray[np.float64]


def block_statistics(block: Array) -> BlockStatistics:
    """Return the statistics of a block of shape (n_layers, n_rows, n_features) in its real dtype."""
    n_layers, n_rows, n_features = block.shape
    nonfinite = np.zeros((n_layers, n_rows), np.uint32)
    max_abs = np.zeros((n_layers, n_rows), np.float32)
    total = np.zeros((n_layers, n_features), np.float64)
    for layer, values in enumerate(block):
        largest = _largest(values)
        whole = np.isfinite(largest)
        nonfinite[layer, ~whole] = n_features - np.isfinite(values[~whole].astype(np.float32)).sum(axis=1)
        max_abs[layer] = largest
        max_abs[layer, ~whole] = _largest_finite(values[~whole].astype(np.float32))
        total[layer] = (values if whole.all() else values[whole]).astype(np.float32).sum(axis=0, dtype=np.float64)
    return BlockStatistics(nonfinite=nonfinite, max_abs=max_abs, total=total)


def _largest(values: Array) -> npt.NDArray[np.float32]:
    """Return the largest magnitude of each row; not finite where the row is not.

    Without their sign bits, floats are ordered as whole numbers are, with infinity and NaN on top.
    """
    bits = np.dtype(f"u{values.dtype.itemsize}")
    magnitudes = values.view(bits) & bits.type(np.iinfo(bits).max >> 1)
    return np.asarray(magnitudes.max(axis=1).view(values.dtype).astype(np.float32))


def _largest_finite(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(np.abs(rows).max(axis=1, where=np.isfinite(rows), initial=0))


def stack_layers(blocks: Sequence[BlockStatistics]) -> BlockStatistics:
    """Return the statistics of several layers of the same rows as one."""
    return BlockStatistics(
        nonfinite=np.concatenate([block.nonfinite for block in blocks]),
        max_abs=np.concatenate([block.max_abs for block in blocks]),
        total=np.concatenate([block.total for block in blocks]),
    )
