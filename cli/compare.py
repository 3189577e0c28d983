"""act compare."""

from collections.abc import Iterable
from pathlib import Path

import click
import pandas as pd
from rich.console import Console

from actlas.analyze import (
    MEMORY,
    METRICS,
    check_output,
    compare_table,
    curves,
    plot_curves,
    plot_layers,
    plot_models,
    write_results,
)
from actlas.analyze.figure import PICTURES, check_models, check_panels
from actlas.analyze.results import RESULTS
from actlas.cli.display import print_json, print_table
from actlas.cli.quantities import bytes_of
from actlas.store import Depth, InvalidInput, Store, open_store

_MANY_ROWS = 150  # a longer table is summed up by layer; --out has every row


@click.command()
@click.argument("store", type=click.Path())
@click.argument("models", nargs=-1, required=True, metavar="MODEL[:RENDERING]...")
@click.option("--tasks", multiple=True, help="Task or glob pattern; repeat; all by default.")
@click.option(
    "--layers",
    type=click.Choice(["matched", "all"]),
    default="matched",
    show_default=True,
    help="Each layer with the same layer of the other model, or every pair of layers.",
)
@click.option("--position", default="last", show_default=True, help="Position that the entries are of: last, mean, ...")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME[:OPTION=VALUE,...]",
    help=f"A metric beside CKA: {', '.join(name for name, one in METRICS.items() if not one.is_streamed)}; repeat.",
)
@click.option("--memory", default=f"{MEMORY >> 30}GiB", show_default=True, help="Memory that the computation may use.")
@click.option(
    "--verify",
    "depth",
    type=click.Choice(["size", "sample", "full"]),
    default="size",
    show_default=True,
    help="How far the entries are verified first; what is read is always checked.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write every row to FILE.parquet or FILE.csv, or a dataset to FILE.nc.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help="Draw CKA to FILE.png or FILE.svg: curves by layer; with --layers all, a heat map for each pair of models.",
)
@click.option(
    "--plot-models",
    "matrices",
    type=click.Path(path_type=Path),
    help="Draw matrices of models by models, at some layers, to FILE.png or FILE.svg; at least three models.",
)
@click.option("--json", "as_json", is_flag=True, help="Print every row as JSON.")
def compare(
    store: str,
    models: tuple[str, ...],
    tasks: tuple[str, ...],
    layers: str,
    position: str,
    metrics: tuple[str, ...],
    memory: str,
    depth: Depth,
    out: Path | None,
    plot: Path | None,
    matrices: Path | None,
    as_json: bool,
) -> None:
    """Compare models of STORE (a directory, or an http(s):// or s3:// URL) by linear CKA on every task that they share.

    Gives debiased CKA with its jackknife standard error (over source_id where the task has one), the paper's biased CKA
    with the mean that unrelated representations would have, and the number of examples and independent groups.

    Where a model has several entries on a task, MODEL@DTYPE or MODEL@KEY chooses one, e.g. llama@bfloat16.

    --metric adds others, for one pair of representations at a time, read whole: procrustes, mutual-knn:5 (the 5 nearest
    neighbours), cka-within:template_id (within the groups of a column of the task), rsa:method=pearson.

    \b
    Example:
      act compare lab.act llama tuned
      act compare lab.act llama tuned --metric procrustes --metric cka-within:template_id
      act compare lab.act llama tuned --tasks 'anli_*' --out cka.parquet --plot cka.png
      act compare lab.act llama tuned --layers all --plot layers.png
      act compare lab.act llama tuned control --out cka.nc --plot-models models.svg
    """
    opened = open_store(store)
    _check_files(opened, layers, len(models), out, plot, matrices)
    budget = bytes_of(memory, "--memory")
    console = Console(stderr=True)
    with console.status("compare") as status:
        table = compare_table(
            opened,
            models,
            tasks=tasks or None,
            layers=layers,  # type: ignore[arg-type]
            position=position,
            metrics=metrics,
            memory=budget,
            depth=depth,
            progress=lambda done, total, task: status.update(f"compare: pass {done + 1} of {total}, task {task}"),
        )
    _write_files(table, layers, out, plot, matrices)
    if as_json:
        print_json(table.astype(object).where(table.notna(), None).to_dict("records"))
    else:
        print_comparison(table, dict.fromkeys(metrics))


def _check_files(
    store: Store, layers: str, n_models: int, out: Path | None, plot: Path | None, matrices: Path | None
) -> None:
    """Find out, before any work, what could not be drawn or written."""
    for path, suffixes in ((out, RESULTS), (plot, PICTURES), (matrices, PICTURES)):
        if path is not None:
            _check_output(path, suffixes, store)
    if plot is not None and layers == "all":
        check_panels(n_models * (n_models + 1) // 2)
    if matrices is not None:
        if layers != "matched":
            raise InvalidInput("--plot-models draws one layer of all models a matrix; it needs --layers matched")
        check_models(n_models)
        if plot is not None and plot.resolve() == matrices.resolve():
            raise InvalidInput(f"{plot}: named by --plot and by --plot-models; each picture needs a file of its own")


def _write_files(table: pd.DataFrame, layers: str, out: Path | None, plot: Path | None, matrices: Path | None) -> None:
    if out is not None:
        write_results(table, out, layers=layers)
    if plot is not None:
        (plot_curves if layers == "matched" else plot_layers)(table, plot)
    if matrices is not None:
        plot_models(table, matrices)


def _check_output(path: Path, suffixes: tuple[str, ...], store: Store) -> None:
    if "://" not in store.location and path.resolve().is_relative_to(Path(store.location).resolve()):
        raise InvalidInput(f"{path}: lies inside the store, which holds activations only; choose another path")
    check_output(path, suffixes)


def print_comparison(table: pd.DataFrame, metrics: Iterable[str] = ()) -> None:
    """Print every row, or for a long table the median and quartiles over tasks."""
    label = table["model_a"] + " and " + table["model_b"]
    if len(table) > _MANY_ROWS and (table["layer_a"] == table["layer_b"]).all():
        rows = [
            (name, layer, f"{median:.4f}", f"{low:.4f}", f"{high:.4f}", n_tasks)
            for (name, layer), low, median, high, n_tasks in curves(table, label).itertuples(name=None)
        ]
        print_table(
            ["models", "layer", "median cka", "quartile 1", "quartile 3", "tasks"], rows, right=["layer", "tasks"]
        )
        click.echo(f"{len(table)} rows, summed up over tasks; --out FILE.parquet writes them all", err=True)
        return
    shown = {
        "task": table["task"],
        "models": label,
        "layer": _layers(table),
        "cka": table["cka"].map("{:.4f}".format),
        "se": table["cka_se"].map("{:.4f}".format),
        "biased": table["cka_biased"].map("{:.4f}".format),
        "null": table["null_mean"].map("{:.4f}".format),
        **{name: table[name].map("{:.4f}".format) for name in metrics},
        "n": table["n"],
        "groups": table["groups"],
        "dropped": table["dropped"],
        "remarks": (table["flags"] + "; " + table["reason"]).str.strip("; "),
    }
    print_table(list(shown), zip(*shown.values(), strict=True), right=["layer", "n", "groups", "dropped"])


def _layers(table: pd.DataFrame) -> "pd.Series[str]":
    a, b = table["layer_a"].astype(str), table["layer_b"].astype(str)
    return a.where(a == b, a + "-" + b)
