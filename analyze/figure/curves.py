"""The picture of a comparison: CKA by layer, median and quartiles over tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from actlas.analyze.figure.canvas import PICTURES, new_figure, save_figure
from actlas.analyze.metrics import METRICS
from actlas.analyze.results import check_output
from actlas.store import InvalidInput

# Okabe and Ito's colours: told apart with any colour vision, and in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def curves(table: pd.DataFrame, label: pd.Series, metric: str = "cka") -> pd.DataFrame:
    """Return lower quartile, median and upper quartile over tasks for every label and layer.

    Parameters
    ----------
    table : pandas.DataFrame
        As `compare_table` returns it, matched layers.
    label : pandas.Series
        For each row the curve that it belongs to.
    metric : {"cka", "cka-biased"}
        Which number.

    Returns
    -------
    pandas.DataFrame
        Indexed by (label, layer), columns low, median, high and tasks, in order of first appearance.
    """
    grouped = table[metric.replace("-", "_")].groupby(
        [label.rename("label"), table["layer_a"].rename("layer")], sort=False
    )
    quartiles = grouped.quantile(np.array([0.25, 0.5, 0.75])).unstack()
    quartiles.columns = pd.Index(["low", "median", "high"])
    return quartiles.assign(tasks=grouped.count())


def plot_curves(
    table: pd.DataFrame, path: str | Path, *, label: pd.Series | None = None, title: str = "", metric: str = "cka"
) -> None:
    """Draw CKA by layer: one colour a pair of models, median over tasks, quartiles shaded; a PNG or SVG file.

    Parameters
    ----------
    table : pandas.DataFrame
        As `compare_table` returns it, matched layers.
    path : str or Path
        Where to; .png or .svg.
    label : pandas.Series, optional
        For each row the curve that it belongs to; the pair of models by default.
    title : str
        Above the axes.
    metric : {"cka", "cka-biased"}
        Which number.

    Raises
    ------
    InvalidInput
        When layers are not matched.
    """
    check_output(path, PICTURES)
    if not (table["layer_a"] == table["layer_b"]).all():
        raise InvalidInput("a curve by layer needs matched layers; use --layers matched for --plot")
    if label is None:
        label = table["model_a"] + " and " + table["model_b"]
    summary = curves(table, label, metric)
    figure = new_figure(7.2, 4.4)
    axes = figure.add_subplot()
    names = list(dict.fromkeys(label))
    for number, name in enumerate(names):
        curve = summary.loc[name].sort_index()
        colour, layers = COLOURS[number % len(COLOURS)], curve.index.to_numpy()
        style = ("-", "--", ":", "-.")[number // len(COLOURS) % 4]
        axes.plot(layers, curve["median"], style, color=colour, marker="o", markersize=3.5, label=name)
        axes.fill_between(layers, curve["low"], curve["high"], color=colour, alpha=0.18, linewidth=0)
    n_tasks = table["task"].nunique()
    axes.set_xlabel("layer (0 = input of the first block)")
    axes.set_ylabel(METRICS[metric].title)
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title or f"Median over {n_tasks} task{'s' if n_tasks != 1 else ''}, quartiles shaded", fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    save_figure(figure, path)
