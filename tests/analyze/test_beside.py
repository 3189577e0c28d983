"""compare: what is said beside CKA when it is asked for, through a real store."""

from pathlib import Path

import numpy as np
import pytest

from actlas.analyze import Means, Question, compare_table, explain
from actlas.analyze.null import permutation_test
from actlas.store import MemoryBudget, NotFound, open_store
from tests.analyze.stores import plain_cka, put, related, store_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "lab.act"


def gram(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x = x - x.mean(axis=0)
    return x @ x.T


def test_participation_is_that_of_its_side_whatever_the_order_of_layers(root: Path):
    x, y = related(50, 8, 12, n_layers=3)
    store = store_of(root, {"base": x, "tuned": y})
    table = compare_table(store, ["base", "tuned"], baselines=True)
    table = table[(table.entry_b != "") | table.model_b.str.endswith("(layer 0)")]
    sides = {"base": x, "tuned": y, "base (layer 0)": x[[0, 0, 0]], "tuned (layer 0)": y[[0, 0, 0]]}
    assert len(table) == 9
    for row in table.itertuples():
        for model, layer, found in (
            (row.model_a, row.layer_a, row.participation_a),
            (row.model_b, row.layer_b, row.participation_b),
        ):
            K = gram(sides[model][layer])
            assert found == pytest.approx(np.trace(K) ** 2 / (K**2).sum(), rel=1e-5)


def test_the_null_is_that_of_real_permutations(root: Path):
    x, y = related(60, 8, 8)
    [row] = compare_table(store_of(root, {"base": x, "tuned": y}), ["base", "tuned"], null=True).itertuples()
    drawn = permutation_test(gram(x[0]), gram(y[0]), permutations=4000).moments
    assert row.null_mean == pytest.approx(drawn.mean, abs=4 * drawn.sd / 4000**0.5)
    assert row.null_sd == pytest.approx(drawn.sd, rel=0.1)
    assert 0 <= row.p_value < 1e-6


def test_the_null_of_a_constant_side_is_not_a_number(root: Path):
    x, y = related(20, 8, 8)
    [row] = compare_table(
        store_of(root, {"base": np.ones_like(x), "tuned": y}), ["base", "tuned"], null=True, audit=True
    ).itertuples()
    assert np.isnan([row.null_sd, row.p_value, row.cka_zscored, row.largest_row_a]).all()
    assert row.reason == "constant representation"


def test_what_needs_whole_matrices_is_refused_beyond_the_budget(root: Path):
    x, y = related(300, 8, 8)
    store = store_of(root, {"base": x, "tuned": y})
    with pytest.raises(MemoryBudget, match="null: 300 rows of 8 and 8 features need"):
        compare_table(store, ["base", "tuned"], null=True, memory=1 << 20)


def test_the_audit_finds_a_dimension_that_carries_everything(root: Path):
    x, y = related(200, 30, 30)
    x[0], y[0] = np.random.default_rng(1).normal(size=(2, 200, 30))  # nothing in common ...
    x[0, :, 5] = y[0, :, 7] = 30 * np.random.default_rng(2).normal(size=200)  # ... but one large feature
    [row] = compare_table(store_of(root, {"base": x, "tuned": y}), ["base", "tuned"], audit=True).itertuples()
    assert row.cka > 0.99
    assert row.cka_without_top_3 < 0.1
    assert row.cka_zscored == pytest.approx(plain_cka(*((s - s.mean(0)) / s.std(0) for s in (x[0], y[0]))), abs=1e-6)
    assert row.top_variance_a == pytest.approx(x[0, :, 5].var() / x[0].var(axis=0).sum(), rel=1e-4)
    assert row.first_eigenvalue_a > 0.9
    assert "first eigenvalue over half of |K|^2" in row.flags


def test_the_audit_names_the_row_that_carries_everything(root: Path):
    x, y = related(60, 8, 8)
    x[0], y[0] = np.random.default_rng(1).normal(size=(2, 60, 8))
    x[0, 17] *= 100
    y[0, 17] *= 100
    store = store_of(root, {"base": x, "tuned": y})
    [row] = compare_table(store, ["base", "tuned"], audit=True).itertuples()
    K = gram(x[0])
    assert row.largest_row_a == pytest.approx(((K**2).sum(axis=1) / (K**2).sum()).max(), rel=1e-5)
    assert row.most_influential == store.entry(model="base", task="rte").example_ids[17]
    kept = [one for one in range(60) if one != 17]
    assert row.influence == pytest.approx(plain_cka(x[0, kept], y[0, kept]) - row.cka, abs=1e-5)
    assert "one row over a tenth of |K|^2" in row.flags


def test_the_audit_names_the_source_that_carries_everything(root: Path):
    x, y = related(40, 8, 8)
    x[0, 8:12] *= 100
    y[0, 8:12] *= 100
    sources = [f"source {row // 4}" for row in range(40)]
    store = store_of(root, {"base": x, "tuned": y}, columns={"source_id": sources})
    [row] = compare_table(store, ["base", "tuned"], audit=True).itertuples()
    assert row.most_influential == "source 2"


def test_behaviour_is_beside_representation_where_outputs_were_kept(root: Path):
    x, y = related(30, 8, 8, n_layers=2)
    generator = np.random.default_rng(0)

    def outputs(shift: int) -> dict[str, np.ndarray]:
        tokens = np.tile(np.arange(50, dtype=np.int32), (30, 1))
        tokens[:6] = np.roll(tokens[:6], shift, axis=1)
        logits = np.sort(generator.normal(size=(30, 50)).astype(np.float32))[:, ::-1].copy()
        total = np.log(np.exp(logits).sum(axis=1) + 1).astype(np.float32)
        nll = np.full(30, 2.0 + shift, np.float32)
        return {"top_token": tokens, "top_logit": logits, "log_sum_exp": total, "entropy": total, "target_nll": nll}

    put(root, "base", x, outputs=outputs(0))
    put(root, "tuned", y, outputs=outputs(1))
    table = compare_table(open_store(root), ["base", "tuned"], behaviour=True, baselines=True)
    pairs = table[table.entry_b != ""]
    assert pairs["top_agreement"].tolist() == [0.8, 0.8]
    assert pairs["nll_difference"].tolist() == [1.0, 1.0]
    assert (pairs["kl"] > 0).all()
    assert table[table.entry_b == ""]["top_agreement"].isna().all()
    put(root, "third", x)
    with pytest.raises(NotFound, match="outputs"):
        compare_table(open_store(root), ["base", "third"], behaviour=True)


def test_an_audit_that_does_not_fit_is_refused_before_anything_is_read(root: Path, monkeypatch: pytest.MonkeyPatch):
    x, y = related(600, 64, 64)
    store = store_of(root, {"base": x, "tuned": y})
    asked = Question.of(["base", "tuned"], audit=True)
    plain, scored, without = explain(store, asked)["peak_bytes"]
    assert scored > plain == without
    monkeypatch.setattr("actlas.store.entry.Entry.read", lambda *_: pytest.fail("read"))
    smallest = explain(store, asked, Means(memory=int(scored)))["peak_bytes"].max()
    assert smallest <= scored
    with pytest.raises(MemoryBudget, match="needs at least"):
        compare_table(store, ["base", "tuned"], audit=True, memory=1 << 20)
