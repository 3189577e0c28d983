"""actlas.analyze: compare models from a store, out of core, with error bars. No torch."""

from actlas.analyze.bootstrap import curve_difference, curve_intervals, half_sample
from actlas.analyze.comparison import Comparison, Means, ask, compare, compare_table, explain
from actlas.analyze.engine import MEMORY
from actlas.analyze.figure import curves, layer_matrix, model_matrix, plot_curves, plot_layers, plot_models
from actlas.analyze.lock import Lock, lock_of, parse_lock, read_lock, write_locked
from actlas.analyze.metrics import METRICS, measures, similarity
from actlas.analyze.question import Question
from actlas.analyze.replaying import Deviation, Replay, locked_records, replay
from actlas.analyze.results import check_output, to_dataset, write_results, write_table

__all__ = [
    "MEMORY",
    "METRICS",
    "Comparison",
    "Deviation",
    "Lock",
    "Means",
    "Question",
    "Replay",
    "ask",
    "check_output",
    "compare",
    "compare_table",
    "curve_difference",
    "curve_intervals",
    "curves",
    "explain",
    "half_sample",
    "layer_matrix",
    "lock_of",
    "locked_records",
    "measures",
    "model_matrix",
    "parse_lock",
    "plot_curves",
    "plot_layers",
    "plot_models",
    "read_lock",
    "replay",
    "similarity",
    "to_dataset",
    "write_locked",
    "write_results",
    "write_table",
]
