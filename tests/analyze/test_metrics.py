"""Every metric in memory: against values that public libraries agree on, against its definition, and by its laws."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlas.analyze import METRICS, measures, similarity
from actlas.store import InvalidInput
from tests.analyze.stores import related
from tests.analyze.test_similarity import CASES, STREAMED, load

# The reference name, the metric, its options. Public codes add up hits of neighbours in float32: these agree to 1e-7.
REFERENCES = [
    ("cka_linear_minibatch_b50", "cka-minibatch", {"batch": 50}, 0),
    ("cka_rbf_median_all", "cka-rbf", {}, 0),
    ("procrustes_nuclear_similarity", "procrustes", {}, 0),
    ("rsa_correlation_spearman", "rsa", {}, 0),
    ("rsa_correlation_pearson", "rsa", {"method": "pearson"}, 0),
    ("rsa_euclidean_spearman", "rsa", {"distance": "euclidean"}, 0),
    ("svcca_099_mean", "svcca", {}, 0),
    ("cca_mean", "svcca", {"variance": 1.0}, 0),
    ("linear_regression_r2_y_to_x", "linear-r2", {}, 0),
    ("mutual_knn_cosine_k5", "mutual-knn", {"k": 5}, 1e-7),
    ("mutual_knn_cosine_k10", "mutual-knn", {}, 1e-7),
    ("cknna_cosine_k5", "cknna", {"k": 5}, 1e-9),
    ("cknna_cosine_k10", "cknna", {}, 1e-9),
]
WHOLE = [name for name in METRICS if name not in STREAMED]
OPTIONS = {"mutual-knn": {"k": 3}, "cknna": {"k": 3}}


def options_of(metric: str, n: int) -> dict[str, object]:
    return {"groups": np.arange(n) // 6} if metric == "cka-within" else OPTIONS.get(metric, {})


def pair(n: int, p: int, q: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, y = (side[0].astype(np.float64) for side in related(n, p, q, seed=seed))
    return x, y


@pytest.mark.parametrize(("name", "metric", "options", "rounding"), REFERENCES)
@pytest.mark.parametrize("case", CASES)
def test_it_equals_what_public_libraries_agree_on(case, name, metric, options, rounding):
    expected = CASES[case]["expected"].get(name)
    if expected is None or not expected["usable"]:
        pytest.skip("the libraries do not agree, or have no value")
    assert similarity(*load(case), metric, **options) == pytest.approx(
        expected["value"], abs=max(expected["tol"], rounding)
    )


@pytest.mark.parametrize("case", CASES)
def test_the_measures_equal_their_definitions(case):
    expected, found = CASES[case]["expected"], measures(load(case)[0])
    for name in ("participation_ratio", "effective_rank"):
        assert found[name] == pytest.approx(expected[f"{name}_x"]["value"], abs=1e-8)
    x = load(case)[0].astype(np.float64)
    shares = np.cumsum(np.sort(np.linalg.eigvalsh(np.cov(x.T)))[::-1])
    for share in (90, 95, 99):
        assert found[f"dims_{share}"] == 1 + int((shares < share / 100 * shares[-1]).sum())
    cosines = [
        a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)
        for (i, a), (j, b) in itertools.product(enumerate(x), repeat=2)
        if i != j
    ]
    assert found["mean_cosine"] == pytest.approx(np.mean(cosines), abs=1e-12)
    norms = [float(np.sqrt((row**2).sum())) for row in x]
    assert (found["mean_norm"], found["sd_norm"]) == pytest.approx((np.mean(norms), np.std(norms, ddof=1)))


# definitions, written out


def plain_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """The unbiased HSIC as a mean over all quadruples of different rows (Gretton et al. 2005)."""
    terms = [
        k[i, j] * m[i, j] + k[i, j] * m[q, r] - 2 * k[i, j] * m[i, q]
        for i, j, q, r in itertools.permutations(range(len(k)), 4)
    ]
    return float(np.mean(terms))


def grams(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x @ x.T, y @ y.T


def plain_sums(x: np.ndarray, y: np.ndarray, groups: list[np.ndarray]) -> float:
    sums = np.zeros(3)
    for rows in groups:
        k, m = grams(x[rows], y[rows])
        sums += [plain_hsic(k, m), plain_hsic(k, k), plain_hsic(m, m)]
    return float(sums[0] / np.sqrt(sums[1] * sums[2]))


def test_minibatches_and_groups_sum_the_unbiased_hsic():
    x, y = pair(18, 3, 4)
    batches = [np.arange(0, 8), np.arange(8, 16)]  # the rest of 2 is dropped
    assert similarity(x, y, "cka-minibatch", batch=8) == pytest.approx(plain_sums(x, y, batches), abs=1e-10)
    groups = np.array(["b", "a", "c"])[np.arange(18) % 3]
    groups[0] = "alone"
    chosen = [np.flatnonzero(groups == name) for name in ("a", "b", "c")]
    assert similarity(x, y, "cka-within", groups=groups) == pytest.approx(plain_sums(x, y, chosen), abs=1e-10)


def test_all_rows_in_one_group_or_batch_are_debiased_cka():
    x, y = pair(40, 5, 6)
    whole = pytest.approx(similarity(x, y), abs=1e-12)
    assert similarity(x, y, "cka-within", groups=["all"] * 40) == whole
    assert similarity(x, y, "cka-minibatch") == whole


def test_independent_models_that_share_templates_are_alike_until_these_are_taken_out():
    random = np.random.default_rng(0)
    templates = np.arange(400) % 10
    x, y = (random.normal(size=(10, 64))[templates] + random.normal(size=(400, 64)) for _ in range(2))
    assert similarity(x, y) > 0.3
    values = []
    for _ in range(60):
        order = random.permutation(400)
        order = order[np.argsort(templates[order], kind="stable")][np.argsort(np.argsort(templates, kind="stable"))]
        values.append(similarity(x, y[order], "cka-within", groups=templates))  # rows are shuffled inside templates
    assert abs(similarity(x, y, "cka-within", groups=templates)) < 3 * np.std(values)


def test_neighbours_are_counted_and_ties_go_to_the_lower_row():
    x = np.array([[1.0, 0], [1, 0], [1, 0], [1, 0], [0, 1.0]])
    y = np.array([[1.0, 0], [1, 0.1], [1, 0.2], [1, 0.3], [1, 0.4]])
    # x: 1 2 | 0 2 | 0 1 | 0 1 | 0 1;  y: 1 2 | 0 2 | 1 3 | 2 4 | 3 2
    assert similarity(x, y, "mutual-knn", k=2) == pytest.approx((2 + 2 + 1 + 0 + 0) / 10)


def test_the_best_rotation_is_found():
    x, y = pair(30, 4, 4)
    xc, yc = x - x.mean(axis=0), y - y.mean(axis=0)
    u, _, vt = np.linalg.svd(xc.T @ yc)
    best = np.trace((xc @ (u @ vt)).T @ yc) / np.linalg.norm(xc) / np.linalg.norm(yc)
    assert similarity(x, y, "procrustes") == pytest.approx(best, abs=1e-12)


def test_linear_r2_is_the_share_that_least_squares_explains_and_has_a_direction():
    x, y = pair(30, 4, 6)
    xc, yc = x - x.mean(axis=0), y - y.mean(axis=0)
    rest = xc - yc @ np.linalg.lstsq(yc, xc, rcond=None)[0]
    assert similarity(x, y, "linear-r2") == pytest.approx(1 - (rest**2).sum() / (xc**2).sum(), abs=1e-12)
    assert similarity(y, x, "linear-r2") != pytest.approx(similarity(x, y, "linear-r2"), abs=1e-3)


# laws

sizes = st.tuples(st.integers(12, 40), st.integers(2, 30), st.integers(2, 30), st.integers(0, 2**32 - 1))


@given(sizes, st.sampled_from(WHOLE), st.floats(1e-6, 1e6))
@settings(deadline=None, max_examples=150)
def test_what_leaves_each_metric_as_it_is(size, metric, scale):
    n, p, q, seed = size
    x, y = pair(n, p, q, seed)
    random = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(random.normal(size=(p, p)))
    options, rows_alone = options_of(metric, n), metric in ("mutual-knn", "cknna")
    value = similarity(x, y, metric, **options)
    close = pytest.approx(value, abs=1e-7, nan_ok=True)
    if metric == "rsa":  # its correlations between features see a rotation
        assert similarity(scale * x, y, metric) == close
    else:
        assert similarity(scale * (x @ rotation) + (0 if rows_alone else 3), y, metric, **options) == close
    if METRICS[metric].is_symmetric:
        assert similarity(y, x, metric, **options) == close
    if metric != "cka-minibatch":  # which goes by the order of rows
        order = random.permutation(n)
        moved = {"groups": options["groups"][order]} if metric == "cka-within" else options
        assert similarity(x[order], y[order], metric, **moved) == close
    bounds = (-3, 3) if metric in ("cka-within", "cka-minibatch", "cknna") else (-1, 1)
    assert np.isnan(value) or bounds[0] <= value <= bounds[1] + 1e-9


@pytest.mark.parametrize("metric", WHOLE)
def test_a_representation_is_wholly_like_itself(metric):
    x, _ = pair(30, 5, 5)
    assert similarity(x, x, metric, **options_of(metric, 30)) == pytest.approx(
        1, abs=1e-4 if metric == "cknna" else 1e-12
    )


@pytest.mark.parametrize("metric", [name for name in WHOLE if name not in ("mutual-knn", "cknna")])
def test_a_constant_representation_is_undefined(metric):
    x, y = pair(20, 4, 4)
    for constant in (np.full_like(x, 0.1), np.zeros((20, 3))):
        assert np.isnan(similarity(constant, y, metric, **options_of(metric, 20)))
        assert np.isnan(similarity(y, constant, metric, **options_of(metric, 20)))


@pytest.mark.parametrize("metric", ["mutual-knn", "cknna"])
def test_rows_of_zeros_have_no_direction(metric):
    x, y = pair(20, 4, 4)
    x[3] = 0
    assert np.isnan(similarity(x, y, metric))
    assert np.isnan(similarity(y, x, metric))


def test_a_row_of_one_value_has_no_correlation():
    x, y = pair(20, 4, 4)
    x[3] = 0.1
    assert np.isnan(similarity(x, y, "rsa"))
    assert np.isfinite(similarity(x, y, "rsa", distance="euclidean"))


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        ("cka", {"k": 3}, "cka has no option k; it has none"),
        ("mutual-knn", {"n": 3}, "mutual-knn has no option n; it has k"),
        ("mutual-knn", {"k": 20}, "k: expected 1 to 19 neighbours among 20 rows, got 20"),
        ("cka-minibatch", {"batch": 3}, "batch: expected at least 4 rows, got 3"),
        ("cka-within", {}, "groups: expected one value for each of 20 rows, got none"),
        ("cka-within", {"groups": [1, 2]}, "groups: expected one value for each of 20 rows, got 2"),
        ("rsa", {"method": "kendall"}, "method 'kendall': expected one of spearman, pearson"),
        ("rsa", {"distance": "city"}, "distance 'city': expected one of correlation, euclidean"),
        ("svcca", {"variance": 1.5}, "variance: expected a share above 0 and up to 1, got 1.5"),
    ],
)
def test_options_that_mean_nothing_are_refused(metric, options, message):
    with pytest.raises(InvalidInput, match=re.escape(message)):
        similarity(*pair(20, 3, 3), metric, **options)


@pytest.mark.parametrize("scale", [2.0**-600, 2.0**600])
def test_measures_of_tiny_and_huge_numbers_are_the_same(scale):
    x, _ = pair(20, 5, 5)
    plain, scaled = measures(x), measures(scale * x)
    for name in plain:
        assert scaled[name] == pytest.approx(plain[name] * (scale if name.endswith("norm") else 1), rel=1e-12)


def test_measures_of_a_constant_are_undefined():
    found = measures(np.full((5, 3), 0.1))
    undefined = {name for name, value in found.items() if np.isnan(value)}
    assert undefined == {"participation_ratio", "effective_rank", "dims_90", "dims_95", "dims_99"}
    assert found["mean_cosine"] == pytest.approx(1)
    with pytest.raises(InvalidInput, match="at least 2 rows, got 1"):
        measures(np.ones((1, 3)))


def test_the_page_has_every_metric_with_its_options_and_source():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text("utf-8")
    rows = {cells[1].strip(" `"): line for line in page.splitlines() if len(cells := line.split("|")) > 4}
    for name, metric in METRICS.items():
        row = rows[name]
        assert metric.source in row, name
        assert all(f"`{option}`" in row for option in metric.options), name
        assert ("grows" in row) == metric.grows, name
        assert ("out of core" in row) == metric.is_streamed, name
    assert all(f"`{name}`" in page for name in measures(np.eye(4)))
