"""Result files: a dataset comes back from NetCDF as it was."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from actlas.analyze import compare_table, to_dataset, write_results
from actlas.store import InvalidInput, open_store
from tests.analyze.stores import put, related


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Three models of unequal depth; the third shares one of two tasks: many cells of the dataset are missing."""
    root = tmp_path_factory.mktemp("results") / "lab.act"
    for model, depth, tasks in (("base", 3, ("rte", "boolq")), ("tuned", 2, ("rte", "boolq")), ("third", 2, ("rte",))):
        for task in tasks:
            put(root, model, related(12, 6, 6, seed=depth, n_layers=depth)[0], task=task)
    store = open_store(root)
    return compare_table(store, ["base", "tuned", "third"], layers="all", metrics=["mutual-knn:3"])


def reread(table: pd.DataFrame, path: Path, layers: str) -> xr.Dataset:
    write_results(table, path, layers=layers)
    with xr.open_dataset(path, engine="scipy") as dataset:
        return dataset.load()


def test_netcdf_gives_back_numbers_texts_coordinates_and_attributes(table: pd.DataFrame, tmp_path: Path):
    written, read = to_dataset(table, "all"), reread(table, tmp_path / "cka.nc", "all")
    xr.testing.assert_identical(read, written)
    assert read.attrs["layers"] == "all"
    assert read["mutual-knn:3"].attrs["long_name"].startswith("mutual k-NN")
    row = table[(table["model_a"] == "base") & (table["model_b"] == "third")].iloc[3]
    cell = read.sel(pair="base|third", task=row["task"], layer_a=row["layer_a"], layer_b=row["layer_b"])
    assert (float(cell["cka"]), str(cell["entry_b"].values), str(cell["model_b"].values)) == (
        row["cka"], row["entry_b"], "third",
    )  # fmt: skip
    assert int(cell["n"]) == 12


def test_missing_cells_are_nan_and_empty(table: pd.DataFrame, tmp_path: Path):
    for dataset in (to_dataset(table, "all"), reread(table, tmp_path / "cka.nc", "all")):
        missing = dataset.sel(pair="base|third", task="boolq")
        assert np.isnan(missing["cka"]).all()
        assert np.isnan(missing["n"]).all()
        assert set(missing["entry_a"].values.ravel()) == set(missing["flags"].values.ravel()) == {""}


def test_netcdf_holds_whole_numbers_beyond_32_bits_and_any_letters(table: pd.DataFrame, tmp_path: Path):
    own = table[(table["model_a"] == "base") & (table["model_b"] == "base") & (table["layer_a"] == table["layer_b"])]
    own = own.assign(n=2**40 + 1, p=2**31 - 1, reason="größer als 日本", dropped=-(2**31))
    own["is_fine"] = own["layer_a"] > 0
    read = reread(own, tmp_path / "cka.nc", "matched")
    xr.testing.assert_identical(read, to_dataset(own, "matched"))
    assert int(read["n"][0, 0, 0]) == 2**40 + 1
    assert read["is_fine"].dtype == bool
    assert read["p"].dtype == np.int32


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".nc"])
def test_every_ending_leaves_one_file_and_no_other(table: pd.DataFrame, tmp_path: Path, suffix: str):
    (tmp_path / "out").mkdir()
    for _ in range(2):  # the second replaces the first
        write_results(table, str(tmp_path / "out" / f"cka{suffix}"), layers="all")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"cka{suffix}"]
    if suffix == ".parquet":
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "cka.parquet"), table)


def test_a_failed_write_leaves_what_was_there(table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "cka.nc"
    write_results(table, path, layers="all")
    before = path.read_bytes()

    def fail(_: xr.Dataset, target: Path, **__: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", fail)
    with pytest.raises(OSError, match="disk full"):
        write_results(table, path, layers="all")
    assert path.read_bytes() == before
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["cka.nc"]


def test_other_endings_are_refused(table: pd.DataFrame, tmp_path: Path):
    with pytest.raises(InvalidInput, match=r"expected a name ending in \.parquet or \.csv or \.nc"):
        write_results(table, tmp_path / "cka.h5", layers="all")
