"""One pass over one row set: all representations of a task, tile by tile, scheduled by Dask."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from actlas.analyze.hsic import Float64, PairSums, TileSums, UTile, tile_sums, u_tile, with_group_sums
from actlas.analyze.representation import Representation, Rows
from actlas.analyze.tiling import Batch, PassPlan, Tiling, batches, plan_pass

MEMORY = 4 << 30  # the default budget in bytes

# Below this many rows rounding errors do not average out, and float64 costs nothing: with 4 rows, one of them 100 times
# the others, float32 loses 2e-6.
_FLOAT64_ROWS = 256

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """Sums of one pass.

    Attributes
    ----------
    norms : list of (n,) float64
        For each representation k, the squared norms of its scaled, centred rows, in processed order.
    within : list of (n_groups,) float64
        For each representation the sum of P inside each group.
    pairs : mapping of (a, b), a <= b, to PairSums
        The pairs that were asked for, and every representation with itself.
    epsilon : float
        Relative rounding error of the products.
    """

    norms: list[Float64]
    within: list[Float64]
    pairs: Mapping[Pair, PairSums]
    epsilon: float


@dataclass(frozen=True, eq=False)
class _Side:
    """One representation's rows of a row set, with what makes centred rows of them."""

    source: Representation
    rows: Rows  # in processed order
    mean: Float64
    scale: float
    dtype: np.dtype[Any]

    def read(self, tiling: Tiling, tiles: Sequence[int]) -> dict[int, npt.NDArray[Any]]:
        """Read the rows of some tiles once and centre them; keeps no copy of the whole."""
        wanted = np.concatenate([self.rows[tiling.rows(tile)] for tile in tiles])
        stored = self.source.read(wanted)
        centred, start = {}, 0
        for tile in tiles:
            stop = start + len(self.rows[tiling.rows(tile)])
            centred[tile], start = self._centre(stored[start:stop]), stop
        return centred

    def _centre(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        # The mean is taken off in two parts, so that float32 loses none of its digits: the difference of two near numbers
        # is exact, and what the first part lacks is in the second.
        if not 2.0**-100 < self.scale < 2.0**100:  # float32 could not even hold the scale
            return (stored.astype(np.float64) * self.scale - self.mean * self.scale).astype(self.dtype)
        values = stored.astype(self.dtype)
        values *= self.dtype.type(self.scale)
        mean = self.mean * self.scale
        high = mean.astype(self.dtype)
        values -= high
        values -= (mean - high).astype(self.dtype)
        return values


@dataclass(frozen=True, eq=False)
class _Tiles:
    """One representation's tiles of one batch."""

    norms: Float64
    tiles: list[UTile]


def run_pass(
    sources: Sequence[Representation],
    rows: Sequence[Rows],
    pairs: Sequence[Pair],
    tiling: Tiling,
    *,
    memory: int = MEMORY,
    dtype: npt.DTypeLike | None = None,
) -> PassResult:
    """Compute the sums from which CKA and its jackknife follow, for many pairs in one pass over the rows.

    Parameters
    ----------
    sources : sequence of Representation
        What is compared.
    rows : sequence of (n,) int
        For each source where the row set's examples stand in it, in row-set order.
    pairs : sequence of (int, int)
        Pairs of sources, smaller number first.
    tiling : Tiling
        How the row set is cut.
    memory : int
        Budget in bytes.
    dtype : float32 or float64, optional
        What products are computed in; float32 by default, float64 for few rows. Sums across tiles are float64.

    Raises
    ------
    MemoryBudget
        When one pair of tiles does not fit.
    Corrupt
        When stored rows cannot be read.
    """
    import dask  # half a second, which an answer from the cache does without

    compute = _precision(tiling, dtype)
    wanted = _with_selves(pairs, len(sources))
    side = plan(sources, pairs, tiling, memory=memory, dtype=dtype).side
    sides = [
        dask.delayed(_side)(source, source_rows[tiling.order], compute)
        for source, source_rows in zip(sources, rows, strict=True)
    ]
    one_batch = side >= tiling.n_tiles
    norms: list[Any] = (
        [None] * len(sides) if one_batch else _compute([dask.delayed(_norms)(side, tiling) for side in sides])
    )
    sums = _Sums(tiling, len(sources), wanted)
    for batch in batches(tiling.n_tiles, side):
        tiles = [dask.delayed(_batch_tiles)(side, tiling, batch, norm) for side, norm in zip(sides, norms, strict=True)]
        summed = [
            # What dask.delayed is given as an argument it searches for more work, pair by pair.
            dask.delayed(partial(_sum_pairs, index=index, pairs=wanted, tiling=tiling, tile_pair=tile_pair))(tiles)
            for index, tile_pair in enumerate(batch.pairs)
        ]
        found, results = _compute([[dask.delayed(_norms_of)(t) for t in tiles], summed])
        norms = found if one_batch else norms
        for tile_pair, (within, pair_sums) in zip(batch.pairs, results, strict=True):
            sums.add(tile_pair, within, pair_sums)
    return PassResult(norms=norms, within=sums.within, pairs=sums.result(), epsilon=float(np.finfo(compute).eps))


def plan(
    sources: Sequence[Representation],
    pairs: Sequence[Pair],
    tiling: Tiling,
    *,
    memory: int = MEMORY,
    dtype: npt.DTypeLike | None = None,
    itemsize: int | None = None,
) -> PassPlan:
    """Return how `run_pass` will cut a pass; nothing is read. A number as it is read takes `itemsize` bytes, if given.

    Raises
    ------
    MemoryBudget
        When one pair of tiles does not fit.
    """
    from dask.system import CPU_COUNT

    return plan_pass(
        tiling,
        widths=[source.width for source in sources],
        n_pairs=len(_with_selves(pairs, len(sources))),
        itemsize=itemsize or max(source.itemsize for source in sources),
        compute_itemsize=_precision(tiling, dtype).itemsize,
        workers=CPU_COUNT,
        memory=memory,
    )


def _precision(tiling: Tiling, dtype: npt.DTypeLike | None) -> np.dtype[Any]:
    return np.dtype(dtype or (np.float64 if tiling.n_rows < _FLOAT64_ROWS else np.float32))


def _with_selves(pairs: Sequence[Pair], n_sources: int) -> list[Pair]:
    return sorted({*pairs, *((source, source) for source in range(n_sources))})


def _compute(graph: Any) -> Any:
    import dask

    # One BLAS thread for each of Dask's: two pools on the same cores take 1.5 times as long.
    with threadpool_limits(limits=1, user_api="blas"):
        return dask.compute(graph, scheduler="threads")[0]


def _side(source: Representation, rows: Rows, dtype: np.dtype[Any]) -> _Side:
    # Scaling by a power of two is exact and keeps float32 products far from overflow and underflow.
    largest = source.largest(rows)
    scale = math.ldexp(1.0, -math.frexp(largest)[1]) if largest > 0 else 1.0
    return _Side(source, rows, source.mean(rows), scale, dtype)


def _squared_norms(centred: Mapping[int, npt.NDArray[Any]]) -> Float64:
    return np.concatenate([np.einsum("ij,ij->i", X, X, dtype=np.float64) for _, X in sorted(centred.items())])


def _norms(side: _Side, tiling: Tiling) -> Float64:
    return np.concatenate([_squared_norms(side.read(tiling, [tile])) for tile in range(tiling.n_tiles)])


def _batch_tiles(side: _Side, tiling: Tiling, batch: Batch, norms: Float64 | None) -> _Tiles:
    centred = side.read(tiling, batch.tiles)
    k = _squared_norms(centred) if norms is None else norms
    k_sum = float(k.sum())
    tiles = []
    for i, j in batch.pairs:
        k_i, k_j = k[tiling.rows(i)], k[tiling.rows(j)]
        P = u_tile(centred[i], centred[j], k_i, k_j, k_sum, tiling.n_rows, diagonal=i == j)
        if tiling.is_grouped:
            Z_i, Z_j = _membership(tiling, i, P.dtype), _membership(tiling, j, P.dtype)
            tiles.append(with_group_sums(P, Z_i, Z_j, diagonal=i == j))
        else:
            tiles.append(UTile(values=P))
    return _Tiles(k, tiles)


def _norms_of(tiles: _Tiles) -> Float64:
    return tiles.norms


def _membership(tiling: Tiling, tile: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    groups = tiling.groups(tile)
    of_row = tiling.group_of_row[tiling.rows(tile)] - groups.start
    return np.asarray(np.eye(groups.stop - groups.start, dtype=dtype)[of_row])


def _sum_pairs(
    held: Sequence[_Tiles], *, index: int, pairs: Sequence[Pair], tiling: Tiling, tile_pair: Pair
) -> tuple[list[Any], list[TileSums]]:
    (i, j), tiles = tile_pair, [one.tiles[index] for one in held]
    Z_i = _membership(tiling, i, tiles[0].values.dtype) if tiling.is_grouped else None
    sums = [tile_sums(tiles[a], tiles[b], Z_i, diagonal=i == j) for a, b in pairs]
    return [tile.within for tile in tiles], sums


@dataclass(eq=False)
class _Sums:
    """Sums over the tiles so far, in float64 and in the order of the tiles."""

    tiling: Tiling
    n_sources: int
    pairs: Sequence[Pair]
    within: list[Float64] = field(init=False)

    def __post_init__(self) -> None:
        n, g = self.tiling.n_rows, self.tiling.n_groups
        self.within = [np.zeros(g) for _ in range(self.n_sources)]
        self._rows = np.zeros((len(self.pairs), n))
        self._cross = np.zeros((len(self.pairs), g)) if self.tiling.is_grouped else self._rows
        self._inside = np.zeros((len(self.pairs), g if self.tiling.is_grouped else 1))

    def add(self, tile_pair: Pair, within: Sequence[Any], sums: Sequence[TileSums]) -> None:
        i, j = tile_pair
        for total, part in zip(self.within, within, strict=True):
            if part is not None:
                total[self.tiling.groups(i)] += part
        for index, part in enumerate(sums):
            self._rows[index, self.tiling.rows(i)] += part.rows_i
            if part.rows_j is not None:
                self._rows[index, self.tiling.rows(j)] += part.rows_j
            if part.cross_i is not None:
                self._cross[index, self.tiling.groups(i)] += part.cross_i
            if part.cross_j is not None:
                self._cross[index, self.tiling.groups(j)] += part.cross_j
            if part.within_i is not None:
                self._inside[index, self.tiling.groups(i)] += part.within_i

    def result(self) -> dict[Pair, PairSums]:
        return {
            pair: PairSums(rows=self._rows[index], cross=self._cross[index], within=self._inside[index])
            for index, pair in enumerate(self.pairs)
        }
