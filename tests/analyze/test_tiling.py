"""How passes are cut: whole groups in a tile, every pair of rows once, within the budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlas.analyze.tiling import batches, estimate_bytes, make_tiling, plan_pass
from actlas.store import MemoryBudget


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), st.integers(1, 50))
def test_tiles_hold_whole_groups_and_every_row_once(groups: list[int], tile_rows: int):
    tiling = make_tiling(groups, tile_rows)
    assert sorted(tiling.order) == list(range(len(groups)))
    assert tiling.n_groups == len(set(groups))
    covered = []
    for tile in range(tiling.n_tiles):
        rows = tiling.rows(tile)
        inside = {groups[row] for row in tiling.order[rows]}
        outside = {groups[row] for row in np.delete(tiling.order, np.r_[rows])}
        assert not inside & outside
        assert rows.stop - rows.start <= tile_rows or len(inside) == 1
        covered += range(rows.start, rows.stop)
    assert covered == list(range(len(groups)))


def test_independent_rows_stay_in_order():
    tiling = make_tiling([f"id-{row}" for row in range(1000)], 512)
    assert tiling.order.tolist() == list(range(1000))
    assert tiling.edges == (0, 512, 1000)
    assert not tiling.is_grouped


@given(st.integers(1, 12), st.integers(1, 12))
def test_batches_cover_every_pair_of_tiles_once(n_tiles: int, side: int):
    pairs = [pair for batch in batches(n_tiles, side) for pair in batch.pairs]
    assert sorted(pairs) == [(i, j) for i in range(n_tiles) for j in range(i, n_tiles)]


def test_the_plan_takes_the_largest_batches_that_fit():
    tiling = make_tiling(range(4096))
    widths = [1024] * 26
    shape = {"widths": widths, "n_pairs": 26, "itemsize": 2, "compute_itemsize": 4, "workers": 2}
    roomy = plan_pass(tiling, **shape, memory=4 << 30)
    assert (roomy.side, roomy.n_reads) == (8, 1.0)
    tight = plan_pass(tiling, **shape, memory=300 << 20)
    assert tight.side < 8
    assert tight.peak_bytes <= 300 << 20
    assert tight.n_reads > 1
    assert estimate_bytes(tiling, tight.side + 1, **shape) > 300 << 20


def test_what_cannot_fit_is_refused_with_both_numbers():
    with pytest.raises(MemoryBudget, match=r"needs at least .* MiB, allowed are 1.000 MiB; give --memory more"):
        plan_pass(
            make_tiling(range(2000)),
            widths=[4096] * 66,
            n_pairs=33,
            itemsize=2,
            compute_itemsize=4,
            workers=2,
            memory=1 << 20,
        )
