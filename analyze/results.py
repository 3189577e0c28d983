"""Results: the long table as labelled arrays and as files."""

import os
import tempfile
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from actlas.analyze.metrics import METRICS
from actlas.analyze.selection import are_matched
from actlas.store import InvalidInput

if TYPE_CHECKING:
    import xarray as xr

TABLES = (".parquet", ".csv")
RESULTS = (*TABLES, ".nc")

LONG_NAMES = {
    "cka": "debiased linear CKA (Song et al. 2012)",
    "cka_se": "jackknife standard error of cka, over groups of rows",
    "cka_biased": "biased linear CKA (Kornblith et al. 2019)",
    "null_mean": "mean of cka_biased over all permutations of rows",
    "n": "examples compared",
    "groups": "independent groups of examples (source_id), n where none are known",
    "dropped": "shared examples left out because a value is not finite",
    "unmatched": "examples that only one of the models has",
    "p": "features of model_a",
    "q": "features of model_b",
    "participation_a": "participation ratio tr(K)^2/|K|^2 of model_a",
    "participation_b": "participation ratio tr(K)^2/|K|^2 of model_b",
}


def to_dataset(table: pd.DataFrame, layers: str) -> "xr.Dataset":
    """Return the long table as a Dataset with dimensions pair, task and layer, or layer_a and layer_b.

    Parameters
    ----------
    table : pandas.DataFrame
        As `compare_table` returns it.
    layers : str
        Which layers were paired, as `Question.layers`.

    Returns
    -------
    xarray.Dataset
        Where models do not share a task or a layer, numbers are NaN and texts are empty.
    """
    frame = table.assign(pair=table["model_a"] + "|" + table["model_b"])
    axes = ["layer_a", "layer_b"]
    if are_matched(layers):
        frame, axes = frame.rename(columns={"layer_a": "layer"}).drop(columns="layer_b"), ["layer"]
    models = frame.drop_duplicates("pair").set_index("pair")[["model_a", "model_b"]].sort_index()
    dataset = frame.drop(columns=["model_a", "model_b"]).set_index(["pair", "task", *axes]).to_xarray()
    texts = [name for name, variable in dataset.data_vars.items() if variable.dtype == object]
    dataset = dataset.assign({name: dataset[name].fillna("") for name in texts})
    dataset = dataset.assign_coords({name: ("pair", models[name].to_numpy(object)) for name in models})
    for name, long_name in LONG_NAMES.items():
        dataset[name].attrs = {"long_name": long_name, "units": "1"}
    for asked in map(str, dataset.data_vars):
        metric = METRICS.get(asked.partition(":")[0])
        if metric is not None and asked not in LONG_NAMES:
            dataset[asked].attrs = {"long_name": f"{metric.title} ({metric.source})", "units": "1"}
    dataset.attrs = {"layers": layers, "actlas_version": version("actlas")}
    return dataset


def check_output(path: str | Path, suffixes: tuple[str, ...]) -> None:
    """Find out, before any work, whether a file can be written.

    Raises
    ------
    InvalidInput
        For another ending, a missing directory, or one that cannot be written to.
    """
    path = Path(path)
    if path.suffix not in suffixes:
        raise InvalidInput(f"{path}: expected a name ending in {' or '.join(suffixes)}")
    if path.is_dir():
        raise InvalidInput(f"{path}: is a directory, expected a file name")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists():
            path.open("ab").close()
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be written ({error.strerror}); choose another path") from error


def differences_path(path: Path) -> Path:
    """Return where the differences of a comparison go whose table goes to `path`."""
    return path.with_name(f"{path.stem}.differences{path.suffix if path.suffix in TABLES else '.csv'}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, with the same ending, that replaces it at the end; an error leaves no trace."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write the long table as Parquet or CSV, by the path's ending; the file is whole or not there.

    Raises
    ------
    InvalidInput
        As `check_output`.
    """
    path = Path(path)
    check_output(path, TABLES)
    with replacing(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False)


def write_results(table: pd.DataFrame, path: str | Path, *, layers: str) -> None:
    """Write a comparison as Parquet, CSV or NetCDF, by the path's ending; the file is whole or not there.

    Parameters
    ----------
    table : pandas.DataFrame
        As `compare_table` returns it.
    path : str or Path
        Where to; .parquet and .csv hold the table, .nc holds `to_dataset` of it, which
        ``xarray.open_dataset(path, engine="scipy")`` gives back.
    layers : str
        Which layers were paired, as `Question.layers`.

    Raises
    ------
    InvalidInput
        As `check_output`.
    """
    path = Path(path)
    check_output(path, RESULTS)
    if path.suffix in TABLES:
        write_table(table, path)
        return
    dataset = to_dataset(table, layers)
    with replacing(path) as temporary:
        dataset.to_netcdf(temporary, engine="scipy", encoding=_wide_integers(dataset))


def _wide_integers(dataset: "xr.Dataset") -> dict[Hashable, dict[str, Any]]:
    """Return encodings that let NetCDF 3, whose integers have 32 bits, hold wider ones as float64, exact up to 2^53."""
    limits = np.iinfo(np.int32)
    return {
        name: {"dtype": "float64"}
        for name, variable in dataset.variables.items()
        if variable.dtype.kind in "iu"
        and not (limits.min <= variable.values.min(initial=0) and variable.values.max(initial=0) <= limits.max)
    }
