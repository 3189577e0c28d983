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
        rows = values.astype(np.float32)
        finite = np.isfinite(rows)
        nonfinite[layer] = n_features - finite.sum(axis=1)
        max_abs[layer] = np.abs(rows).max(axis=1, where=finite, initial=0)
        total[layer] = rows[nonfinite[layer] == 0].sum(axis=0, dtype=np.float64)
    return BlockStatistics(nonfinite=nonfinite, max_abs=max_abs, total=total)


def stack_layers(blocks: Sequence[BlockStatistics]) -> BlockStatistics:
    """Return the statistics of several layers of the same rows as one."""
    return BlockStatistics(
        nonfinite=np.concatenate([block.nonfinite for block in blocks]),
        max_abs=np.concatenate([block.max_abs for block in blocks]),
        total=np.concatenate([block.total for block in blocks]),
    )
