"""What a comparison can be asked for: pairs, layers, rows, baselines, differences."""

from pathlib import Path

import numpy as np
import pytest

from actlas.analyze import Question, ask, compare, compare_table
from actlas.store import InvalidInput, NotFound, open_store
from tests.analyze.stores import plain_cka, put, related, store_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "lab.act"


def three(root: Path, n: int = 60, n_layers: int = 3):
    x, y = related(n, 8, 8, n_layers=n_layers)
    z = related(n, 8, 8, n_layers=n_layers, seed=9)[1] + x
    return store_of(root, {"base": x, "tuned": y, "third": z}), x, y, z


def models_of(table) -> list[tuple[str, str]]:
    return list(dict.fromkeys(zip(table["model_a"], table["model_b"], strict=True)))


def test_pairs_are_all_or_with_one_model_or_consecutive(root: Path):
    store, *_ = three(root)
    names = ["base", "tuned", "third"]
    assert models_of(compare_table(store, names)) == [("base", "tuned"), ("base", "third"), ("tuned", "third")]
    assert models_of(compare_table(store, names, pairs="ref:third")) == [("third", "base"), ("third", "tuned")]
    assert models_of(compare_table(store, names, pairs="consecutive")) == [("base", "tuned"), ("tuned", "third")]
    with pytest.raises(NotFound, match=r"pairs 'ref:thrd': 'thrd' is not among the models named; did you mean 'third'"):
        compare_table(store, names, pairs="ref:thrd")
    with pytest.raises(InvalidInput, match=r"pairs 'some': expected all, consecutive or ref:MODEL"):
        compare_table(store, names, pairs="some")


def test_a_list_of_layers_is_matched_and_must_be_kept_by_both(root: Path):
    store, x, y, _ = three(root)
    table = compare_table(store, ["base", "tuned"], layers="0,-1")
    assert table["layer_a"].tolist() == table["layer_b"].tolist() == [0, 2]
    assert table["cka"][1] == pytest.approx(plain_cka(x[2], y[2]), abs=1e-6)
    with pytest.raises(InvalidInput, match=r"the entry has layers 0, 1, 2, got 7; name layers that every model keeps"):
        compare_table(store, ["base", "tuned"], layers="0,7")


def test_relative_layers_pair_equal_depths_whichever_model_is_deeper(root: Path):
    deep, shallow = related(40, 8, 8, n_layers=9)[0], related(40, 8, 8, n_layers=3)[1]
    store = store_of(root, {"deep": deep, "shallow": shallow})
    for names in (["deep", "shallow"], ["shallow", "deep"]):
        table = compare_table(store, names, layers="relative")
        of = {name: table[f"layer_{side}"].tolist() for name, side in zip(names, "ab", strict=True)}
        assert of == {"deep": [0, 4, 8], "shallow": [0, 1, 2]}
    assert compare(store, ["deep", "shallow"], layers="relative").sizes["layer_a"] == 3


def test_examples_are_chosen_by_their_columns(root: Path):
    x, y = related(40, 8, 8)
    columns = {"label": ["yes", "no", None, "no"] * 10, "template_id": [row % 5 for row in range(40)]}
    store = store_of(root, {"base": x, "tuned": y}, columns=columns)

    def kept(where: str) -> int:
        return int(compare_table(store, ["base", "tuned"], where=where)["n"][0])

    chosen = [row for row in range(40) if row % 4 in (1, 3) and row % 5 in (1, 2)]
    [row] = compare_table(store, ["base", "tuned"], where='label == "no" and template_id in (1, 2)').itertuples()
    assert (row.n, row.unmatched) == (len(chosen), 0)
    assert row.cka == pytest.approx(plain_cka(x[0, chosen], y[0, chosen]), abs=1e-6)
    assert kept("not template_id >= 2") == 16
    assert kept("1 <= template_id < 3") == 16
    assert kept("label == None or label != 'no'") == 20
    with pytest.raises(
        InvalidInput, match=r"task 'rte' has no column colour; it has label, prompt, target, template_id"
    ):
        kept("colour == 1")
    with pytest.raises(
        InvalidInput, match=r"task 'rte': 0 of 40 shared examples fit 'template_id > 9', expected at least 4"
    ):
        kept("template_id > 9")
    with pytest.raises(InvalidInput, match=r"where 'label < 3', task 'rte': '<' not supported"):
        kept("label < 3")


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "label.upper() == 'YES'",
        "label[0] == 'y'",
        "(lambda: 1)()",
        "label ==",
        "label is None",
        "1 + 1",
    ],
)
def test_nothing_but_comparisons_is_an_expression(expression: str):
    with pytest.raises(InvalidInput, match=r"where .*: expected comparisons of columns with values"):
        Question.of(["base", "tuned"], where=expression)


def test_a_number_of_examples_is_drawn_the_same_for_every_pair(root: Path):
    store, *_ = three(root)
    table = compare_table(store, ["base", "tuned", "third"], layers="0", match_n=20)
    again = compare_table(store, ["base", "tuned"], layers="0", match_n=20)
    assert table["n"].tolist() == [20, 20, 20]
    assert table["cka"][0] == again["cka"][0]
    assert compare_table(store, ["base", "tuned"], layers="0", match_n=20, seed=1)["cka"][0] != again["cka"][0]
    more = compare_table(store, ["base", "tuned"], layers="0", match_n=61)
    assert np.isnan(more["cka"][0])
    assert more["reason"][0] == "60 rows, asked for 61"


