"""act compare: tables, files and pictures."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from actlas.analyze import compare, similarity
from actlas.store import open_store
from tests.analyze.stores import related, store_of
from tests.cli.conftest import Act, tree_digest

COLUMNS = [
    "task", "model_a", "model_b", "layer_a", "layer_b", "cka", "cka_se", "cka_biased", "null_mean", "n", "groups",
    "dropped", "unmatched", "p", "q", "participation_a", "participation_b", "flags", "reason", "entry_a", "entry_b",
]  # fmt: skip


def test_the_numbers_are_those_of_the_arrays(act: Act, lab: Path):
    before = tree_digest(lab)
    rows = act("compare", lab, "base", "tuned", "--json").json
    assert list(rows[0]) == COLUMNS
    assert [(row["task"], row["layer_a"]) for row in rows] == [(t, n) for t in ("qa", "rte", "sst2") for n in range(3)]
    store = open_store(lab)
    for row in rows:
        x, y = (store.entry(model=model, task=row["task"]).read(row["layer_a"]) for model in ("base", "tuned"))
        assert row["cka"] == pytest.approx(similarity(x, y), abs=1e-6)
        assert row["cka_biased"] == pytest.approx(similarity(x, y, "cka-biased"), abs=1e-6)
    assert {(row["task"], row["n"], row["groups"]) for row in rows} == {("qa", 8, 8), ("rte", 12, 6), ("sst2", 9, 9)}
    flags = {row["layer_a"]: row["flags"] for row in rows if row["task"] == "rte"}
    assert flags == {0: "n < p; within the noise floor", 1: "n < p", 2: "n < p"}  # they share the embedding
    assert tree_digest(lab) == before


def test_the_table_says_the_same(act: Act, lab: Path):
    result = act("compare", lab, "base", "tuned", "other", "--tasks", "rte")
    assert (result.code, result.err) == (0, "")
    cells = [re.split(r"\s{2,}", line.strip()) for line in result.out.splitlines() if line.strip()]
    assert cells[0] == ["task", "models", "layer", "cka", "se", "biased", "null", "n", "groups", "dropped", "remarks"]
    rows = act("compare", lab, "base", "tuned", "other", "--tasks", "rte", "--json").json
    assert [row[1:4] for row in cells[2:]] == [
        [f"{row['model_a']} and {row['model_b']}", str(row["layer_a"]), f"{row['cka']:.4f}"] for row in rows
    ]


def test_tables_go_to_parquet_and_csv(act: Act, lab: Path, tmp_path: Path):
    wanted = pd.DataFrame(act("compare", lab, "base", "tuned", "--json").json)
    for name in ("cka.parquet", "cka.csv"):
        assert act("compare", lab, "base", "tuned", "--out", tmp_path / name).code == 0
    read = {
        "cka.parquet": pd.read_parquet(tmp_path / "cka.parquet"),
        "cka.csv": pd.read_csv(tmp_path / "cka.csv", keep_default_na=False),
    }
    for table in read.values():
        pd.testing.assert_frame_equal(table, wanted, check_dtype=False)
    assert {path.name for path in tmp_path.iterdir()} == {*read, *(f"{name}.lock.json" for name in read)}


def test_pictures_are_png_and_svg(act: Act, lab: Path, tmp_path: Path):
    for name in ("cka.png", "cka.svg"):
        assert act("compare", lab, "base", "tuned", "other", "--plot", tmp_path / name).code == 0
    assert (tmp_path / "cka.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    text = (tmp_path / "cka.svg").read_text("utf-8")
    ET.fromstring(text)
    for words in ("base and tuned", "base and other", "tuned and other", "layer", "linear CKA"):
        assert words in text
    first = (tmp_path / "cka.svg").read_bytes()
    act("compare", lab, "base", "tuned", "other", "--plot", tmp_path / "cka.svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cka.png", "cka.svg"]
    assert len((tmp_path / "cka.svg").read_bytes()) == len(first)


def test_heat_maps_and_matrices_of_models_are_drawn(act: Act, lab: Path, tmp_path: Path):
    models = ("base", "tuned", "other")
    whole = act("compare", lab, *models, "--tasks", "qa", "--layers", "all", "--plot", tmp_path / "layers.svg")
    matched = act("compare", lab, *models, "--plot", tmp_path / "cka.png", "--plot-models", tmp_path / "models.svg")
    assert (whole.code, matched.code) == (0, 0), whole.err + matched.err
    texts = {name: (tmp_path / f"{name}.svg").read_text("utf-8") for name in ("layers", "models")}
    for text, words in (("layers", ["layer of base", "layer of other"]), ("models", ["average linkage", "layer 2"])):
        ET.fromstring(texts[text])
        assert all(word in texts[text] for word in words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cka.png", "layers.svg", "models.svg"]


def test_netcdf_holds_the_dataset(act: Act, lab: Path, tmp_path: Path):
    assert act("compare", lab, "base", "tuned", "--out", tmp_path / "cka.nc").code == 0
    with xr.open_dataset(tmp_path / "cka.nc", engine="scipy") as read:
        xr.testing.assert_identical(read.load(), compare(open_store(lab), ["base", "tuned"]))


def test_all_layers_gives_every_pair_within_and_between(act: Act, lab: Path):
    rows = act("compare", lab, "base", "tuned", "--tasks", "qa", "--layers", "all", "--json").json
    assert len(rows) == 6 + 9 + 6
    matched = {r["layer_a"]: r["cka"] for r in act("compare", lab, "base", "tuned", "--tasks", "qa", "--json").json}
    across = {r["layer_a"]: r["cka"] for r in rows if r["model_a"] != r["model_b"] and r["layer_a"] == r["layer_b"]}
    assert across == pytest.approx(matched)
    own = [r["cka"] for r in rows if r["model_a"] == r["model_b"] and r["layer_a"] == r["layer_b"]]
    np.testing.assert_allclose(own, 1)
    assert " 0-2 " in act("compare", lab, "base", "tuned", "--tasks", "qa", "--layers", "all").out


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [(["*t*"], {"rte", "sst2"}), (["q?", "rte"], {"qa", "rte"}), (["[!r]*"], {"qa", "sst2"}), (["rte", "r*"], {"rte"})],
)
def test_tasks_are_chosen_by_globs(act: Act, lab: Path, patterns: list[str], expected: set[str]):
    options = [word for pattern in patterns for word in ("--tasks", pattern)]
    assert {row["task"] for row in act("compare", lab, "base", "tuned", *options, "--json").json} == expected


def test_a_long_table_is_summed_up_and_says_so(act: Act, lab: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("actlas.cli.compare._MANY_ROWS", 8)
    result = act("compare", lab, "base", "tuned")
    assert "9 rows, summed up over tasks; --out FILE.parquet writes them all" in result.err
    rows = [line.split() for line in result.out.splitlines() if line.strip().startswith("base")]
    assert [row[3] for row in rows] == ["0", "1", "2"]
    cka = pd.DataFrame(act("compare", lab, "base", "tuned", "--json").json).groupby("layer_a")["cka"].median()
    assert [row[4] for row in rows] == [f"{value:.4f}" for value in cka]


def test_memory_is_a_size(act: Act, lab: Path):
    few = act("compare", lab, "base", "tuned", "--memory", "1MiB", "--json")
    assert few.json == act("compare", lab, "base", "tuned", "--memory", "2GB", "--json").json


def test_one_model_in_two_dtypes_is_told_apart_by_dtype_or_key(
    act: Act, checkpoints: Path, tasks: Path, tmp_path: Path
):
    store = tmp_path / "lab.act"
    for dtype in ("float32", "bfloat16"):
        call = ("ingest", store, "--model", checkpoints / "base", "--tasks", tasks / "rte.jsonl", "--dtype", dtype)
        assert act(*call).code == 0
    rows = act("compare", store, "base@float32", "base@bfloat16", "--json").json
    assert {(row["model_a"], row["model_b"]) for row in rows} == {("base@float32", "base@bfloat16")}
    assert all(0.9 < row["cka"] < 1 for row in rows[1:])
    key = open_store(store).entry(model="base", task="rte", dtype="float32").key
    assert (
        act("compare", store, f"base@{key[:8]}", "base:raw@bfloat16", "--json").json[0]["entry_a"] == rows[0]["entry_a"]
    )
    refused = act("compare", store, "base@float16", "base@float32")
    assert refused.code == 1
    assert "base@float16 has no entry" in refused.err
    assert "it has base:raw@bfloat16, base:raw@float32 on rte" in refused.err


def test_metrics_beside_cka_are_columns_of_their_own(act: Act, lab: Path):
    shown = act("compare", lab, "base", "tuned", "--tasks", "rte", "--metric", "procrustes", "--metric", "mutual-knn:3")
    assert shown.code == 0, shown.err
    assert {"procrustes", "mutual-knn:3"} <= {*shown.out.split()}
    refused = act("compare", lab, "base", "tuned", "--metric", "mutual-nn")
    assert (refused.code, "did you mean 'mutual-knn'" in refused.err) == (1, True)


def test_differences_are_printed_and_written_beside_the_table(act: Act, tmp_path: Path):
    root = tmp_path / "small.act"
    x, y = related(40, 8, 8, n_layers=2)
    store_of(root, {"base": x, "tuned": y, "control": x + y})
    out = tmp_path / "cka.csv"
    arguments = ["compare", root, "control", "base", "tuned", "--pairs", "ref:control", "--differences"]
    result = act(*arguments, "--out", str(out))
    assert result.code == 0
    assert "base minus tuned" in result.out
    differences = pd.read_csv(tmp_path / "cka.differences.csv")
    assert differences["layer"].tolist() == [0, 1]
    assert len(pd.read_csv(out)) == 4
    found = act(*arguments, "--json").json
    assert found["differences"][1]["difference"] == pytest.approx(differences["difference"][1])


def test_explain_says_how_it_would_be_computed_and_computes_nothing(
    act: Act, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "small.act"
    x, y = related(40, 8, 8, n_layers=2)
    store_of(root, {"base": x, "tuned": y})
    monkeypatch.setattr("actlas.store.entry.Entry.read", None)
    [plan] = act("compare", root, "base", "tuned", "--explain", "--json").json
    assert (plan["rows"], plan["representations"], plan["pairs"], plan["n_reads"]) == (40, 4, 6, 1.0)
    assert "1 of 1" in act("compare", root, "base", "tuned", "--explain").out
