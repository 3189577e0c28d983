"""Layers by layers: a heat map for each pair of models, median over tasks."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import pandas as pd

from actlas.analyze.figure.canvas import PICTURES, save_figure, write_caption
from actlas.analyze.figure.heatmap import add_colour_bar, draw_matrix, grey_note, new_panels, shared_scale
from actlas.analyze.figure.medians import medians, metric_of, symmetric_column_of, title_of
from actlas.analyze.results import check_output
from actlas.store import InvalidInput

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

MAX_PANELS = 45  # 9 models with each other and themselves: a sheet of 7 by 7

_CELL = ["model_a", "model_b", "layer_a", "layer_b"]
_STEPS = (1, 2, 5, 10, 20, 50, 100)  # between the layers that are numbered
_LETTERS = 30  # of a label, before the line is broken


def check_panels(n_panels: int) -> None:
    """Find out, before any work, whether the pairs of models fit on one sheet.

    Raises
    ------
    InvalidInput
        For more than `MAX_PANELS`.
    """
    if n_panels > MAX_PANELS:
        raise InvalidInput(
            f"a picture of all layers has one panel a pair of models: expected at most {MAX_PANELS}, got {n_panels}; "
            "name fewer models"
        )


def layer_matrix(table: pd.DataFrame, metric: str = "cka") -> pd.DataFrame:
    """Return the median over tasks for every pair of models and of layers.

    Parameters
    ----------
    table : pandas.DataFrame
        As ``compare_table(..., layers="all")`` returns it.
    metric : str
        ``cka``, ``cka-biased``, or a symmetric metric that the table has, called as it was asked for.

    Returns
    -------
    pandas.DataFrame
        One row a cell: model_a, model_b, layer_a, layer_b, median (NaN where no task defines it), and the number of tasks
        with a value. A model with itself has both sides of the diagonal.

    Raises
    ------
    InvalidInput
        When the table lacks the metric, or it is not symmetric.
    """
    column = symmetric_column_of(table, metric)
    rows = table[["task", *_CELL, column]]
    mirrored = rows[rows["model_a"] == rows["model_b"]].rename(columns={"layer_a": "layer_b", "layer_b": "layer_a"})
    return medians(pd.concat([rows, mirrored]).drop_duplicates(["task", *_CELL]), column, _CELL)


def plot_layers(table: pd.DataFrame, path: str | Path, *, metric: str = "cka", title: str = "") -> None:
    """Draw layers by layers: a panel for each pair of models, median over tasks, one colour scale; a PNG or SVG file.

    Layer 0 is at the bottom left, the first model's layers go up. What has no value is grey.

    Parameters
    ----------
    table : pandas.DataFrame
        As ``compare_table(..., layers="all")`` returns it.
    path : str or Path
        Where to; .png or .svg.
    metric : str
        As `layer_matrix` takes it.
    title : str
        Above the panels; the number of tasks by default.

    Raises
    ------
    InvalidInput
        When layers are matched, the table lacks the metric, there are too many panels, or as `check_output`.
    """
    check_output(path, PICTURES)
    save_figure(draw_layers(table, metric=metric, title=title), path)


def draw_layers(table: pd.DataFrame, *, metric: str = "cka", title: str = "") -> Figure:
    """Return the figure that `plot_layers` writes."""
    if (table["layer_a"] == table["layer_b"]).all() and table["layer_a"].nunique() > 1:
        raise InvalidInput("heat maps of layers need every pair of layers; compare with --layers all")
    cells = layer_matrix(table, metric)
    pairs = list(dict.fromkeys(zip(cells["model_a"], cells["model_b"], strict=True)))
    check_panels(len(pairs))
    figure, panels = new_panels(len(pairs), (2.7, 2.75), (0.9, 0.6))
    own = dict(iter(cells.groupby(["model_a", "model_b"])))
    matrices = [own[pair].pivot(index="layer_a", columns="layer_b", values="median") for pair in pairs]
    scale = shared_scale(matrices)
    for axes, (model_a, model_b), matrix in zip(panels, pairs, matrices, strict=True):
        draw_matrix(axes, matrix.to_numpy(), scale, first_row_below=True)
        _number_layers(axes.yaxis, matrix.index)
        _number_layers(axes.xaxis, matrix.columns)
        axes.set_ylabel(_label(model_a), fontsize=8)
        axes.set_xlabel(_label(model_b), fontsize=8)
    add_colour_bar(figure, panels, metric_of(metric).title)
    figure.suptitle(title or title_of(cells), fontsize=11)
    write_caption(figure, grey_note(matrices, "undefined"))
    return figure


def _number_layers(axis: Axis, layers: pd.Index) -> None:
    """Number at most nine of the layers."""
    step = next((step for step in _STEPS if len(layers) <= 9 * step), len(layers))
    axis.set_ticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]], fontsize=8)


def _label(model: str) -> str:
    return fill(f"layer of {model}", _LETTERS)
