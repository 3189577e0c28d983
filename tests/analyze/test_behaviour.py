"""Agreement of outputs, against plain loops over whole distributions."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actlas.analyze.behaviour import Behaviour, behaviour
from actlas.store import InvalidInput, Mismatch, NotFound, Store
from tests.analyze.stores import put, store_of

N_TOP = 50


def outputs_of(logits: np.ndarray, target_nll: np.ndarray | None = None, n_top: int = N_TOP) -> dict[str, np.ndarray]:
    """Return what is stored of whole rows of logits (n, vocabulary)."""
    order = np.argsort(-logits, axis=1, kind="stable")[:, :n_top]
    log_sum_exp = np.log(np.exp(logits.astype(np.float64)).sum(axis=1))
    return {
        "top_token": order.astype(np.int32),
        "top_logit": np.take_along_axis(logits, order, axis=1).astype(np.float32),
        "log_sum_exp": log_sum_exp.astype(np.float32),
        "entropy": np.zeros(len(logits), np.float32),
        "target_nll": np.full(len(logits), np.nan, np.float32) if target_nll is None else target_nll,
    }


def compared(
    root: Path,
    a: dict[str, np.ndarray],
    b: dict[str, np.ndarray],
    *,
    rows: tuple[Any, Any] | None = None,
    groups: Sequence[object] | None = None,
) -> Behaviour:
    for model, outputs in (("a", a), ("b", b)):
        put(root, model, np.ones((1, len(outputs["entropy"]), 4), np.float32), outputs=outputs)
    store = store_of(root, {})
    entries = [store.entry(model=model, task="rte") for model in "ab"]
    rows_a, rows_b = rows or (np.arange(entries[0].n_examples),) * 2
    return behaviour(*entries, rows_a, rows_b, groups)


def distributions(n: int, vocabulary: int, spread: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    a = generator.normal(0, spread, (n, vocabulary))
    b = a + generator.normal(0, 0.7, a.shape)
    return a.astype(np.float32), b.astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def full_divergence(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    p, q = softmax(a), softmax(b)
    return np.asarray((p * np.log(p / q)).sum(axis=1))


def plain_bound(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bound and shared mass of every row, token by token."""
    found = []
    for p, q in zip(softmax(a), softmax(b), strict=True):
        both = set(np.argsort(-p)[:N_TOP]) & set(np.argsort(-q)[:N_TOP])
        rest_p, rest_q = (1 - sum(side[token] for token in both) for side in (p, q))
        terms = [p[token] * np.log(p[token] / q[token]) for token in both]
        found.append((sum(terms) + rest_p * np.log(rest_p / rest_q), 1 - rest_p))
    return tuple(np.array(found).T)


def test_the_bound_is_that_of_shared_tokens_and_one_bin_and_below_the_divergence(tmp_path: Path):
    a, b = distributions(120, 400)
    found = compared(tmp_path / "lab.act", outputs_of(a), outputs_of(b))
    bound, mass = plain_bound(a, b)
    assert found.kl.value == pytest.approx(bound.mean(), rel=1e-4)
    assert found.kl.se == pytest.approx(bound.std(ddof=1) / np.sqrt(120), rel=1e-4)
    assert found.shared_mass.value == pytest.approx(mass.mean(), rel=1e-5)
    full = full_divergence(a, b).mean()
    assert 0.3 * full < found.kl.value < full
    assert 0.5 < found.shared_mass.value < 1


@pytest.mark.parametrize("spread", [1.0, 8.0])
def test_where_every_token_is_stored_it_is_the_divergence(spread: float, tmp_path: Path):
    a, b = distributions(80, N_TOP, spread)
    found = compared(tmp_path / "lab.act", outputs_of(a), outputs_of(b))
    assert found.kl.value == pytest.approx(full_divergence(a, b).mean(), abs=2e-5)
    assert found.shared_mass.value == pytest.approx(1)


def test_what_rounding_hides_of_a_sure_model_is_not_infinitely_far(tmp_path: Path):
    """Both store the same 50 tokens; a gives a quarter to the others, b less than float32 can tell from nothing."""
    n, slopes = 40, np.linspace(1, 9, 40)[:, None]
    a = np.concatenate([np.zeros((n, 50)), np.full((n, 150), -np.log(9))], axis=1)
    b = np.concatenate([np.linspace(0, -1, 50) * slopes + 30, np.full((n, 150), -25.0)], axis=1)
    found = compared(tmp_path / "lab.act", outputs_of(a), outputs_of(b))
    assert found.shared_mass.value == pytest.approx(0.75)
    assert 1 < found.kl.value < full_divergence(a, b).mean()
    assert np.isfinite(found.kl.se)


def test_a_model_agrees_with_itself_exactly(tmp_path: Path):
    a, _ = distributions(40, 300)
    nll = np.arange(40, dtype=np.float32)
    found = compared(tmp_path / "lab.act", outputs_of(a, nll), outputs_of(a, nll))
    for mean, value in ((found.top_agreement, 1), (found.kl, 0), (found.nll_difference, 0)):
        assert (mean.value, mean.se, mean.n) == (value, 0, 40)