def test_a_draw_does_not_depend_on_examples_that_it_does_not_take(root: Path):
    x, y = related(60, 8, 8)
    y[0, :5] = np.nan  # these can not be drawn
    store = store_of(root, {"base": x, "tuned": y})
    clean = store_of(root.with_name("clean"), {"base": x[:, 5:], "tuned": y[:, 5:]}, ids=range(5, 60))
    values = [compare_table(one, ["base", "tuned"], match_n=20)["cka"][0] for one in (store, clean)]
    assert values[0] == values[1]


def test_a_small_share_of_common_examples_is_refused_when_that_is_asked(root: Path):
    x, y = related(50, 8, 8)
    put(root, "base", x)
    put(root, "tuned", y[:, :20], ids=range(20))
    store = open_store(root)
    assert compare_table(store, ["base", "tuned"], min_shared=0.4)["n"][0] == 20
    with pytest.raises(InvalidInput, match=r"base and tuned share 20 of 50 examples, expected at least 50%"):
        compare_table(store, ["base", "tuned"], min_shared=0.5)


def test_a_difference_has_its_own_paired_error(root: Path):
    store, x, y, z = three(root)
    asked = Question.of(["base", "tuned", "third"], pairs="ref:base", layers="1", differences=True)
    [row] = ask(store, asked).differences.itertuples()
    assert (row.reference, row.model_a, row.model_b, row.layer, row.n) == ("base", "tuned", "third", 1, 60)
    assert row.difference == pytest.approx(plain_cka(x[1], y[1]) - plain_cka(x[1], z[1]), abs=1e-6)
    left = [np.delete(np.arange(60), one) for one in range(60)]
    theta = np.array([plain_cka(x[1, kept], y[1, kept]) - plain_cka(x[1, kept], z[1, kept]) for kept in left])
    assert row.se == pytest.approx(np.sqrt(59 / 60 * ((theta - theta.mean()) ** 2).sum()), rel=1e-6)
    assert row.z == pytest.approx(row.difference / row.se)


def test_a_difference_is_taken_on_the_rows_that_all_three_have(root: Path):
    x, y = related(60, 8, 8)
    z = related(60, 8, 8, seed=9)[1]
    y[0, 3], z[0, 7] = np.nan, np.inf
    store = store_of(root, {"base": x, "tuned": y, "third": z})
    asked = Question.of(["base", "tuned", "third"], pairs="ref:base", differences=True)
    answer = ask(store, asked)
    kept = [row for row in range(60) if row not in (3, 7)]
    [row] = answer.differences.itertuples()
    assert answer.table["n"].tolist() == [59, 59]
    assert (row.n, row.reason) == (58, "")
    assert row.cka_a == pytest.approx(plain_cka(x[0, kept], y[0, kept]), abs=1e-6)
    assert row.cka_b == pytest.approx(plain_cka(x[0, kept], z[0, kept]), abs=1e-6)


def test_three_models_have_three_differences_and_all_pairs_of_layers_none(root: Path):
    store, *_ = three(root)
    asked = Question.of(["base", "tuned", "third"], layers="0", differences=True)
    found = ask(store, asked).differences
    assert found[["reference", "model_a", "model_b"]].values.tolist() == [
        ["base", "tuned", "third"],
        ["tuned", "base", "third"],
        ["third", "base", "tuned"],
    ]
    with pytest.raises(InvalidInput, match="differences compare a layer with the same layer"):
        Question.of(["base", "tuned", "third"], layers="all", differences=True)


def test_baselines_are_layer_0_lengths_and_templates(root: Path):
    x, y = related(60, 8, 8, n_layers=2)
    templates = [row % 3 for row in range(60)]
    store = store_of(root, {"base": x, "tuned": y}, columns={"template_id": templates})
    table = compare_table(store, ["base", "tuned"], baselines=True)
    names = [f"{model} {one}" for model in ("base", "tuned") for one in ("(layer 0)", "(prompt length)", "(template)")]
    assert table["model_b"].unique().tolist() == ["tuned", *names]
    row = table[(table.model_a == "tuned") & (table.model_b == "tuned (layer 0)") & (table.layer_a == 1)].iloc[0]
    assert (row.layer_b, row.entry_b) == (1, "")
    assert row.cka == pytest.approx(plain_cka(y[1], y[0]), abs=1e-6)
    row = table[(table.model_b == "base (template)") & (table.layer_a == 1)].iloc[0]
    assert row.cka == pytest.approx(plain_cka(x[1], np.eye(3)[templates]), abs=1e-6)
    lengths = table[table.model_b == "base (prompt length)"]
    assert lengths["reason"].tolist() == ["constant representation"] * 2  # every prompt of this store has one token
    alone = compare_table(store, ["base", "tuned"])
    assert table[table.model_b == "tuned"].to_dict("records") == alone.to_dict("records")
