"""The audit against brute force on whole matrices: features, first eigenvalue, rows, and what it flags."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlas.analyze import audit
from actlas.analyze.audit import CentredRows, first_eigenvalue_share, flags, influence, row_shares, top_shares
from actlas.analyze.cka import finalise
from actlas.analyze.engine import run_pass
from actlas.analyze.hsic import leave_group_out, ratio
from actlas.analyze.moments import WithoutTop, feature_moments
from actlas.analyze.representation import ArrayRepresentation, Representation, Rows, StoredRepresentation
from actlas.analyze.tiling import make_tiling
from actlas.store import InvalidInput
from tests.analyze.stores import plain_cka, related, store_of


def centred_rows(x: np.ndarray) -> CentredRows:
    return centred_source(ArrayRepresentation(x.astype(np.float64)), np.arange(len(x)))


def centred_source(source: Representation, rows: Rows) -> CentredRows:
    return CentredRows(source=source, rows=rows, moments=feature_moments(source, rows))


def gram(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    return x @ x.T


def participation(x: np.ndarray) -> float:
    return float(np.trace(gram(x)) ** 2 / (gram(x) ** 2).sum())


def plain_first_share(x: np.ndarray) -> float:
    eigenvalues = np.linalg.eigvalsh(gram(x))
    return float(eigenvalues[-1] ** 2 / (eigenvalues**2).sum())


def plain_row_shares(x: np.ndarray) -> np.ndarray:
    return np.asarray((gram(x) ** 2).sum(axis=1) / (gram(x) ** 2).sum())


def u_centred(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    K, n = gram(x), len(x)
    k = np.diag(K).copy()
    P = K + (k[:, None] + k) / (n - 2) - k.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(P, 0)
    return k, (P**2).sum(axis=1)


def one_massive_feature(n: int, p: int) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(n, p))
    x[:, 7] *= np.sqrt(0.09 / 0.91 * (p - 1))
    return x


def hard_cases(n: int, p: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(5)
    x = generator.normal(size=(n, p))
    direction = generator.normal(size=p) / np.sqrt(p)
    long = x.copy()
    long[n // 3] *= 100
    constant = x.copy()
    constant[:, 2] = 0.1
    return {
        "isotropic": x,
        "a hidden direction": x + np.outer(generator.normal(size=n), direction) * np.sqrt(p),
        "means of 1,000 deviations": (x * np.arange(1, p + 1) ** -0.5) + 1000,
        "one row scaled by 100": long,
        "a constant feature": constant,
        "numbers near the end of float32": x * 1e30,
        "rank one": np.outer(generator.normal(size=n), direction),
    }


def test_a_feature_with_9_percent_of_the_variance_holds_88_percent_of_the_gram():
    x = one_massive_feature(1000, 4096)
    centred, PR = centred_rows(x), participation(x)
    [one, three, ten] = top_shares(centred, PR)
    assert one.variance == pytest.approx(0.09, abs=0.01)
    assert one.gram == pytest.approx(0.88, abs=0.02)
    assert 1 > ten.gram > three.gram > one.gram
    first = first_eigenvalue_share(centred, PR)
    assert first == pytest.approx(one.gram, abs=0.02)
    assert flags(first_eigenvalue=first, largest_row=0.1) == ["first eigenvalue over half of |K|^2"]


def test_without_it_independent_models_are_not_alike():
    x, y = one_massive_feature(400, 512), np.random.default_rng(1).normal(size=(400, 512))
    y[:, 3] = x[:, 7]
    assert plain_cka(x, y) > 0.5
    rows, tiling = np.arange(400), make_tiling(range(400))
    sources = [WithoutTop(source=ArrayRepresentation(side), moments=centred_rows(side).moments, k=1) for side in (x, y)]
    result = run_pass(sources, [rows, rows], [(0, 1)], tiling)
    assert abs(finalise(result, [(0, 1)], tiling, widths=[511, 511])[0].cka) < 0.03


@pytest.mark.parametrize("name", hard_cases(9, 9))
@pytest.mark.parametrize(("n", "p"), [(60, 12), (40, 90)])
def test_the_shares_are_those_of_whole_matrices(name: str, n: int, p: int):
    x = hard_cases(n, p)[name]
    centred, PR = centred_rows(x), participation(x)
    variance = np.sort(x.var(axis=0))[::-1]
    order = np.argsort(-x.var(axis=0), kind="stable")
    for found in top_shares(centred, PR, k=(1, 2, 5)):
        features = order[: found.k]
        expected = (gram(x[:, features]) ** 2).sum() / (gram(x) ** 2).sum()
        assert found.variance == pytest.approx(variance[: found.k].sum() / variance.sum(), rel=1e-9)
        assert found.gram == pytest.approx(expected, rel=1e-9)
    assert first_eigenvalue_share(centred, PR) == pytest.approx(plain_first_share(x), rel=2e-3)
    assert np.allclose(row_shares(centred, *u_centred(x)), plain_row_shares(x), rtol=0, atol=1e-10)


@given(st.integers(4, 40), st.integers(1, 20), st.integers(1, 50), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_no_size_of_the_blocks_changes_a_share(n: int, p: int, block: int, seed: int):
    x = np.random.default_rng(seed).normal(size=(n, p)) * np.random.default_rng(seed).gamma(1, size=(n, 1))
    PR = participation(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "BLOCK_ROWS", block)
        patch.setattr("actlas.analyze.moments.BLOCK_ROWS", block)
        centred = centred_rows(x)
        rows, first = row_shares(centred, *u_centred(x)), first_eigenvalue_share(centred, PR)
        top = top_shares(centred, PR, k=(1,))[0].gram
    assert np.allclose(rows, plain_row_shares(x), rtol=0, atol=1e-10)
    assert rows.sum() == pytest.approx(1, abs=1e-12)
    assert first == pytest.approx(plain_first_share(x), rel=2e-3)
    assert top == pytest.approx(x.var(axis=0).max() ** 2 * n**2 / (gram(x) ** 2).sum(), rel=1e-9)


def test_a_start_beside_another_eigenvector_does_not_mislead():
    """Found by search: four Lanczos steps would have stopped here, at an eigenvalue a fifth under the first."""
    generator = np.random.default_rng(1208)
    x = generator.normal(size=(12, 8)) * generator.gamma(0.5, size=8)
    assert first_eigenvalue_share(centred_rows(x), participation(x)) == pytest.approx(plain_first_share(x), rel=2e-3)


def test_the_first_eigenvalue_is_found_where_none_stands_out():
    x = np.random.default_rng(0).normal(size=(400, 300))
    assert first_eigenvalue_share(centred_rows(x), participation(x)) == pytest.approx(plain_first_share(x), rel=2e-3)


def test_features_beyond_all_hold_everything():
    x = np.random.default_rng(0).normal(size=(30, 4))
    [four, ten] = top_shares(centred_rows(x), participation(x), k=(4, 10))
    assert (ten.variance, ten.gram) == (pytest.approx(1), pytest.approx(1))
    assert four.gram == ten.gram


def test_no_feature_is_no_share():
    with pytest.raises(InvalidInput, match="numbers of features from 1 on"):
        top_shares(centred_rows(np.eye(5)), 4.0, k=(0, 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_pass_over_stored_groups_gives_the_same(dtype: type, tmp_path: Path):
    states = (related(640, 24, 24)[0] * np.arange(1, 25) + 5).astype(dtype)
    states[0, 300] *= np.asarray(20, dtype)
    store = store_of(tmp_path / "lab.act", {"a": states})
    source = StoredRepresentation(entry=store.entry(model="a", task="rte"), layer=0)
    kept = np.random.default_rng(0).permutation(640)[:600]
    tiling = make_tiling(np.random.default_rng(1).integers(0, 200, 600))
    result = run_pass([source], [kept], [(0, 0)], tiling)
    [cell] = finalise(result, [(0, 0)], tiling, widths=[24])
    rows = kept[tiling.order]
    centred, x = centred_source(source, rows), states[0, rows].astype(np.float64)
    assert first_eigenvalue_share(centred, cell.participation_x) == pytest.approx(plain_first_share(x), rel=2e-3)
    assert np.allclose(
        row_shares(centred, result.norms[0], result.pairs[0, 0].rows), plain_row_shares(x), rtol=1e-4, atol=1e-8
    )
    top = top_shares(centred, cell.participation_x, k=(3,))[0]
    best = x[:, np.argsort(-x.var(axis=0))[:3]]
    assert top.gram == pytest.approx((gram(best) ** 2).sum() / (gram(x) ** 2).sum(), rel=1e-5)


def test_a_constant_representation_has_no_shares():
    centred = centred_rows(np.full((8, 3), 0.1))
    assert np.isnan(first_eigenvalue_share(centred, float("nan")))
    assert np.isnan([(one.variance, one.gram) for one in top_shares(centred, float("nan"))]).all()
    assert np.isnan(row_shares(centred, np.zeros(8), np.zeros(8))).all()
    assert flags(first_eigenvalue=float("nan"), largest_row=float("nan")) == []


def test_a_long_row_is_flagged():
    x = related(200, 30, 30)[0][0].astype(np.float64)
    x[41] *= 100
    shares, first = (
        row_shares(centred_rows(x), *u_centred(x)),
        first_eigenvalue_share(centred_rows(x), participation(x)),
    )
    assert shares.argmax() == 41
    assert flags(first_eigenvalue=first, largest_row=shares.max()) == [
        "first eigenvalue over half of |K|^2",
        "one row over a tenth of |K|^2",
    ]


def test_the_influential_row_is_that_of_brute_force():
    x, y = (side[0].astype(np.float64) for side in related(50, 8, 8))
    x[17] = 4 * y[17]
    rows, tiling = np.arange(50), make_tiling(range(50))
    result = run_pass([ArrayRepresentation(x), ArrayRepresentation(y)], [rows, rows], [(0, 1)], tiling)
    sums = [result.pairs[pair] for pair in ((0, 1), (0, 0), (1, 1))]
    left_out = ratio(*(leave_group_out(one, np.zeros(50), np.zeros(50), tiling.group_of_row) for one in sums))
    changes = [plain_cka(np.delete(x, row, 0), np.delete(y, row, 0)) - plain_cka(x, y) for row in rows]
    found = influence(left_out, float(ratio(*(one.total for one in sums))))
    assert found.index == np.abs(changes).argmax()
    assert found.change == pytest.approx(changes[found.index], abs=1e-10)


def test_a_row_without_which_nothing_is_left_moves_the_value_most():
    found = influence(np.array([0.2, np.nan, 0.9]), 0.3)
    assert found.index == 1
    assert np.isnan(found.change)


def test_influence_has_a_sign_and_its_first_of_equals():
    found = influence(np.array([0.5, 0.25, 0.75]), 0.5)
    assert (found.index, found.change) == (1, -0.25)


@pytest.mark.parametrize(("left_out", "value"), [([np.nan, np.nan], 0.5), ([0.1, 0.2], np.nan)])
def test_nothing_known_has_no_influence(left_out: list[float], value: float):
    found = influence(np.array(left_out), value)
    assert found.index is None
    assert np.isnan(found.change)
