"""The permutation null: closed forms against all permutations, p-values against what they promise."""

import itertools
import re

import numpy as np
import pytest
from scipy import stats

from actlas.analyze.null import NullMoments, invariants, null_moments, p_value, permutation_test
from actlas.store import InvalidInput


def gram(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=0)
    return centred @ centred.T


def biased_cka(K: np.ndarray, L: np.ndarray, orders: np.ndarray) -> np.ndarray:
    permuted = L[orders[:, :, None], orders[:, None, :]]
    return np.einsum("ij,pij->p", K, permuted) / np.linalg.norm(K) / np.linalg.norm(L)


def sides(kind: str, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng([seed, n])
    x, y = random.normal(size=(n, 5)), random.normal(size=(n, 3))
    if kind == "rank one":
        x = x[:, :1]
    elif kind == "heavy tails":
        x, y = random.standard_t(1, size=(n, 4)), random.standard_t(1, size=(n, 2))
    elif kind == "one long row":
        x[0] *= 100
        y[1] *= 100
    elif kind == "many features":
        x = random.normal(size=(n, 4000))
    return gram(x), gram(y)


@pytest.mark.parametrize("kind", ["random", "rank one", "heavy tails", "one long row", "many features"])
@pytest.mark.parametrize("n", [3, 4, 5, 6, 7])
def test_the_moments_are_those_of_all_permutations(n: int, kind: str):
    orders = np.array([*itertools.permutations(range(n))])
    for seed in range(3):
        K, L = sides(kind, n, seed)
        values = biased_cka(K, L, orders)
        deviation = values - values.mean()
        moments = null_moments(invariants(K), invariants(L))
        assert moments.mean == pytest.approx(values.mean(), rel=1e-9)
        assert moments.sd == pytest.approx(values.std(), rel=1e-9)
        assert moments.skewness == pytest.approx((deviation**3).mean() / values.std() ** 3, rel=1e-9, abs=1e-11)


def test_the_mean_is_that_of_the_participation_ratios():
    K, L = sides("random", 50, 0)
    x, y = invariants(K), invariants(L)
    assert x.participation == pytest.approx(np.trace(K) ** 2 / (K**2).sum(), rel=1e-12)
    assert null_moments(x, y).mean == pytest.approx(np.sqrt(x.participation * y.participation) / 49, rel=1e-12)


@pytest.mark.parametrize(("p", "q"), [(8, 20), (200, 500)])
def test_ten_thousand_permutations_agree(p: int, q: int):
    random = np.random.default_rng(p)
    K, L = gram(random.normal(size=(60, p)) ** 3), gram(random.normal(size=(60, q)))
    exact = null_moments(invariants(K), invariants(L))
    sampled = permutation_test(K, L, permutations=10_000, seed=1).moments
    values = np.array([biased_cka(K, L, random.permutation(60)[None])[0] for _ in range(10_000)])
    z = (values - values.mean()) / values.std()
    skewness = (z**3).mean()
    influence = {  # of one value on each statistic, whose deviation gives the standard error
        "mean": values,
        "sd": values.std() * z**2 / 2,
        "skewness": z**3 - 3 * z - 1.5 * skewness * z**2,
    }
    for name, found in (("mean", values.mean()), ("sd", values.std()), ("skewness", skewness)):
        error = influence[name].std() / 100
        assert abs(getattr(exact, name) - found) < 4 * error
        assert abs(getattr(exact, name) - getattr(sampled, name)) < 4 * error


def test_neither_scale_nor_order_of_rows_matters():
    K, L = sides("heavy tails", 30, 0)
    plain = null_moments(invariants(K), invariants(L))
    order = np.random.default_rng(0).permutation(30)
    other = null_moments(invariants(L * 1e-40), invariants(K[np.ix_(order, order)] * 1e40))
    for name in ("mean", "sd", "skewness"):
        assert getattr(other, name) == pytest.approx(getattr(plain, name), rel=1e-9)


@pytest.mark.parametrize("skewness", [-1.3, -0.2, 0.0, 1e-5, 0.4, 2.5])
def test_the_tail_is_that_of_pearson_three(skewness: float):
    moments = NullMoments(mean=0.3, sd=0.1, skewness=skewness)
    for value in (0.1, 0.3, 0.35, 0.6, 0.95):
        expected = stats.pearson3.sf(value, skewness, loc=0.3, scale=0.1)
        assert p_value(value, moments) == pytest.approx(expected, rel=1e-4, abs=1e-12)


def test_p_values_of_independent_data_are_uniform():
    ps = []
    for seed in range(300):
        random = np.random.default_rng(seed)
        K, L = gram(random.normal(size=(40, 12)) ** 3), gram(random.normal(size=(40, 90)))
        value = np.vdot(K, L) / np.linalg.norm(K) / np.linalg.norm(L)
        ps.append(p_value(value, null_moments(invariants(K), invariants(L))))
    assert 0.02 < np.mean(np.array(ps) < 0.05) < 0.09
    assert stats.kstest(ps, "uniform").pvalue > 0.01


def test_real_permutations_give_the_p_value_of_the_moments():
    random = np.random.default_rng(5)
    x = random.normal(size=(60, 6))
    K, L = gram(x), gram(0.45 * x[:, :3] + random.normal(size=(60, 3)))
    test = permutation_test(K, L, permutations=4000, seed=0)
    assert 0.001 < test.p < 0.2
    by_moments = p_value(test.value, null_moments(invariants(K), invariants(L)))
    assert by_moments == pytest.approx(test.p, abs=4 * np.sqrt(test.p / 4000))


def test_a_seed_gives_one_result_whatever_came_before():
    K, L = sides("random", 20, 0)
    first = permutation_test(K, L, permutations=50, seed=3)
    np.random.default_rng(3).normal()
    assert permutation_test(L, L, permutations=7, seed=3).value == pytest.approx(1)
    assert permutation_test(K, L, permutations=50, seed=3) == first
    assert permutation_test(K, L, permutations=50, seed=4).moments != first.moments


def test_a_pair_of_equal_sides_has_the_smallest_p():
    K, _ = sides("random", 30, 0)
    assert permutation_test(K, K, permutations=199, seed=0).p == 1 / 200


def test_where_all_permutations_are_alike_nothing_is_rejected():
    K, (_, L) = gram(np.eye(12)), sides("random", 12, 0)
    moments = null_moments(invariants(K), invariants(L))
    test = permutation_test(K, L, permutations=99, seed=0)
    assert moments.mean == pytest.approx(test.value)
    assert moments.sd == test.moments.sd == 0
    assert np.isnan([moments.skewness, test.moments.skewness, p_value(test.value, moments)]).all()
    assert test.p == 1


def test_a_constant_side_has_no_null():
    constant, (_, L) = np.zeros((8, 8)), sides("random", 8, 0)
    moments = null_moments(invariants(constant), invariants(L))
    test = permutation_test(L, constant, permutations=9, seed=0)
    assert np.isnan([moments.mean, moments.sd, moments.skewness, p_value(0.5, moments)]).all()
    assert np.isnan([test.value, test.p, test.moments.mean]).all()


def test_what_is_no_centred_gram_is_refused():
    K, L = sides("random", 8, 0)
    broken = K.copy()
    broken[2, 3] = np.inf
    for wrong, message in (
        (K[:5], "gram: expected a Gram matrix (n, n) of at least 2 rows, got shape (5, 8)"),
        (K + 1, "subtract the column means from the rows before the product"),
        (broken, "expected finite numbers"),
    ):
        with pytest.raises(InvalidInput, match=re.escape(message)):
            invariants(wrong)
    with pytest.raises(InvalidInput, match="same rows, got 8 and 7 rows"):
        null_moments(invariants(K), invariants(gram(np.eye(7))))
    with pytest.raises(InvalidInput, match="over the same rows, got 8 and 7"):
        permutation_test(K, gram(np.eye(7)))
    with pytest.raises(InvalidInput, match="permutations: expected at least 2, got 1"):
        permutation_test(K, L, permutations=1)
