"""compare: joins, row sets, refusals, and the numbers through a real store."""

from pathlib import Path

import dask
import ml_dtypes
import numpy as np
import pytest

from actlas.analyze import Question, compare, compare_table
from actlas.store import Corrupt, InvalidInput, Mismatch, NotFound, Store, open_store
from tests.analyze.stores import plain_biased, plain_cka, plain_jackknife, put, related, store_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "lab.act"


def pair_store(root: Path, n: int = 60, n_layers: int = 3) -> tuple[Store, np.ndarray, np.ndarray]:
    x, y = related(n, 16, 12, n_layers=n_layers)
    return store_of(root, {"base": x, "tuned": y}), x, y


def test_matched_layers_are_compared_by_id_with_error_and_counts(root: Path):
    store, x, y = pair_store(root)
    table = compare_table(store, ["base", "tuned"])
    assert table["layer_a"].tolist() == table["layer_b"].tolist() == [0, 1, 2]
    for layer, row in enumerate(table.itertuples()):
        assert row.cka == pytest.approx(plain_cka(x[layer], y[layer]), abs=1e-6)
        assert row.cka_biased == pytest.approx(plain_biased(x[layer], y[layer]), abs=1e-6)
        assert row.cka_se == pytest.approx(plain_jackknife(x[layer], y[layer], range(60)), rel=1e-4)
        assert (row.n, row.groups, row.dropped, row.unmatched, row.p, row.q) == (60, 60, 0, 0, 16, 12)
        assert row.flags == "rows assumed independent"
        assert row.reason == ""
    assert table["entry_a"].unique().tolist() == [store.entry(model="base", task="rte").id]


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16])
def test_half_precision_is_compared_as_it_is_stored(root: Path, dtype: object):
    x, y = (side.astype(dtype) for side in related(80, 20, 20))
    table = compare_table(store_of(root, {"base": x, "tuned": y}), ["base", "tuned"])
    assert table["cka"][0] == pytest.approx(plain_cka(x[0].astype(float), y[0].astype(float)), abs=1e-6)


def test_rows_are_joined_by_example_whatever_their_order(root: Path):
    x, y = related(50, 8, 8)
    order = np.random.default_rng(0).permutation(50)
    put(root, "base", x)
    put(root, "tuned", y[:, order], ids=order.tolist())
    assert compare_table(open_store(root), ["base", "tuned"])["cka"][0] == pytest.approx(
        plain_cka(x[0], y[0]), abs=1e-6
    )


def test_only_shared_examples_count_and_the_others_are_said(root: Path):
    x, y = related(50, 8, 8)
    put(root, "base", x[:, :40], ids=range(40))
    put(root, "tuned", y[:, 10:], ids=range(10, 50))
    [row] = compare_table(open_store(root), ["base", "tuned"]).itertuples()
    assert (row.n, row.unmatched) == (30, 20)
    assert row.cka == pytest.approx(plain_cka(x[0, 10:40], y[0, 10:40]), abs=1e-6)


def test_rows_that_are_not_finite_are_dropped_from_both_sides_together(root: Path):
    x, y = related(60, 8, 8, n_layers=2)
    x[1, 3, 2], y[1, 40, 0] = np.nan, np.inf
    table = compare_table(store_of(root, {"base": x, "tuned": y}), ["base", "tuned"])
    assert table["dropped"].tolist() == [0, 2]
    kept = [row for row in range(60) if row not in (3, 40)]
    assert table["cka"][0] == pytest.approx(plain_cka(x[0], y[0]), abs=1e-6)
    assert table["cka"][1] == pytest.approx(plain_cka(x[1, kept], y[1, kept]), abs=1e-6)
    assert table["cka_se"][1] == pytest.approx(plain_jackknife(x[1, kept], y[1, kept], kept), rel=1e-4)


def test_losing_over_a_tenth_of_the_rows_is_nan_with_the_reason(root: Path):
    x, y = related(50, 8, 8)
    x[0, :6] = np.nan
    [row] = compare_table(store_of(root, {"base": x, "tuned": y}), ["base", "tuned"]).itertuples()
    assert np.isnan([row.cka, row.cka_se]).all()
    assert row.reason == "6 of 50 rows are not finite"


def test_a_third_model_that_loses_rows_changes_no_bit_of_the_others(root: Path):
    x, y = related(60, 8, 8)
    z = related(60, 8, 8, seed=5)[0]
    z[0, :5] = np.nan
    store = store_of(root, {"base": x, "tuned": y, "third": z})
    [alone] = compare_table(store, ["base", "tuned"]).to_dict("records")
    table = compare_table(store, ["third", "base", "tuned"])
    assert table[(table.model_a == "base") & (table.model_b == "tuned")].to_dict("records") == [alone]
    assert sorted(table["n"]) == [55, 55, 60]


