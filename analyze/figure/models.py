"""Models by models: a matrix for each of some layers, similar models beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from actlas.analyze.figure.canvas import PICTURES, save_figure, text_width, write_caption
from actlas.analyze.figure.clustering import Tree, cluster
from actlas.analyze.figure.heatmap import (
    add_colour_bar,
    colours,
    draw_matrix,
    grey_note,
    grid_shape,
    new_panels,
    shared_scale,
)
from actlas.analyze.figure.medians import medians, metric_of, symmetric_column_of, title_of
from actlas.analyze.results import check_output
from actlas.store import InvalidInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

MIN_MODELS = 3  # two have one number a layer, which a curve shows better
MAX_PANELS = 6  # where no layers are chosen
MAX_PRINTED = 8  # models, up to which the cells are wide enough for their numbers

_FONT = 7  # points, of names and numbers
_PAIR = ["model_a", "model_b"]


def check_models(n_models: int) -> None:
    """Find out, before any work, whether there are enough models for a matrix.

    Raises
    ------
    InvalidInput
        For fewer than `MIN_MODELS`.
    """
    if n_models < MIN_MODELS:
        raise InvalidInput(
            f"a matrix of models by models needs at least {MIN_MODELS} models that share a task, got {n_models}; name more, or "
            "draw curves by layer"
        )


def model_matrix(table: pd.DataFrame, layer: int, metric: str = "cka") -> pd.DataFrame:
    """Return the median over tasks at one layer for every two models.

    Parameters
    ----------
    table : pandas.DataFrame
        As `compare_table` returns it, matched layers.
    layer : int
        Which layer of both.
    metric : str
        ``cka``, ``cka-biased``, or a symmetric metric that the table has, called as it was asked for.

    Returns
    -------
    pandas.DataFrame
        One row a cell of the square, models in order of first appearance: model_a, model_b, median (NaN where no task
        defines it, or the two were not compared), and the number of tasks with a value. A model with itself is 1 by
        definition, on the tasks where it has a value with any other.

    Raises
    ------
    InvalidInput
        When layers are not matched, the table lacks the layer or the metric, or the metric is not symmetric.
    """
    column = symmetric_column_of(table, metric)
    if layer not in (known := _layers(table)):
        raise InvalidInput(f"layer: expected one of {', '.join(map(str, known))}, got {layer}")
    rows = table.loc[table["layer_a"] == layer, ["task", *_PAIR, column]]
    both = pd.concat([rows, rows.rename(columns={"model_a": "model_b", "model_b": "model_a"})])
    own = both.dropna(subset=[column])
    own = own.assign(model_b=own["model_a"], **{column: 1.0})
    cells = medians(pd.concat([both, own]).drop_duplicates(["task", *_PAIR]), column, _PAIR)
    models = _models(table)
    square = cells.set_index(_PAIR).reindex(pd.MultiIndex.from_product([models, models], names=_PAIR))
    return square.fillna({"tasks": 0}).astype({"tasks": int}).reset_index()


def plot_models(
    table: pd.DataFrame, path: str | Path, *, layers: Sequence[int] | None = None, metric: str = "cka"
) -> None:
    """Draw models by models: a matrix for each of some layers, median over tasks, one colour scale; a PNG or SVG file.

    All matrices have the models in the same order, that of average linkage on 1 - metric (its mean over those drawn layers
    at which every two models have a value) with neighbours as similar as the tree allows (Bar-Joseph et al. 2001); the tree
    stands beside the first. Without such a layer the order is the table's, and the caption says so.

    Parameters
    ----------
    table : pandas.DataFrame
        As `compare_table` returns it, matched layers.
    path : str or Path
        Where to; .png or .svg.
    layers : sequence of int, optional
        Which layers; by default at most six, spread evenly from the first to the last.
    metric : str
        As `model_matrix` takes it.

    Raises
    ------
    InvalidInput
        For fewer than three models, when layers are not matched, the table lacks a layer or the metric, or as `check_output`.
    """
    check_output(path, PICTURES)
    save_figure(draw_models(table, layers=layers, metric=metric), path)


def draw_models(table: pd.DataFrame, *, layers: Sequence[int] | None = None, metric: str = "cka") -> Figure:
    """Return the figure that `plot_models` writes."""
    models = _models(table)
    check_models(len(models))
    drawn = _spread(_layers(table)) if layers is None else list(dict.fromkeys(layers))
    if not drawn:
        raise InvalidInput("layers: expected at least one layer to draw, got none")
    tidy = {layer: model_matrix(table, layer, metric) for layer in drawn}
    matrices = {layer: _square(cells, models) for layer, cells in tidy.items()}
    tree = cluster(matrices)
    note = _order_note(tree, matrices, metric_of(metric).title)
    if tree is not None:
        order = [models[number] for number in tree.leaves]
        matrices = {layer: matrix.reindex(index=order, columns=order) for layer, matrix in matrices.items()}
    figure, panels = _sheet(models, len(drawn))
    scale = shared_scale(matrices.values())
    for axes, (layer, matrix) in zip(panels, matrices.items(), strict=True):
        draw_matrix(axes, matrix.to_numpy(), scale, first_row_below=False)
        axes.set_title(f"layer {layer}", fontsize=9)
        if len(models) <= MAX_PRINTED:
            _print_values(axes, matrix.to_numpy(), scale)
    _name_models(panels, list(matrices[drawn[0]].index))
    if tree is not None:
        _draw_tree(panels[0], tree)
    add_colour_bar(figure, panels, metric_of(metric).title)
    figure.suptitle(title_of(pd.concat(tidy.values()).query("model_a != model_b")), fontsize=11)
    write_caption(figure, note, grey_note(matrices.values(), "undefined, or not compared"))
    return figure


def _models(table: pd.DataFrame) -> list[str]:
    """Return the models in order of first appearance, which is the order in which they were named."""
    return list(dict.fromkeys([*table["model_a"], *table["model_b"]]))


def _layers(table: pd.DataFrame) -> list[int]:
    if not (table["layer_a"] == table["layer_b"]).all():
        raise InvalidInput("a matrix of models needs matched layers; compare with --layers matched")
    return sorted(table["layer_a"].unique().tolist())


def _spread(layers: Sequence[int]) -> list[int]:
    places = np.linspace(0, len(layers) - 1, min(len(layers), MAX_PANELS)).round().astype(int)
    return [layers[place] for place in places]


def _square(cells: pd.DataFrame, models: list[str]) -> pd.DataFrame:
    return cells.pivot(index="model_a", columns="model_b", values="median").reindex(index=models, columns=models)


def _order_note(tree: Tree | None, matrices: Mapping[int, pd.DataFrame], metric: str) -> str:
    """Say in which order the models are."""
    if tree is not None:
        layers = f"layer{'s' * (len(tree.layers) > 1)} {', '.join(map(str, tree.layers))}"
        return f"Models in the order of average linkage on 1 - {metric}, mean over {layers}."
    layer, matrix = next(iter(matrices.items()))
    row, column = np.argwhere(matrix.isna().to_numpy())[0]
    pair = f"{matrix.index[row]} and {matrix.columns[column]}"
    return f"Models in the order given, not clustered: at layer {layer}, {pair} have no value."


def _sheet(models: Sequence[str], n_panels: int) -> tuple[Figure, list[Axes]]:
    """Return panels whose cells are wide enough for what is written in and beside them."""
    side = max(2.0, len(models) * (0.42 if len(models) <= MAX_PRINTED else 0.16))
    names = max(text_width(name, _FONT) for name in models)
    return new_panels(n_panels, (side + 0.15, side + 0.3), (names + 1.6, names + 0.8))


def _print_values(axes: Axes, values: npt.NDArray[np.float64], scale: Normalize) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = colours()(scale(value))
            ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
            axes.text(column, row, f"{value:.2f}", color=ink, fontsize=_FONT, ha="center", va="center")


def _name_models(panels: Sequence[Axes], models: Sequence[str]) -> None:
    """Name the rows beside the first column, and the columns below the lowest panel of each."""
    columns = grid_shape(len(panels))[1]
    for number, axes in enumerate(panels):
        is_left, is_lowest = number % columns == 0, number + columns >= len(panels)
        axes.set_yticks(range(len(models)), models if is_left else [""] * len(models), fontsize=_FONT)
        axes.set_xticks(range(len(models)), models if is_lowest else [""] * len(models), fontsize=_FONT, rotation=90)
        axes.tick_params(length=0)


def _draw_tree(axes: Axes, tree: Tree) -> None:
    """Draw the tree to the right of a matrix, each leaf beside its row."""
    beside = axes.inset_axes((1.02, 0, 0.25, 1), frame_on=False, xticks=[], yticks=[])
    for places, heights in zip(tree.places, tree.heights, strict=True):
        beside.plot(heights, places, color="0.3", linewidth=0.9)
    beside.set(xlim=(0, 1.02 * tree.heights.max() or 1), ylim=axes.get_ylim())
