"""How a pass is cut: tiles of rows that hold whole groups, and batches of tile pairs that fit the memory budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from actlas.store import MemoryBudget

TILE_ROWS = 512  # two stored chunks; a function of nothing, so that no number depends on what else was asked


@dataclass(frozen=True, eq=False)
class Tiling:
    """Rows in the order in which they are processed: groups contiguous, tiles holding whole groups.

    Attributes
    ----------
    order : (n,) int
        Where each processed row stands in the row set.
    group_of_row : (n,) int
        Group of each processed row, ascending from 0.
    edges : tuple of int
        Tile t is the processed rows edges[t] to edges[t + 1].
    """

    order: npt.NDArray[np.intp]
    group_of_row: npt.NDArray[np.intp]
    edges: tuple[int, ...]

    @property
    def n_rows(self) -> int:
        """Number of rows n."""
        return len(self.order)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.group_of_row[-1]) + 1

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return len(self.edges) - 1

    @property
    def is_grouped(self) -> bool:
        """Whether any group has more than one row."""
        return self.n_groups < self.n_rows

    def rows(self, tile: int) -> slice:
        """Return the processed rows of a tile."""
        return slice(self.edges[tile], self.edges[tile + 1])

    def groups(self, tile: int) -> slice:
        """Return the groups of a tile."""
        rows = self.rows(tile)
        return slice(int(self.group_of_row[rows.start]), int(self.group_of_row[rows.stop - 1]) + 1)

    @property
    def largest_tile(self) -> int:
        """Rows of the largest tile."""
        return max(end - start for start, end in pairwise(self.edges))


def make_tiling(groups: Sequence[object], tile_rows: int = TILE_ROWS) -> Tiling:
    """Cut rows into tiles of about `tile_rows`; a group that is larger makes its tile larger.

    Parameters
    ----------
    groups : sequence of length n
        The group of each row, in the order of the row set; distinct values mean independent rows.
    tile_rows : int
        Rows of a tile.
    """
    first_seen: dict[object, int] = {}
    for group in groups:
        first_seen.setdefault(group, len(first_seen))
    group_of = np.array([first_seen[group] for group in groups], np.intp)
    order = np.argsort(group_of, kind="stable")
    sorted_groups = group_of[order]
    ends = np.append(np.flatnonzero(np.diff(sorted_groups)) + 1, len(sorted_groups))
    edges, last_end = [0], 0
    for end in ends.tolist():
        if end - edges[-1] > tile_rows and last_end > edges[-1]:
            edges.append(last_end)
        last_end = end
    return Tiling(order, sorted_groups, (*edges, len(group_of)))


@dataclass(frozen=True)
class Batch:
    """A square of tile pairs on or above the diagonal, processed with all representations at once."""

    tiles_i: range
    tiles_j: range

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Tile pairs (i, j) with i <= j, row by row."""
        return [(i, j) for i in self.tiles_i for j in self.tiles_j if i <= j]

    @property
    def tiles(self) -> list[int]:
        """Every tile that is read, once."""
        return sorted({*self.tiles_i, *self.tiles_j})


@dataclass(frozen=True, kw_only=True)
class PassPlan:
    """One pass over one row set.

    Attributes
    ----------
    rows, representations, pairs : int
        Of the pass; pairs with those of each representation with itself.
    tiles : int
        Tiles along the side of the whole.
    side : int
        Tiles along the side of a batch: as many as the budget holds.
    peak_bytes : int
        Estimate of the memory that the pass takes.
    n_reads : float
        How often each representation's rows are read, in the mean.
    read_bytes : int
        Bytes of all rows that are read, as numbers; compressed they are fewer.
    flops : int
        Additions and multiplications of the products; the rest is small beside them.
    """

    rows: int
    representations: int
    pairs: int
    tiles: int
    side: int
    peak_bytes: int
    n_reads: float
    read_bytes: int
    flops: int


