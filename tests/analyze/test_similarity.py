"""CKA of two arrays against values that public libraries agree on, its laws, and its refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlas.analyze import METRICS, compare_table, similarity
from actlas.store import InvalidInput
from tests.analyze.stores import plain_biased, plain_cka, related, store_of

REFERENCE = Path(__file__).parents[1] / "data" / "reference"
CASES = json.loads((REFERENCE / "expected.json").read_text())["cases"]
NAMES = {"cka": "cka_linear_debiased", "cka-biased": "cka_linear_biased"}
STREAMED = [name for name, metric in METRICS.items() if metric.is_streamed]


def load(case: str) -> tuple[np.ndarray, np.ndarray]:
    return np.load(REFERENCE / CASES[case]["x"]), np.load(REFERENCE / CASES[case]["y"])


@pytest.mark.parametrize("metric", STREAMED)
@pytest.mark.parametrize("case", CASES)
def test_it_equals_what_public_libraries_agree_on(case: str, metric: str):
    expected = CASES[case]["expected"][NAMES[metric]]
    if not expected["usable"]:
        pytest.skip(expected.get("why") or "the libraries do not agree")
    assert similarity(*load(case), metric=metric) == pytest.approx(expected["value"], abs=expected["tol"])


sizes = st.tuples(st.integers(4, 40), st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))


@given(sizes)
@settings(deadline=None, max_examples=40)
def test_it_equals_the_definitions(size: tuple[int, int, int, int]):
    n, p, q, seed = size
    x, y = (side[0].astype(np.float64) for side in related(n, p, q, seed=seed))
    value = similarity(x, y)
    assert np.isnan(value) or value == pytest.approx(plain_cka(x, y), abs=1e-9)
    assert similarity(x, y, "cka-biased") == pytest.approx(plain_biased(x, y), abs=1e-9)


@given(sizes, st.sampled_from(STREAMED), st.floats(1e-6, 1e6))
@settings(deadline=None, max_examples=40)
def test_it_is_symmetric_and_blind_to_rotation_shift_scale_and_order(
    size: tuple[int, int, int, int], metric: str, scale: float
):
    n, p, q, seed = size[0] + 4, size[1] + 1, *size[2:]
    x, y = (side[0].astype(np.float64) for side in related(n, p, q, seed=seed))
    generator = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(generator.normal(size=(p, p)))
    order = generator.permutation(n)
    value = similarity(x, y, metric)
    close = pytest.approx(value, abs=1e-8, nan_ok=True)
    assert similarity(y, x, metric) == close
    assert similarity(scale * (x @ rotation) + 3.0, y, metric) == close
    assert similarity(x[order], y[order], metric) == close


@pytest.mark.parametrize("metric", STREAMED)
def test_a_representation_is_wholly_like_itself(metric: str):
    x, _ = related(30, 5, 5)
    assert similarity(x[0], x[0], metric) == pytest.approx(1, abs=1e-12)


def test_independent_data_is_near_zero_debiased_and_far_above_it_biased():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 100, 4096))
    assert abs(similarity(x, y)) < 0.02
    assert similarity(x, y, "cka-biased") == pytest.approx(0.976, abs=0.002)


def test_tiny_and_huge_numbers_change_nothing():
    x, y = (side[0].astype(np.float64) for side in related(50, 8, 6))
    for scale in (1e-300, 1e-150, 1e-5, 1e150, 1e307):
        assert similarity(x * scale, y * scale) == pytest.approx(similarity(x, y), abs=1e-10)


def test_a_constant_representation_is_undefined():
    x, y = (side[0] for side in related(20, 4, 4))
    assert np.isnan(similarity(np.full_like(x, 0.1), y))
    assert np.isnan(similarity(x, np.zeros((20, 3)), "cka-biased"))


def test_equally_distant_rows_have_no_structure():
    assert np.isnan(similarity(np.eye(6), np.random.default_rng(0).normal(size=(6, 3))))


def test_more_rows_than_a_tile_are_the_same_number():
    x, y = (side[0].astype(np.float64) for side in related(1100, 4, 3))
    assert similarity(x, y) == pytest.approx(plain_cka(x, y), abs=1e-10)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((5, 2)), np.zeros((6, 2)), "as many rows in y as in x, got 6 and 5"),
        (np.zeros((3, 2)), np.zeros((3, 2)), "at least 4 rows, got 3"),
        (np.zeros(5), np.zeros((5, 2)), r"x: expected a matrix .* got shape \(5,\)"),
        (np.zeros((5, 2)), np.zeros((5, 0)), r"y: expected a matrix .* got shape \(5, 0\)"),
        (
            np.zeros((5, 2)),
            np.array([[1.0], [2], [np.nan], [1], [np.inf]]),
            "y: 2 rows hold NaN or infinity .first: row 2",
        ),
        (np.array([["a"]] * 5), np.zeros((5, 2)), "x: expected numbers"),
        (np.zeros((5, 2), complex), np.zeros((5, 2)), "x: expected numbers"),
    ],
)
def test_bad_arrays_are_refused(x: np.ndarray, y: np.ndarray, message: str):
    with pytest.raises(InvalidInput, match=message):
        similarity(x, y)


def test_an_unknown_metric_is_refused_with_the_nearest():
    with pytest.raises(InvalidInput, match=r"no metric 'ckaa'; did you mean 'cka'"):
        similarity(np.zeros((5, 2)), np.zeros((5, 2)), "ckaa")


@pytest.mark.parametrize("memory", [1 << 30, 3 << 20])
@pytest.mark.parametrize("case", CASES)
def test_the_engine_gives_the_same_from_a_store(case: str, memory: int, tmp_path: Path):
    x, y = (side.astype(np.float32) for side in load(case))
    store = store_of(tmp_path / "lab.act", {"base": x[None], "tuned": y[None]})
    [row] = compare_table(store, ["base", "tuned"], memory=memory).itertuples()
    assert row.cka == pytest.approx(plain_cka(x, y), abs=1e-6)
    assert row.cka_biased == pytest.approx(plain_biased(x, y), abs=1e-6)
    for value, metric in ((row.cka, "cka"), (row.cka_biased, "cka-biased")):
        expected = CASES[case]["expected"][NAMES[metric]]
        if expected["usable"] and case != "c09_large_mean":  # float32 storage rounds its means of 1,000 deviations
            assert value == pytest.approx(expected["value"], abs=1e-6)
