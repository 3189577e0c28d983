"""Pictures of a comparison: curves by layer, heat maps of layers, matrices of models."""

from actlas.analyze.figure.canvas import PICTURES
from actlas.analyze.figure.curves import curves, plot_curves
from actlas.analyze.figure.layers import check_panels, layer_matrix, plot_layers
from actlas.analyze.figure.models import check_models, model_matrix, plot_models

__all__ = [
    "PICTURES",
    "check_models",
    "check_panels",
    "curves",
    "layer_matrix",
    "model_matrix",
    "plot_curves",
    "plot_layers",
    "plot_models",
]