def test_the_jackknife_deletes_whole_sources_where_the_task_names_them(root: Path):
    x, y = related(60, 8, 8)
    sources = [f"source {row % 12}" for row in range(60)]
    store = store_of(root, {"base": x, "tuned": y}, columns={"source_id": sources})
    [row] = compare_table(store, ["base", "tuned"]).itertuples()
    assert (row.n, row.groups, row.flags) == (60, 12, "")
    assert row.cka == pytest.approx(plain_cka(x[0], y[0]), abs=1e-6)
    assert row.cka_se == pytest.approx(plain_jackknife(x[0], y[0], sources), rel=1e-4)


def test_examples_without_a_source_stand_alone(root: Path):
    x, y = related(20, 8, 8)
    sources = ["a", "a", "a", *[None] * 17]
    [row] = compare_table(
        store_of(root, {"base": x, "tuned": y}, columns={"source_id": sources}), ["base", "tuned"]
    ).itertuples()
    assert row.groups == 18


def test_four_examples_give_cka_and_the_reason_for_the_missing_error(root: Path):
    x, y = related(4, 8, 8)
    [row] = compare_table(store_of(root, {"base": x, "tuned": y}), ["base", "tuned"]).itertuples()
    assert np.isfinite(row.cka)
    assert np.isnan(row.cka_se)
    assert "under 4 rows remain" in row.reason
    assert "n < p" in row.flags


def test_all_layers_are_every_pair_once(root: Path):
    store, x, y = pair_store(root)
    table = compare_table(store, ["base", "tuned"], layers="all")
    assert len(table) == 6 * 7 // 2
    states = {"base": x, "tuned": y}
    for row in table.itertuples():
        expected = plain_cka(states[row.model_a][row.layer_a], states[row.model_b][row.layer_b])
        assert row.cka == pytest.approx(expected, abs=1e-6)


def test_models_of_unequal_depth_need_all_layers(root: Path):
    x, y = related(30, 8, 8, n_layers=3)
    store = store_of(root, {"base": x, "tuned": y[:2]})
    with pytest.raises(InvalidInput, match=r"base keeps 3 layers .* tuned keeps 2 .* use --layers relative, all"):
        compare_table(store, ["base", "tuned"])
    assert len(compare_table(store, ["base", "tuned"], layers="all")) == 5 * 6 // 2


def test_small_tiles_of_a_large_store_are_the_same_numbers(root: Path):
    x, y = related(2300, 24, 24)
    store = store_of(root, {"base": x, "tuned": y})
    [row] = compare_table(store, ["base", "tuned"]).to_dict("records")
    [tight] = compare_table(store, ["base", "tuned"], memory=6 << 20).to_dict("records")
    assert row == tight
    assert row["cka"] == pytest.approx(plain_cka(x[0], y[0]), abs=1e-6)


def test_the_dataset_has_named_dimensions_and_units(root: Path):
    x, y = related(30, 8, 8, n_layers=2)
    put(root, "base", x)
    put(root, "tuned", y)
    put(root, "base", y, task="sst2")
    put(root, "tuned", x, task="sst2")
    dataset = compare(open_store(root), ["base", "tuned"])
    assert dataset["cka"].dims == ("pair", "task", "layer")
    assert dataset["task"].to_numpy().tolist() == ["rte", "sst2"]
    assert dataset["model_b"].to_numpy().tolist() == ["tuned"]
    assert dataset["cka"].attrs["units"] == "1"
    value = dataset["cka"].sel(pair="base|tuned", task="rte", layer=1).item()
    assert value == pytest.approx(plain_cka(x[1], y[1]), abs=1e-6)
    every = compare(open_store(root), ["base", "tuned"], tasks="rte", layers="all")
    assert every["cka"].dims == ("pair", "task", "layer_a", "layer_b")


def test_tasks_are_chosen_by_name_and_pattern(root: Path):
    x, y = related(10, 4, 4)
    for task in ("anli_r1", "anli_r2", "rte"):
        put(root, "base", x, task=task)
        put(root, "tuned", y, task=task)
    store = open_store(root)
    assert compare_table(store, ["base", "tuned"], tasks="anli_*")["task"].tolist() == ["anli_r1", "anli_r2"]
    assert compare_table(store, ["base", "tuned"], tasks=["rte"])["task"].tolist() == ["rte"]
    with pytest.raises(NotFound, match=r"no task fits 'rtee'; did you mean 'rte'"):
        compare_table(store, ["base", "tuned"], tasks=["rte", "rtee"])


