"""Medians over tasks: the numbers behind every picture, and how a caption counts them."""

from collections.abc import Sequence

import pandas as pd

from actlas.analyze.metrics import METRICS, Metric
from actlas.store import InvalidInput


def column_of(table: pd.DataFrame, metric: str) -> str:
    """Return the column of a table that holds a metric.

    Raises
    ------
    InvalidInput
        When the table has none.
    """
    columns = {name: name.replace("-", "_") for name, one in METRICS.items() if one.is_streamed}
    columns |= {name: name for name in table.columns if name.partition(":")[0] in METRICS and name not in columns}
    if metric not in columns or columns[metric] not in table:
        having = ", ".join(name for name, column in columns.items() if column in table)
        raise InvalidInput(f"metric: expected one of those that the table has ({having}), got {metric!r}")
    return columns[metric]


def metric_of(name: str) -> Metric:
    """Return the metric that a column such as ``mutual-knn:5`` is of."""
    return METRICS[name.partition(":")[0]]


def symmetric_column_of(table: pd.DataFrame, metric: str) -> str:
    """Return the column of a table that holds a symmetric metric: what a matrix with two equal sides can show.

    Raises
    ------
    InvalidInput
        When the table has none, or the order of the two representations matters to the metric.
    """
    column = column_of(table, metric)
    if not metric_of(metric).is_symmetric:
        raise InvalidInput(f"metric: expected a symmetric one to fill both sides of a matrix, got {metric!r}")
    return column


def medians(rows: pd.DataFrame, column: str, keys: Sequence[str]) -> pd.DataFrame:
    """Return the median over tasks of each cell: the keys, ``median``, and the number of ``tasks`` with a value."""
    grouped = rows.groupby(list(keys), sort=False)[column]
    return grouped.agg(median="median", tasks="count").reset_index()


def title_of(cells: pd.DataFrame) -> str:
    """Say over how many tasks the medians of defined cells were taken."""
    counts = cells.loc[cells["tasks"] > 0, "tasks"]
    if counts.empty:
        return "No value is defined"
    low, high = int(counts.min()), int(counts.max())
    return f"Median over {high} task{'s' * (high != 1)}" if low == high else f"Median over {low} to {high} tasks"
