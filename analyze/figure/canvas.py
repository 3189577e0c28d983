"""The sheet that a picture is drawn on, and how it becomes a file."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from actlas.analyze.results import check_output, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg")

_LETTERS_AN_INCH = 15  # of the caption


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, which needs no display."""
    # Pictures alone need matplotlib, which takes a third of a second to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.06))
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG or SVG, by the path's ending; the file is whole or not there.

    Raises
    ------
    InvalidInput
        As `check_output`.
    """
    path = Path(path)
    check_output(path, PICTURES)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else {})


def write_caption(figure: Figure, *sentences: str) -> None:
    """Put sentences below everything else, broken to the figure's width."""
    text = " ".join(filter(None, sentences))
    if text:
        figure.supxlabel(fill(text, int(figure.get_figwidth() * _LETTERS_AN_INCH)), fontsize=8)
