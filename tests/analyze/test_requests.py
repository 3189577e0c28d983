"""Metrics beside CKA, asked for in a comparison from a store."""

from pathlib import Path

import numpy as np
import pytest

from actlas.analyze import METRICS, compare, compare_table, similarity
from actlas.analyze.requests import parse_request
from actlas.store import InvalidInput, MemoryBudget, open_store
from tests.analyze.stores import put, related, store_of

ASKED = ("procrustes", "linear-r2", "mutual-knn:5", "rsa:distance=euclidean,method=pearson", "svcca:0.9")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "lab.act"


def test_each_is_the_similarity_of_the_rows_that_both_models_share(root: Path):
    x, y = related(40, 5, 7, n_layers=2)
    put(root, "a", x[:, :38], ids=range(38))
    put(root, "b", y[:, 39:1:-1], ids=range(39, 1, -1))
    store = open_store(root)
    table = compare_table(store, ["a", "b"], metrics=ASKED)
    options = [{}, {}, {"k": 5}, {"distance": "euclidean", "method": "pearson"}, {"variance": 0.9}]
    for row in table.to_dict("records"):
        layer = row["layer_a"]
        for asked, given in zip(ASKED, options, strict=True):
            expected = similarity(x[layer, 2:38], y[layer, 2:38], asked.partition(":")[0], **given)
            assert row[asked] == pytest.approx(expected, abs=1e-10)
    other = compare_table(store, ["b", "a"], metrics=["linear-r2"])["linear-r2"][0]
    assert other != pytest.approx(table["linear-r2"][0])


def test_groups_are_a_column_of_the_task(root: Path):
    x, y = related(30, 5, 7)
    columns = {"template_id": [row % 5 for row in range(30)]}
    store = store_of(root, {"a": x, "b": y}, columns=columns)
    table = compare_table(store, ["a", "b"], metrics=["cka-within:template_id"])
    expected = similarity(x[0], y[0], "cka-within", groups=columns["template_id"])
    assert table["cka-within:template_id"][0] == pytest.approx(expected, abs=1e-10)
    with pytest.raises(InvalidInput, match="task 'rte' has no column 'source'; it has template_id"):
        compare_table(store, ["a", "b"], metrics=["cka-within:source"])


def test_a_row_without_a_group_stands_alone(root: Path):
    x, y = related(30, 5, 7)
    groups = [None if row in (1, 2, 3, 4) else "" if row in (5, 6, 7, 8) else f"t{row % 3}" for row in range(30)]
    store = store_of(root, {"a": x, "b": y}, columns={"template_id": groups})
    kept = [row for row in range(30) if groups[row]]
    expected = similarity(x[0, kept], y[0, kept], "cka-within", groups=[groups[row] for row in kept])
    table = compare_table(store, ["a", "b"], metrics=["cka-within:template_id"])
    assert table["cka-within:template_id"][0] == pytest.approx(expected, abs=1e-10)


def test_rows_that_are_not_finite_are_left_out_on_both_sides(root: Path):
    x, y = related(40, 5, 7)
    x[0, 3, 1] = np.nan
    row = compare_table(store_of(root, {"a": x, "b": y}), ["a", "b"], metrics=["procrustes"]).to_dict("records")[0]
    kept = [number for number in range(40) if number != 3]
    assert (row["n"], row["dropped"]) == (39, 1)
    assert row["procrustes"] == pytest.approx(similarity(x[0, kept], y[0, kept], "procrustes"), abs=1e-10)
    x[0, :9] = np.inf
    other = store_of(root.with_name("other.act"), {"a": x, "b": y})
    assert np.isnan(compare_table(other, ["a", "b"], metrics=["procrustes"])["procrustes"][0])


def test_what_does_not_fit_is_refused_before_anything_is_read(root: Path, monkeypatch: pytest.MonkeyPatch):
    x, y = related(300, 5, 7)
    store = store_of(root, {"a": x, "b": y})
    monkeypatch.setattr("actlas.analyze.representation.StoredRepresentation.read", None)
    with pytest.raises(
        MemoryBudget, match=r"rsa, svcca: 300 rows of 5 and 7 features need 5,875,200 bytes, the budget is 2,097,152"
    ):
        compare_table(store, ["a", "b"], metrics=["rsa", "svcca"], memory=2 << 20)


def test_an_option_that_does_not_fit_so_few_rows_names_the_task(root: Path):
    x, y = related(20, 5, 7)
    store = store_of(root, {"a": x, "b": y})
    with pytest.raises(InvalidInput, match="task 'rte', metric 'mutual-knn:20': k: expected 1 to 19 neighbours"):
        compare_table(store, ["a", "b"], metrics=["mutual-knn:20"])


def test_the_dataset_says_what_its_variables_are(root: Path):
    x, y = related(20, 5, 7)
    dataset = compare(store_of(root, {"a": x, "b": y}), ["a", "b"], metrics=["mutual-knn:3"])
    assert dataset["mutual-knn:3"].dims == ("pair", "task", "layer")
    assert dataset["mutual-knn:3"].attrs["long_name"] == "mutual k-NN (Huh et al. 2024)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cka", "no metric 'cka' to ask for; every comparison has it"),
        ("procrust", "no metric 'procrust' to ask for; did you mean 'procrustes'"),
        ("procrustes:3", "procrustes has no option '3'; it has none"),
        ("mutual-knn:n=3", "mutual-knn has no option 'n'; it has k"),
        ("mutual-knn:few", "expected int such as 10, got 'few'"),
        ("cka-within", "cka-within needs groups, e.g. cka-within:template_id"),
    ],
)
def test_requests_that_mean_nothing_are_refused(text: str, message: str):
    with pytest.raises(InvalidInput, match=message):
        parse_request(text)


def test_every_metric_can_be_asked_for():
    for name, metric in METRICS.items():
        if not metric.is_streamed:
            assert parse_request(f"{name}:template_id" if name == "cka-within" else name).metric == name