def test_renderings_are_compared_when_asked(root: Path):
    x, y = related(20, 4, 4)
    put(root, "base", x)
    put(root, "base", y, rendering="chat")
    [row] = compare_table(open_store(root), ["base", "base:chat"]).itertuples()
    assert (row.model_a, row.model_b) == ("base", "base:chat")
    with pytest.raises(NotFound, match=r"no entry with rendering 'plain' .* it has base:chat, base:raw"):
        compare_table(open_store(root), ["base", "base:plain"])


def test_another_plan_is_said(root: Path):
    x, y = related(20, 4, 4)
    put(root, "base", x)
    put(root, "tuned", y, plan="other")
    assert "plans differ" in compare_table(open_store(root), ["base", "tuned"])["flags"][0]


def test_other_tokens_under_one_tokenizer_are_refused_and_under_another_allowed(root: Path):
    x, y = related(20, 4, 4)
    tokens = [f"{row:032x}" for row in range(20)]
    put(root, "base", x)
    put(root, "tuned", y, tokens=tokens)
    put(root, "foreign", y, tokens=tokens, tokenizer="other")
    with pytest.raises(Mismatch, match="base and tuned saw different tokens for 20 of 20 shared examples"):
        compare_table(open_store(root), ["base", "tuned"])
    assert np.isfinite(compare_table(open_store(root), ["base", "foreign"])["cka"][0])


@pytest.mark.parametrize("shared", [0, 3])
def test_fewer_than_four_shared_examples_are_refused(root: Path, shared: int):
    x, y = related(10, 4, 4)
    put(root, "base", x)
    put(root, "tuned", y, ids=range(10 - shared, 20 - shared))
    with pytest.raises(InvalidInput, match=f"base and tuned share {shared} examples, expected at least 4"):
        compare_table(open_store(root), ["base", "tuned"])


def test_models_without_a_common_task_are_refused(root: Path):
    x, y = related(10, 4, 4)
    put(root, "base", x)
    put(root, "tuned", y, task="sst2")
    with pytest.raises(NotFound, match="share no task, so nothing can be compared: base has rte; tuned has sst2"):
        compare_table(open_store(root), ["base", "tuned"])


def test_pairs_that_share_no_task_are_left_out_beside_those_that_do(root: Path):
    x, y = related(10, 4, 4)
    put(root, "base", x)
    put(root, "base", y, task="sst2")
    put(root, "control-rte", y)
    put(root, "control-sst2", x, task="sst2")
    table = compare_table(open_store(root), ["base", "control-rte", "control-sst2"])
    assert sorted(zip(table.model_b, table.task, strict=True)) == [("control-rte", "rte"), ("control-sst2", "sst2")]


@pytest.mark.parametrize(
    ("models", "message"),
    [(["base"], "at least two models to compare, got 1"), (["base", "base"], "asked for base twice")],
)
def test_too_few_models_are_refused(root: Path, models: list[str], message: str):
    store, _, _ = pair_store(root, 5, 1)
    with pytest.raises(InvalidInput, match=message):
        compare_table(store, models)


def test_unknown_models_and_layers_are_refused(root: Path):
    store, _, _ = pair_store(root, 5, 1)
    with pytest.raises(NotFound, match="no model 'tunedd'; did you mean 'tuned'"):
        compare_table(store, ["base", "tunedd"])
    with pytest.raises(InvalidInput, match=r"expected matched, relative, all, or a list such as .*, got 'some'"):
        compare_table(store, ["base", "tuned"], layers="some")  # type: ignore[arg-type]


def test_a_damaged_chunk_is_an_error_and_never_a_number(root: Path):
    store, _, _ = pair_store(root)
    [shard] = (Path(store.entry(model="tuned", task="rte").location) / "hidden_states").glob("c*")
    shard.chmod(0o644)
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 16
    shard.write_bytes(data)
    with pytest.raises(Corrupt, match="does not fit its checksum"):
        compare_table(open_store(root), ["base", "tuned"])


def test_progress_tells_the_passes(root: Path):
    store, _, _ = pair_store(root)
    seen: list[tuple[int, int, str]] = []
    compare_table(store, ["base", "tuned"], progress=lambda *step: seen.append(step))
    assert seen == [(0, 1, "rte")]


def test_one_pass_serves_all_pairs_of_one_row_set(root: Path, monkeypatch: pytest.MonkeyPatch):
    x, y = related(30, 8, 8, n_layers=3)
    store = store_of(root, {"base": x, "tuned": y, "third": x + y})
    reads: list[int] = []
    read = type(store.entry(model="base", task="rte")).read

    def counting(entry: object, layer: int, examples: object) -> np.ndarray:
        reads.append(layer)
        return read(entry, layer, examples)  # type: ignore[arg-type]

    monkeypatch.setattr("actlas.store.entry.Entry.read", counting)
    compare_table(store, ["base", "tuned", "third"], layers="all")
    assert sorted(reads) == sorted([0, 1, 2] * 3)


