"""What all matrices have in common: one colour scale, one colour bar, grey for what has no value, a grid of panels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, isqrt
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from actlas.analyze.figure.canvas import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

GREY = "0.78"  # no colour of the map, also in grey

_BAR_WIDTH = 0.14  # inches


def colours() -> Colormap:
    """Return viridis, which is perceptually uniform and readable with any colour vision, and grey for NaN."""
    import matplotlib as mpl

    return mpl.colormaps["viridis"].with_extremes(bad=GREY)


def shared_scale(matrices: Iterable[pd.DataFrame]) -> Normalize:
    """Return the scale from 0, or the smallest value of all if that is negative, to 1."""
    from matplotlib.colors import Normalize

    return Normalize(min(0.0, *(np.nanmin(matrix.to_numpy(), initial=0.0) for matrix in matrices)), 1.0)


def grid_shape(n_panels: int) -> tuple[int, int]:
    """Return rows and columns: up to three panels side by side, more in a grid about as wide as high."""
    columns = n_panels if n_panels <= 3 else isqrt(n_panels - 1) + 1
    return ceil(n_panels / columns), columns


def new_panels(n_panels: int, panel: tuple[float, float], margin: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Return a figure with a grid of panels, row by row.

    Parameters
    ----------
    n_panels : int
        How many.
    panel, margin : (float, float)
        Width and height in inches of each panel with its labels, and of what is around the grid.
    """
    rows, columns = grid_shape(n_panels)
    figure = new_figure(columns * panel[0] + margin[0], rows * panel[1] + margin[1])
    grid = figure.add_gridspec(rows, columns)
    return figure, [figure.add_subplot(grid[divmod(number, columns)]) for number in range(n_panels)]


def draw_matrix(axes: Axes, values: npt.NDArray[np.float64], scale: Normalize, *, first_row_below: bool) -> None:
    """Draw a matrix in a square, with sharp cells."""
    origin = "lower" if first_row_below else "upper"
    axes.imshow(values, colours(), scale, aspect="auto", interpolation="nearest", origin=origin)  # type: ignore[arg-type]
    axes.set_box_aspect(1)


def add_colour_bar(figure: Figure, panels: Sequence[Axes], label: str) -> None:
    """Add the one colour bar of all panels."""
    aspect = figure.get_figheight() / _BAR_WIDTH
    bar = figure.colorbar(panels[0].images[0], ax=list(panels), aspect=aspect, fraction=0.05, pad=0.02)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def grey_note(matrices: Iterable[pd.DataFrame], meaning: str) -> str:
    """Say what grey means, where any cell is grey."""
    return f"Grey: {meaning}." if any(matrix.isna().to_numpy().any() for matrix in matrices) else ""
