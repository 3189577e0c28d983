"""The sheet that a picture is drawn on, and how it becomes a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from actlas.analyze.results import check_output, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg")

_CAPTION = 8  # points
_SPACE = 0.04  # inches between its words


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
    figure.draw_without_rendering()  # panels that stay square move their labels; a second pass makes room for these
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else {})


def text_width(text: str, points: float) -> float:
    """Return how wide a line of text is, in inches."""
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), text, size=points).get_extents().width) / 72


def write_caption(figure: Figure, *sentences: str) -> None:
    """Put sentences below everything else, broken to the figure's width."""
    lines: list[list[str]] = []
    room = 0.0
    for word in " ".join(sentences).split():
        width = text_width(word, _CAPTION) + _SPACE
        if width > room:
            lines.append([])
            room = 0.95 * figure.get_figwidth()
        lines[-1].append(word)
        room -= width
    if lines:
        figure.supxlabel("\n".join(map(" ".join, lines)), fontsize=_CAPTION)
