"""act compare."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import pandas as pd
from rich.console import Console

from actlas.analyze import (
    MEMORY,
    METRICS,
    Comparison,
    Means,
    Question,
    ask,
    check_output,
    curves,
    explain,
    plot_curves,
    plot_layers,
    plot_models,
    write_locked,
)
from actlas.analyze.figure import PICTURES, check_models, check_panels
from actlas.analyze.lock import paths_of
from actlas.cli.display import bytes_text, print_json, print_table
from actlas.cli.quantities import bytes_of
from actlas.store import Depth, InvalidInput, Store, open_store

_BESIDE = (
    "p_value", "cka_zscored", "cka_without_top_3", "influence", "top_agreement", "kl", "nll_difference",
)  # fmt: skip
_MANY_ROWS = 150  # a longer table is summed up by layer; --out has every row


@click.command()
@click.argument("store", type=click.Path())
@click.argument("models", nargs=-1, required=True, metavar="MODEL[:RENDERING]...")
@click.option("--tasks", multiple=True, help="Task or glob pattern; repeat; all by default.")
@click.option(
    "--pairs",
    default="all",
    show_default=True,
    help="all pairs of models, ref:MODEL (with each other), or consecutive.",
)
@click.option(
    "--layers",
    default="matched",
    show_default=True,
    help="matched: each layer with the same of the other model; a list such as 0,8,16: of these; relative: at equal depth; "
    "all: every pair of layers.",
)
@click.option("--position", default="last", show_default=True, help="Position that the entries are of: last, mean, ...")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME[:OPTION=VALUE,...]",
    help=f"A metric beside CKA: {', '.join(name for name, one in METRICS.items() if not one.is_streamed)}; repeat.",
)
@click.option(
    "--differences", is_flag=True, help="Also the difference of any two CKAs that share a model, with its error."
)
@click.option("--baselines", is_flag=True, help="Also each model with its layer 0, its prompts' lengths and templates.")
@click.option(
    "--null", is_flag=True, help="Also the biased CKA's spread over all permutations of rows, and its p-value."
)
@click.option(
    "--audit", is_flag=True, help="Also CKA of z-scored features, without the largest, and what single rows do."
)
@click.option(
    "--behaviour", is_flag=True, help="Also agreement of the models' outputs, where ingest kept them (--outputs)."
)
@click.option(
    "--where", metavar="EXPR", help="Only examples whose columns fit, e.g. 'label == \"yes\" and template_id < 3'."
)
@click.option("--match-n", type=int, metavar="N", help="Draw N examples of every task, so that tasks are comparable.")
@click.option("--seed", default=0, show_default=True, help="What --match-n draws with.")
@click.option(
    "--min-shared", default=0.0, show_default=True, metavar="SHARE", help="Refuse entries that share fewer examples."
)
@click.option("--memory", help=f"Memory that the computation may use; {MEMORY >> 30}GiB by default.")
@click.option(
    "--verify",
    "depth",
    type=click.Choice(["size", "sample", "full"]),
    default="size",
    show_default=True,
    help="How far the entries are verified first; what is read is always checked.",
)
@click.option("--scheduler", help="Dask scheduler whose workers compute: tcp://HOST:PORT, or its scheduler file.")
@click.option("--no-cache", is_flag=True, help="Compute everything, whatever was computed before.")
@click.option("--explain", "only_explain", is_flag=True, help="Say how it would be computed, and compute nothing.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write every row to FILE.parquet or FILE.csv, or a dataset to FILE.nc, and beside it what act replay needs.",
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
    memory: str | None,
    depth: Depth,
    scheduler: str | None,
    no_cache: bool,
    only_explain: bool,
    out: Path | None,
    plot: Path | None,
    matrices: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Compare models of STORE (a directory, or an http(s):// or s3:// URL) by linear CKA on every task that they share.

    Gives debiased CKA with its jackknife standard error (over source_id where the task has one), the paper's biased CKA
    with the mean that unrelated representations would have, and the number of examples and independent groups.

    Where a model has several entries on a task, MODEL@DTYPE or MODEL@KEY chooses one, e.g. llama@bfloat16.

    --metric adds others, for one pair of representations at a time, read whole: procrustes, mutual-knn:5 (the 5 nearest
    neighbours), cka-within:template_id (within the groups of a column of the task), rsa:method=pearson.

    What was computed before is found again in $ACTLAS_CACHE, or else actlas/ in your cache directory, by the content of the
    entries and the question; only what is new is computed.

    --differences says whether one model is closer to a third than another is: CKA(reference, a) - CKA(reference, b) on the
    same examples, with an error that knows that they are the same; --out FILE.csv writes it to FILE.differences.csv.

    --out FILE also writes FILE.lock.json: the question, the entries and the numbers, for act replay and act export --for.

    \b
    Example:
      act compare lab.act llama tuned
      act compare lab.act llama tuned --metric procrustes --metric cka-within:template_id
      act compare lab.act llama tuned --tasks 'anli_*' --out cka.parquet --plot cka.png
      act compare lab.act llama tuned --layers all --plot layers.png
      act compare lab.act llama tuned control --out cka.nc --plot-models models.svg
      act compare lab.act control llama tuned --pairs ref:control --differences
    """
    wanted = Question.of(models, **asked | {"tasks": asked["tasks"] or None})
    opened = open_store(store)
    _check_files(opened, wanted, out, plot, matrices)
    budget = MEMORY if memory is None else bytes_of(memory, "--memory")
    if only_explain:
        print_plans(explain(opened, wanted, Means(memory=budget)), as_json=as_json)
        return
    console = Console(stderr=True)
    with console.status("compare") as status:
        means = Means(
            memory=budget,
            depth=depth,
            cache=not no_cache,
            scheduler=scheduler,
            announce=lambda link: console.print(f"dashboard: {link}"),
            progress=lambda done, total, task: status.update(f"compare: task {done + 1} of {total}, {task}"),
        )
        answer = ask(opened, wanted, means)
    _write_files(answer, opened, out, plot, matrices)
    if as_json:
        print_json(_both(answer) if wanted.differences else _records(answer.table))
        return
    print_comparison(answer.table, wanted.metrics)
    if wanted.differences:
        click.echo()
        print_differences(answer.differences)