def batches(n_tiles: int, side: int) -> Iterator[Batch]:
    """Yield the batches row by row: for any side every row's sums are added up in the same order."""
    for i in range(0, n_tiles, side):
        for j in range(i, n_tiles, side):
            yield Batch(range(i, min(i + side, n_tiles)), range(j, min(j + side, n_tiles)))


def estimate_bytes(
    tiling: Tiling,
    side: int,
    *,
    widths: Sequence[int],
    n_pairs: int,
    itemsize: int,
    compute_itemsize: int,
    workers: int,
) -> int:
    """Estimate the memory of a pass in bytes.

    The tiles of all representations of one batch are held until their pairs are summed; each worker reads one
    representation's rows of a batch and turns them, tile by tile, into centred rows.
    """
    tile, width = tiling.largest_tile, max(widths)
    held_tiles = min(side * side, tiling.n_tiles * (tiling.n_tiles + 1) // 2)
    group_share = 2 * tiling.n_groups / tiling.n_rows if tiling.is_grouped else 0
    held = len(widths) * held_tiles * tile * tile * compute_itemsize * (1 + group_share)
    read = min(2 * side * tile, tiling.n_rows) * width * (itemsize + compute_itemsize) + tile * width * compute_itemsize
    sums = n_pairs * (tiling.n_rows + 2 * tiling.n_groups + 2 * held_tiles * tile) * 8
    return int(held + workers * read + sums)


def plan_pass(
    tiling: Tiling,
    *,
    widths: Sequence[int],
    n_pairs: int,
    itemsize: int,
    compute_itemsize: int,
    workers: int,
    memory: int,
) -> PassPlan:
    """Choose the largest batches that fit the budget: one batch reads every representation once.

    Parameters
    ----------
    tiling : Tiling
        How rows are cut.
    widths : sequence of int
        Features of every representation.
    n_pairs : int
        Pairs whose sums are kept.
    itemsize, compute_itemsize : int
        Bytes of a stored and of a computed number.
    workers : int
        Threads that read at once.
    memory : int
        The budget in bytes.

    Raises
    ------
    MemoryBudget
        When not even one tile pair at a time fits; says how much would.
    """

    def estimate(side: int) -> int:
        return estimate_bytes(
            tiling,
            side,
            widths=widths,
            n_pairs=n_pairs,
            itemsize=itemsize,
            compute_itemsize=compute_itemsize,
            workers=workers,
        )

    fitting = [side for side in range(tiling.n_tiles, 0, -1) if estimate(side) <= memory]
    if not fitting:
        raise MemoryBudget(
            f"comparing {len(widths)} representations of {tiling.n_rows} rows needs at least {estimate(1) / 2**20:,.3f} "
            f"MiB, allowed are {memory / 2**20:,.3f} MiB; give --memory more, or fewer models or layers at once"
        )
    side = fitting[0]
    reads = sum(len(batch.tiles) for batch in batches(tiling.n_tiles, side)) / tiling.n_tiles
    return PassPlan(
        rows=tiling.n_rows,
        representations=len(widths),
        pairs=n_pairs,
        tiles=tiling.n_tiles,
        side=side,
        peak_bytes=estimate(side),
        n_reads=reads + (side < tiling.n_tiles),  # squared norms first, where the rows do not all fit at once
        read_bytes=int((reads + (side < tiling.n_tiles)) * tiling.n_rows * sum(widths) * itemsize),
        flops=_flops(tiling, sum(widths), n_pairs),
    )


def _flops(tiling: Tiling, width: int, n_pairs: int) -> int:
    sizes = [tiling.rows(tile).stop - tiling.rows(tile).start for tile in range(tiling.n_tiles)]
    cells: int = (sum(sizes) ** 2 + sum(size**2 for size in sizes)) // 2  # of the tiles on and above the diagonal
    return 2 * cells * (width + n_pairs)