def test_asking_for_cells_computes_nothing(root: Path):
    from actlas.analyze.blocks import blocks_of
    from actlas.analyze.work import Work, plans, prepare

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed")

    store, _, _ = pair_store(root)
    with dask.config.set(scheduler=refuse):
        asked = Question.of(["base", "tuned"])
        work = Work(question=asked, blocks=tuple(blocks_of(store, asked)), memory=1 << 30, depth="size")
        [cells] = prepare(store, work)
        [plan] = plans(work, [cells])
    assert len(cells) == 3
    assert plan.n_reads == 1


@pytest.mark.parametrize("n_in_one_group", [250, 290])
def test_a_group_that_holds_most_rows_and_an_outlier_leave_the_error_exact(root: Path, n_in_one_group: int):
    x, y = related(300, 32, 32)
    x[:, 7] *= 100
    y[:, 7] *= 100
    sources = ["most"] * n_in_one_group + [f"source {row}" for row in range(300 - n_in_one_group)]
    store = store_of(root, {"base": x, "tuned": y}, columns={"source_id": sources})
    [row] = compare_table(store, ["base", "tuned"]).itertuples()
    assert row.cka_se == pytest.approx(plain_jackknife(x[0], y[0], sources), rel=1e-6)


def test_numbers_at_the_ends_of_float32_are_compared(root: Path):
    x, y = related(300, 8, 8)
    huge, tiny = x / np.abs(x).max() * np.float32(3.2e38), x * np.float32(1e-38)
    for name, states in (("huge", huge), ("tiny", tiny)):
        [row] = compare_table(
            store_of(root.with_name(name), {"base": states, "tuned": y}), ["base", "tuned"]
        ).itertuples()
        scaled = states[0].astype(np.float64) / np.abs(states[0]).max()
        assert row.cka == pytest.approx(plain_cka(scaled, y[0]), abs=1e-6)
        assert np.isfinite(row.cka_se)


@pytest.mark.parametrize("n", [60, 300])
def test_a_representation_that_one_group_makes_has_no_error(root: Path, n: int):
    x, y = related(n, 8, 8)
    sources = [f"source {row // 5}" for row in range(n)]
    x[0, 2:] = x[0, 5]
    store = store_of(root, {"base": x, "tuned": y}, columns={"source_id": sources})
    [row] = compare_table(store, ["base", "tuned"]).itertuples()
    assert np.isnan(row.cka_se)
    assert row.reason == "no standard error: a representation has no structure left when one group is left out"


def test_sources_count_whichever_of_the_models_names_them(root: Path):
    x, y = related(40, 8, 8)
    put(root, "base", x, columns={"source_id": [f"source {row % 10}" for row in range(40)]})
    put(root, "tuned", y)
    for models in (["base", "tuned"], ["tuned", "base"]):
        [row] = compare_table(open_store(root), models).itertuples()
        assert (row.groups, row.flags) == (10, "")


def test_other_sources_for_the_same_examples_are_refused(root: Path):
    x, y = related(12, 8, 8)
    put(root, "base", x, columns={"source_id": ["1", "11", "1", "11", *"23456789"]})
    put(root, "tuned", y, columns={"source_id": ["11", "1", "1", "11", *"23456789"]})
    with pytest.raises(Mismatch, match="ingested with another source_id for 2 shared examples"):
        compare_table(open_store(root), ["base", "tuned"])


def test_pairs_with_other_sources_share_no_pass(root: Path):
    x, y = related(12, 8, 8)
    put(root, "plain", related(12, 8, 8, seed=4)[0])
    put(root, "base", x, columns={"source_id": ["1", "11", "1", "11", *"23456789"]})
    put(root, "tuned", y, task="rte", columns={"template_id": ["a"] * 12})
    store = open_store(root)
    [alone] = compare_table(store, ["plain", "tuned"]).to_dict("records")
    table = compare_table(store, ["base", "plain", "tuned"])
    assert table[(table.model_a == "plain") & (table.model_b == "tuned")].to_dict("records") == [alone]
    assert sorted(table["groups"]) == [10, 10, 12]


def test_sources_may_be_numbers_and_unnamed_ones_stand_alone(root: Path):
    x, y = related(30, 8, 8)
    store = store_of(root, {"base": x, "tuned": y}, columns={"source_id": [row // 10 for row in range(30)]})
    assert compare_table(store, ["base", "tuned"])["groups"].tolist() == [3]
    nameless = store_of(root.with_name("b.act"), {"base": x, "tuned": y}, columns={"source_id": [None] * 30})
    [row] = compare_table(nameless, ["base", "tuned"]).itertuples()
    assert (row.groups, row.flags) == (30, "rows assumed independent")