def _check_files(store: Store, wanted: Question, out: Path | None, plot: Path | None, matrices: Path | None) -> None:
    """Find out, before any work, what could not be drawn or written."""
    if out is not None:
        check_result(store, wanted, out)
    for path in (plot, matrices):
        if path is not None:
            _check_output(path, PICTURES, store)
    n_models = len(wanted.models)
    if plot is not None and wanted.layers == "all":
        check_panels(n_models * (n_models + 1) // 2)
    if plot is not None and wanted.layers == "relative":
        raise InvalidInput(
            "--plot draws matched layers as curves and all pairs of layers as heat maps, not relative ones"
        )
    if matrices is not None:
        if not wanted.matches_layers:
            raise InvalidInput(
                "--plot-models draws one layer of all models a matrix; it needs --layers matched, or a list of layers"
            )
        check_models(n_models)
        if plot is not None and plot.resolve() == matrices.resolve():
            raise InvalidInput(f"{plot}: named by --plot and by --plot-models; each picture needs a file of its own")


def check_result(store: Store, wanted: Question, out: Path) -> None:
    """Find out, before any work, whether a result and its lock could be written."""
    for path, suffixes in paths_of(out, wanted):
        _check_output(path, suffixes, store)


def _write_files(answer: Comparison, store: Store, out: Path | None, plot: Path | None, matrices: Path | None) -> None:
    if out is not None:
        write_locked(answer, store, out)
    if plot is not None and answer.question.matches_layers:
        plot_curves(answer.table, plot)
    elif plot is not None:
        plot_layers(answer.of_models, plot)
    if matrices is not None:
        plot_models(answer.of_models, matrices)


def _both(answer: Comparison) -> dict[str, Any]:
    return {"comparisons": _records(answer.table), "differences": _records(answer.differences)}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


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
        **{name: table[name].map("{:.4f}".format) for name in (*metrics, *_BESIDE) if name in table},
        "n": table["n"],
        "groups": table["groups"],
        "dropped": table["dropped"],
        "remarks": (table["flags"] + "; " + table["reason"]).str.strip("; "),
    }
    print_table(list(shown), zip(*shown.values(), strict=True), right=["layer", "n", "groups", "dropped"])


def print_differences(table: pd.DataFrame) -> None:
    """Print for every layer by how much the reference is closer to one model than to the other."""
    shown = {
        "task": table["task"],
        "reference": table["reference"],
        "models": table["model_a"] + " minus " + table["model_b"],
        "layer": table["layer"],
        **{name: table[name].map("{:.4f}".format) for name in ("cka_a", "cka_b", "difference", "se")},
        "z": table["z"].map("{:.2f}".format),
        "n": table["n"],
        "groups": table["groups"],
        "remarks": table["reason"],
    }
    print_table(list(shown), zip(*shown.values(), strict=True), right=["layer", "z", "n", "groups"])


def print_plans(table: pd.DataFrame, *, as_json: bool) -> None:
    """Print how each pass will be done."""
    if as_json:
        print_json(_records(table))
        return
    shown = {
        "task": table["task"],
        **{name: table[name] for name in ("rows", "representations", "pairs")},
        "tiles": table["side"].astype(str) + " of " + table["tiles"].astype(str),
        "reads": table["n_reads"].map("{:.1f}".format),
        "read": table["read_bytes"].map(bytes_text),
        "flops": table["flops"].map("{:.1e}".format),
        "peak": table["peak_bytes"].map(bytes_text),
    }
    print_table(list(shown), zip(*shown.values(), strict=True), right=[*shown][1:])


def _layers(table: pd.DataFrame) -> "pd.Series[str]":
    a, b = table["layer_a"].astype(str), table["layer_b"].astype(str)
    return a.where(a == b, a + "-" + b)
