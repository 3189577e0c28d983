"""The tiled float32 engine against the definitions, for any tiling; the jackknife against brute force."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlas.analyze.cka import Cka, finalise
from actlas.analyze.engine import run_pass
from actlas.analyze.representation import ArrayRepresentation
from actlas.analyze.tiling import make_tiling
from tests.analyze.stores import plain_biased, plain_cka, plain_jackknife, related


def cells(
    sides: Sequence[np.ndarray],
    *,
    pairs: Sequence[tuple[int, int]] = ((0, 1),),
    groups: Sequence[object] | None = None,
    tile_rows: int = 512,
    memory: int = 1 << 30,
    dtype: type | None = None,
) -> list[Cka]:
    rows = np.arange(len(sides[0]))
    tiling = make_tiling(rows if groups is None else groups, tile_rows)
    sources = [ArrayRepresentation(side.astype(np.float64)) for side in sides]
    result = run_pass(sources, [rows] * len(sides), pairs, tiling, memory=memory, dtype=dtype)
    return finalise(result, pairs, tiling, widths=[side.shape[1] for side in sides])


def hard_cases(n: int, p: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    x, y = (side[0].astype(np.float64) for side in related(n, p, p, seed=n))
    outlier_x, outlier_y = x.copy(), y.copy()
    outlier_x[n // 2] *= 100
    outlier_y[n // 2] *= 100
    return {
        "isotropic": (x, y),
        "one row scaled by 100 on one side": (outlier_x, y),
        "one row scaled by 100 on both": (outlier_x, outlier_y),
        "column means 1,000 times the deviation": (x + 1000 * x.std(axis=0), y - 1000 * y.std(axis=0)),
        "numbers near the end of float32": (x * 1e30, y * 1e-30),
    }


@pytest.mark.parametrize("name", hard_cases(8, 2))
@pytest.mark.parametrize(("n", "p"), [(4, 3), (50, 512), (50, 4096), (600, 64)])
@pytest.mark.parametrize("tile_rows", [33, 256, 512])
def test_float32_tiles_are_within_a_millionth_of_float64(n: int, p: int, tile_rows: int, name: str):
    x, y = hard_cases(n, p)[name]
    [cell] = cells([x, y], tile_rows=tile_rows)
    assert cell.cka == pytest.approx(plain_cka(x, y), abs=1e-6)
    assert cell.cka_biased == pytest.approx(plain_biased(x, y), abs=1e-6)


@given(st.integers(5, 60), st.integers(1, 70), st.integers(1, 5), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_no_tile_size_and_no_budget_changes_the_sums(n: int, tile_rows: int, side: int, seed: int):
    x, y = (part[0] for part in related(n, 9, 5, seed=seed))
    whole = cells([x, y], tile_rows=n, dtype=np.float64)[0]
    budget = 40_000 + side * 20_000
    tiled = cells([x, y], tile_rows=min(tile_rows, 20), memory=budget, dtype=np.float64)[0]
    assert tiled.cka == pytest.approx(whole.cka, abs=1e-11)
    assert tiled.se == pytest.approx(whole.se, abs=1e-11)
    assert tiled.null_mean == pytest.approx(whole.null_mean, abs=1e-11)


def test_a_smaller_budget_gives_the_same_bits():
    x, y = (part[0] for part in related(500, 40, 30))
    roomy, tight = (cells([x, y], tile_rows=64, memory=memory)[0] for memory in (1 << 30, 250_000))
    assert roomy == tight


@given(st.integers(5, 30), st.integers(2, 12), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_the_row_jackknife_equals_brute_force(n: int, p: int, seed: int):
    x, y = (part[0] for part in related(n, p, p + 1, seed=seed))
    [cell] = cells([x, y], dtype=np.float64, tile_rows=7)
    expected = plain_jackknife(x, y, range(n))
    assert cell.se == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.lists(st.integers(0, 7), min_size=12, max_size=60), st.integers(1, 20), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_the_group_jackknife_equals_brute_force(groups: list[int], tile_rows: int, seed: int):
    n = len(groups)
    x, y = (part[0] for part in related(n, 6, 8, seed=seed))
    [cell] = cells([x, y], groups=groups, dtype=np.float64, tile_rows=tile_rows)
    if n - max(groups.count(group) for group in groups) < 4:
        assert np.isnan(cell.se)
        assert "under 4 rows remain when a group is left out" in cell.reason
    else:
        assert cell.se == pytest.approx(plain_jackknife(x, y, groups), rel=1e-8, abs=1e-12)
    assert cell.cka == pytest.approx(plain_cka(x, y), abs=1e-10)


def test_the_float32_jackknife_is_close_too():
    x, y = (part[0] for part in related(300, 64, 32))
    groups = [row // 10 for row in range(300)]
    for unit in (range(300), groups):
        exact, rounded = (cells([x, y], groups=unit, dtype=dtype)[0].se for dtype in (np.float64, np.float32))
        assert rounded == pytest.approx(exact, rel=1e-4)


def test_four_rows_give_cka_and_a_nan_error_with_the_reason():
    x, y = (part[0] for part in related(4, 6, 3))
    [cell] = cells([x, y])
    assert cell.cka == pytest.approx(plain_cka(x, y), abs=1e-6)
    assert np.isnan(cell.se)
    assert cell.reason == "no standard error: under 4 rows remain when a row is left out"


def test_five_rows_give_an_error():
    x, y = (part[0] for part in related(5, 6, 3))
    assert cells([x, y], dtype=np.float64)[0].se == pytest.approx(plain_jackknife(x, y, range(5)))


def test_a_representation_that_one_row_makes_has_no_error():
    x, y = np.zeros((8, 3)), related(8, 3, 3)[1][0]
    x[2] = 1
    x[3] = 2
    [cell] = cells([x, y])
    assert np.isfinite(cell.cka)
    assert cell.reason == "no standard error: a representation has no structure left when one row is left out"


def test_constant_representations_are_nan_with_the_reason():
    x, y = related(20, 4, 4)
    for constant in (0.0, 0.1, -1e30):
        [cell] = cells([np.full((20, 4), constant), y[0]])
        assert np.isnan([cell.cka, cell.cka_biased, cell.se, cell.null_mean]).all()
        assert cell.reason == "constant representation"
    assert np.isfinite(cells([x[0], y[0]])[0].cka)


def test_a_pair_is_the_same_bits_whatever_is_asked_beside_it():
    x, y = (part[0] for part in related(700, 40, 30))
    z = related(700, 50, 50, seed=9)[0][0]
    [alone] = cells([x, y])
    assert cells([z, x, y], pairs=[(0, 1), (0, 2), (1, 2)])[2] == alone


def test_every_pair_of_many_representations_is_right():
    x, y = related(150, 12, 20, n_layers=3)
    sides = [*x, *y]
    pairs = [(a, b) for a in range(6) for b in range(a, 6)]
    for (a, b), cell in zip(pairs, cells(sides, pairs=pairs, tile_rows=64), strict=True):
        assert cell.cka == pytest.approx(plain_cka(sides[a], sides[b]), abs=1e-6)


def test_the_null_mean_is_the_mean_over_permutations():
    generator = np.random.default_rng(3)
    x, y = related(40, 30, 25)
    x, y = x[0], y[0]
    permuted = [plain_biased(x[generator.permutation(40)], y) for _ in range(800)]
    [cell] = cells([x, y])
    assert cell.null_mean == pytest.approx(np.mean(permuted), abs=4 * np.std(permuted) / np.sqrt(800))


def test_participation_is_that_of_the_eigenvalues():
    x, y = (part[0] for part in related(60, 9, 7))
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T.astype(np.float64)))
    [cell] = cells([x, y])
    assert cell.participation_x == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rel=1e-5)


def test_the_jackknife_interval_covers_the_truth():
    generator, covered = np.random.default_rng(0), 0
    mixing = generator.normal(size=(6, 6))
    big = generator.normal(size=(4000, 6))
    truth = plain_cka(big, big @ mixing + generator.normal(size=big.shape))
    for _ in range(100):
        x = generator.normal(size=(60, 6))
        [cell] = cells([x, x @ mixing + generator.normal(size=x.shape)], dtype=np.float64)
        covered += abs(cell.cka - truth) < 1.96 * cell.se
    assert 0.87 <= covered / 100 <= 1
