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
from actlas.analyze.moments import feature_moments
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


def test_a_feature_with_9_percent_of_the_variance_holds_nearly_all_of_the_gram():
    x = one_massive_feature(1500, 4096)
    [one, three, ten] = top_shares(centred_rows(x), participation(x))
    assert one.variance == pytest.approx(0.09, abs=0.01)
    assert one.gram > 0.8
    assert 1 > ten.gram > three.gram > one.gram
    assert first_eigenvalue_share(centred_rows(x), participation(x)) == pytest.approx(one.gram, abs=0.02)


def test_that_feature_makes_independent_models_alike_until_it_is_out():
    x, y = one_massive_feature(1500, 512), np.random.default_rng(1).normal(size=(1500, 512))
    y[:, 3] = x[:, 7]
    assert plain_cka(x, y) > 0.5
    assert abs(plain_cka(np.delete(x, 7, axis=1), np.delete(y, 3, axis=1))) < 0.02
    assert flags(
        first_eigenvalue=first_eigenvalue_share(centred_rows(x), participation(x)),
        largest_row=plain_row_shares(x).max(),
    ) == ["first eigenvalue over half of |K|^2"]


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
    states = (related(2300, 24, 24)[0] * np.arange(1, 25) + 5).astype(dtype)
    states[0, 700] *= np.asarray(20, dtype)
    store = store_of(tmp_path / "lab.act", {"a": states})
    source = StoredRepresentation(entry=store.entry(model="a", task="rte"), layer=0)
    kept = np.random.default_rng(0).permutation(2300)[:2200]
    tiling = make_tiling(np.random.default_rng(1).integers(0, 500, 2200))
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


def test_a_long_row_is_flagged_and_found():
    x, y = (side[0].astype(np.float64) for side in related(200, 30, 30))
    for side in (x, y):
        side[41] *= 100
    shares = row_shares(centred_rows(x), *u_centred(x))
    assert shares.argmax() == 41
    assert flags(
        first_eigenvalue=first_eigenvalue_share(centred_rows(x), participation(x)), largest_row=shares[41]
    ) == [
        "first eigenvalue over half of |K|^2",
        "one row over a tenth of |K|^2",
    ]
    rows, tiling = np.arange(200), make_tiling(range(200))
    result = run_pass([ArrayRepresentation(x), ArrayRepresentation(y)], [rows, rows], [(0, 1)], tiling)
    value, *left = [
        ratio(*(of(result.pairs[pair]) for pair in ((0, 1), (0, 0), (1, 1))))
        for of in (
            lambda sums: sums.total,
            lambda sums: leave_group_out(sums, np.zeros(200), np.zeros(200), tiling.group_of_row),
        )
    ]
    found = influence(left[0], float(value))
    without = np.delete(rows, 41)
    assert found.index == 41
    assert found.change == pytest.approx(plain_cka(x[without], y[without]) - plain_cka(x, y), abs=1e-6)


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
