"""Z-scored and trimmed representations give, through the engine, the CKA of the matrices changed as a whole."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlas.analyze import moments
from actlas.analyze.cka import Cka, finalise
from actlas.analyze.engine import run_pass
from actlas.analyze.moments import FeatureMoments, WithoutTop, ZScored, feature_moments
from actlas.analyze.representation import ArrayRepresentation, Representation, Rows, StoredRepresentation
from actlas.analyze.tiling import make_tiling
from actlas.store import InvalidInput
from tests.analyze.stores import plain_biased, plain_cka, related, store_of

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def cell_of(sources: list[Representation], rows: list[Rows], groups: Any = None, dtype: Any = None) -> Cka:
    tiling = make_tiling(range(len(rows[0])) if groups is None else groups, 300)
    result = run_pass(sources, rows, [(0, 1)], tiling, dtype=dtype)
    return finalise(result, [(0, 1)], tiling, widths=[source.width for source in sources])[0]


def scored(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    deviation = np.where(x.max(axis=0) == x.min(axis=0), np.inf, x.std(axis=0))
    return (x - x.mean(axis=0)) / deviation


def trimmed(x: np.ndarray, k: int) -> np.ndarray:
    variance = x.astype(np.float64).var(axis=0)
    return np.delete(x, np.argsort(-variance, kind="stable")[:k], axis=1)


def hard_cases(n: int, p: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    x, y = (side[0].astype(np.float64) * np.arange(1, p + 1) ** -0.5 for side in related(n, p, p, seed=7))
    far_x, far_y = x + 1000 * x.std(axis=0), y - 1000 * y.std(axis=0)
    long_x, long_y, constant = x.copy(), y.copy(), x.copy()
    long_x[n // 2] *= 100
    long_y[n // 2] *= 100
    constant[:, [0, 5]] = 0.1
    return {
        "plain": (x, y),
        "means of 1,000 deviations": (far_x, far_y),
        "one row scaled by 100": (long_x, long_y),
        "the first row scaled by 100": (np.roll(long_x, -(n // 2), axis=0), np.roll(long_y, -(n // 2), axis=0)),
        "two constant features": (constant, y),
        "one feature of nearly all variance": (x * np.where(np.arange(p) == 3, 1e6, 1), y),
    }


@pytest.mark.parametrize("name", hard_cases(8, 8))
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-10)])
def test_the_engine_gives_the_cka_of_the_changed_matrices(name: str, dtype: type, tolerance: float):
    x, y = hard_cases(500, 40)[name]
    sources, rows = [ArrayRepresentation(x), ArrayRepresentation(y)], np.arange(500)
    found = [feature_moments(source, rows) for source in sources]
    z = [ZScored(source=source, moments=one) for source, one in zip(sources, found, strict=True)]
    less = [WithoutTop(source=source, moments=one, k=3) for source, one in zip(sources, found, strict=True)]
    for changed, expected in ((z, (scored(x), scored(y))), (less, (trimmed(x, 3), trimmed(y, 3)))):
        cell = cell_of(changed, [rows, rows], dtype=dtype)
        assert cell.cka == pytest.approx(plain_cka(*expected), abs=tolerance)
        assert cell.cka_biased == pytest.approx(plain_biased(*expected), abs=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stored_rows_in_any_order_and_number_give_the_same(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(moments, "BLOCK_ROWS", 256)
    states = [(side * 3 + 1).astype(DTYPES[dtype]) for side in related(600, 24, 20)]
    states[0][0, :, 4] = 0.3
    states[1][0, 17, 2] = np.inf
    store = store_of(tmp_path / "lab.act", dict(zip("ab", states, strict=True)))
    sources = [StoredRepresentation(entry=store.entry(model=model, task="rte"), layer=0) for model in "ab"]
    groups = np.random.default_rng(0).integers(0, 200, 599)
    rows = np.random.default_rng(1).permutation(np.delete(np.arange(600), 17))
    z = [ZScored(source=source, moments=feature_moments(source, rows)) for source in sources]
    less = [WithoutTop(source=source, moments=feature_moments(source, rows), k=1) for source in sources]
    x, y = (side[0, rows].astype(np.float64) for side in states)
    cell = cell_of(z, [rows, rows], groups)
    assert cell.cka == pytest.approx(plain_cka(scored(x), scored(y)), abs=1e-6)
    cell = cell_of(less, [rows, rows], groups)
    assert cell.cka == pytest.approx(plain_cka(trimmed(x, 1), trimmed(y, 1)), abs=1e-6)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 50), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_no_size_of_the_blocks_changes_the_moments(n: int, p: int, block: int, seed: int):
    x = np.random.default_rng(seed).normal(3, 2, (n, p))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "BLOCK_ROWS", block)
        found = feature_moments(ArrayRepresentation(x), np.arange(n))
    assert np.allclose(found.mean, x.mean(axis=0), rtol=1e-13, atol=1e-13)
    assert np.allclose(found.variance, x.var(axis=0), rtol=1e-12, atol=1e-13)
    assert np.array_equal([found.low, found.high], [x.min(axis=0), x.max(axis=0)])


def test_means_of_a_million_deviations_cost_no_digits():
    x = np.random.default_rng(0).normal(size=(5000, 3))
    found = feature_moments(ArrayRepresentation(x + 2.0**20), np.arange(5000))
    exact = (x + 2.0**20) - 2.0**20
    assert np.allclose(found.variance, exact.var(axis=0), rtol=1e-12)


def moments_of(x: np.ndarray) -> FeatureMoments:
    return feature_moments(ArrayRepresentation(x), np.arange(len(x)))


def test_a_constant_feature_is_exactly_zero_and_a_constant_representation_has_no_cka():
    x = np.random.default_rng(0).normal(size=(300, 3))
    x[:, 1] = 0.1
    z = ZScored(source=ArrayRepresentation(x), moments=moments_of(x))
    assert (z.read(np.arange(300))[:, 1] == 0).all()
    flat = np.full((300, 3), 0.1)
    source = ZScored(source=ArrayRepresentation(flat), moments=moments_of(flat))
    assert cell_of([source, z], [np.arange(300)] * 2).reason == "constant representation"


def test_the_wrappers_say_what_they_read():
    x = np.random.default_rng(0).normal(5, [1, 9, 2, 3], (50, 4)).astype(np.float32).astype(np.float64)
    rows = np.arange(50)
    source, found = ArrayRepresentation(x), moments_of(x)
    for changed in (ZScored(source=source, moments=found), WithoutTop(source=source, moments=found, k=2)):
        values = changed.read(rows)
        assert values.shape == (50, changed.width)
        assert values.itemsize == changed.itemsize
        assert np.allclose(changed.mean(rows), values.mean(axis=0), atol=1e-14)
        assert changed.largest(rows) == np.abs(values).max()
    assert np.array_equal(WithoutTop(source=source, moments=found, k=2).read(rows), x[:, [0, 2]])


@pytest.mark.parametrize("k", [0, 4])
def test_no_feature_or_all_cannot_be_left_out(k: int):
    x = np.random.default_rng(0).normal(size=(9, 4))
    with pytest.raises(InvalidInput, match=f"k: expected 1 to 3 of 4 features to leave out, got {k}"):
        WithoutTop(source=ArrayRepresentation(x), moments=moments_of(x), k=k)