def test_nothing_shared_bounds_nothing_and_says_so(tmp_path: Path):
    a = np.tile(np.linspace(5, -5, 200, dtype=np.float32), (5, 1))
    found = compared(tmp_path / "lab.act", outputs_of(a), outputs_of(a[:, ::-1]))
    assert (found.kl.value, found.shared_mass.value, found.top_agreement.value) == (0, 0, 0)


def test_equal_logits_are_settled_by_the_token(tmp_path: Path):
    a = outputs_of(distributions(4, 90)[0])
    a["top_logit"][:, 1] = a["top_logit"][:, 0]
    b = {name: data.copy() for name, data in a.items()}
    for name in ("top_token", "top_logit"):
        b[name][:, :2] = a[name][:, 1::-1]
    assert compared(tmp_path / "lab.act", a, b).top_agreement.value == 1


def test_rows_pair_the_examples(tmp_path: Path):
    a, b = distributions(30, 60)
    order = np.random.default_rng(0).permutation(30)
    nll_a, nll_b = np.random.default_rng(1).normal(size=(2, 30)).astype(np.float32)
    rows = (np.arange(3, 30), np.argsort(order)[3:])
    shuffled = compared(tmp_path / "1.act", outputs_of(a, nll_a), outputs_of(b[order], nll_b[order]), rows=rows)
    straight = compared(tmp_path / "2.act", outputs_of(a[3:], nll_a[3:]), outputs_of(b[3:], nll_b[3:]))
    assert shuffled == straight
    assert straight.top_agreement.value == (a[3:].argmax(axis=1) == b[3:].argmax(axis=1)).mean()


def test_targets_count_where_both_likelihoods_are_finite(tmp_path: Path):
    a, b = distributions(6, 60)
    nll_a = np.array([1, 2, np.nan, 4, 5, 6], np.float32)
    nll_b = np.array([1.5, 3, 3, np.inf, 5, 4], np.float32)
    found = compared(tmp_path / "lab.act", outputs_of(a, nll_a), outputs_of(b, nll_b)).nll_difference
    differences = np.array([0.5, 1, 0, -2])
    assert (found.value, found.n) == (pytest.approx(-0.125), 4)
    assert found.se == pytest.approx(differences.std(ddof=1) / 2)


def test_without_targets_the_difference_is_not_defined(tmp_path: Path):
    found = compared(tmp_path / "lab.act", *map(outputs_of, distributions(6, 60))).nll_difference
    assert np.isnan([found.value, found.se]).all()
    assert found.n == 0


def test_an_example_whose_outputs_are_not_finite_is_left_out(tmp_path: Path):
    a, b = map(outputs_of, distributions(20, 60))
    a["top_logit"][7], a["log_sum_exp"][7] = np.nan, np.nan
    b["log_sum_exp"][9] = np.inf
    kept = np.delete(np.arange(20), [7, 9])
    found = compared(tmp_path / "1.act", a, b)
    expected = compared(tmp_path / "2.act", a, b, rows=(kept, kept))
    assert found.kl.n == found.top_agreement.n == 18
    assert np.isfinite(found.kl.value)
    assert dataclasses.replace(found, nll_difference=expected.nll_difference) == expected


def test_a_forbidden_token_is_infinitely_far(tmp_path: Path):
    a, b = distributions(3, N_TOP)
    b[1, a[1].argmax()] = -np.inf
    found = compared(tmp_path / "lab.act", outputs_of(a), outputs_of(b)).kl
    assert found.value == np.inf
    assert np.isnan(found.se)


def test_groups_are_left_out_whole(tmp_path: Path):
    a, b = distributions(40, 70)
    groups = [("source", row // 7) for row in range(39)] + ["alone"]
    found = compared(tmp_path / "lab.act", outputs_of(a), outputs_of(b), groups=groups).top_agreement
    agree = a.argmax(axis=1) == b.argmax(axis=1)
    labels = np.array([*(row // 7 for row in range(39)), 9])
    left = np.array([agree[labels != label].mean() for label in np.unique(labels)])
    g = len(left)
    assert found.se == pytest.approx(np.sqrt((g - 1) / g * ((left - left.mean()) ** 2).sum()))
    together = compared(tmp_path / "one.act", outputs_of(a), outputs_of(b), groups=["all"] * 40)
    assert np.isnan(together.kl.se)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    root, states, outputs = tmp_path / "lab.act", np.ones((1, 5, 4), np.float32), outputs_of(distributions(5, 60)[0])
    put(root, "a", states, outputs=outputs)
    put(root, "other-tokenizer", states, outputs=outputs, tokenizer="u")
    put(root, "plain", states)
    return store_of(root, {})


@pytest.mark.parametrize(
    ("model", "rows", "error", "message"),
    [
        ("other-tokenizer", 5, Mismatch, "one tokenizer"),
        ("plain", 5, NotFound, "plain/rte.*keeps no outputs; ingest the model with --outputs"),
        ("a", 4, InvalidInput, "one group an example, got 5 rows of a/rte.*, 4 of a/rte"),
    ],
)
def test_what_cannot_be_compared_is_said(store: Store, model: str, rows: int, error: type, message: str):
    entries = [store.entry(model=name, task="rte") for name in ("a", model)]
    with pytest.raises(error, match=message):
        behaviour(*entries, np.arange(5), np.arange(rows))
