"""Requests: metrics beside CKA that a comparison is asked for, computed for one pair of representations at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from actlas.analyze.metrics import METRICS, similarity
from actlas.analyze.representation import Representation
from actlas.analyze.rowset import Join, RowSet
from actlas.store import InvalidInput, MemoryBudget, near_misses

_COPIES = 4  # of both matrices in float64, and of their n x n products, that a metric may hold at once


@dataclass(frozen=True, kw_only=True)
class Request:
    """A metric with its options.

    Attributes
    ----------
    text : str
        As it was asked for; the column of the result.
    metric : str
        Its name.
    options : dict
        Its options; of ``groups`` the name of a column of the task.
    """

    text: str
    metric: str
    options: dict[str, Any]


def parse_request(text: str) -> Request:
    """Return the metric that ``NAME``, ``NAME:VALUE`` or ``NAME:OPTION=VALUE,...`` asks for.

    A value without an option is the first option's: ``mutual-knn:5``, ``cka-within:template_id``, ``rsa:method=pearson``.

    Raises
    ------
    InvalidInput
        For an unknown metric or option, a value that is none, one that every comparison has anyway, or no groups.
    """
    name, _, rest = text.partition(":")
    known = {one: metric for one, metric in METRICS.items() if not metric.is_streamed}
    if name not in known:
        anyway = "; every comparison has it" if name in METRICS else f"; {near_misses(name, known)}"
        raise InvalidInput(f"no metric {name!r} to ask for{anyway}")
    defaults = known[name].options
    options = {}
    for part in rest.split(",") if rest else []:
        option, given, value = part.rpartition("=")
        option = option if given else next(iter(defaults), "")
        if option not in defaults:
            raise InvalidInput(
                f"metric {text!r}: {name} has no option {option or part!r}; it has {', '.join(defaults) or 'none'}"
            )
        options[option] = _value(text, value, defaults[option])
    if missing := [option for option, default in defaults.items() if default is None and option not in options]:
        raise InvalidInput(f"metric {text!r}: {name} needs {', '.join(missing)}, e.g. {name}:template_id")
    return Request(text=text, metric=name, options=options)


def _value(text: str, value: str, default: Any) -> Any:
    kind: Callable[[str], Any] = str if default is None else type(default)
    try:
        return kind(value)
    except ValueError:
        raise InvalidInput(f"metric {text!r}: expected {kind.__name__} such as {default}, got {value!r}") from None


def check_budget(requests: Sequence[str], n: int, widths: tuple[int, int], memory: int) -> None:
    """Refuse, before anything is read, what does not fit.

    Raises
    ------
    MemoryBudget
        With the bytes that it needs and those that it may use.
    """
    needed = _COPIES * 8 * (n * sum(widths) + 2 * n * n)
    if requests and needed > memory:
        raise MemoryBudget(
            f"{', '.join(requests)}: {n} rows of {widths[0]} and {widths[1]} features need "
            f"{needed:,} bytes, the budget is {memory:,}; give more --memory, or fewer examples"
        )


def answer(texts: Sequence[str], joined: Join, rows: RowSet, a: Representation, b: Representation) -> dict[str, float]:
    """Return the number of each metric that is asked for, for one pair, by its text; x is `a`, y is `b`."""
    requests = [parse_request(text) for text in dict.fromkeys(texts)]
    if not requests:
        return {}
    if rows.reason:
        return {request.text: float("nan") for request in requests}
    x, y = (_read(side, where) for side, where in ((a, rows.rows_a), (b, rows.rows_b)))
    return {request.text: _similarity(x, y, request, joined, rows) for request in requests}


def _similarity(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], request: Request, joined: Join, rows: RowSet
) -> float:
    options = _with_groups(request, joined, rows)
    try:
        return similarity(x, y, request.metric, **options)
    except InvalidInput as error:  # an option that does not fit so few rows
        raise InvalidInput(f"task {joined.a.task!r}, metric {request.text!r}: {error}") from error


def _read(source: Representation, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    return np.asarray(source.read(rows).astype(np.float64))


def _with_groups(request: Request, joined: Join, rows: RowSet) -> dict[str, Any]:
    if "groups" not in request.options:
        return request.options
    name, task = request.options["groups"], joined.a.read_task()
    column = task.column(name)
    if column is None:
        having = ", ".join(sorted({*task.rows[0]} - {"example_id", "prompt", "target"})) or "none"
        raise InvalidInput(f"metric {request.text!r}: task {task.slug!r} has no column {name!r}; it has {having}")
    values = dict(zip(task.example_ids, column, strict=True))
    groups = [values[example] for example in rows.ids]
    # A row without a group stands alone, as one without a source does elsewhere.
    return request.options | {"groups": [(row,) if group in (None, "") else group for row, group in enumerate(groups)]}
