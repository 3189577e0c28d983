"""Which of the examples that two entries share are compared: by their columns, by number, by share."""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actlas.analyze.hsic import MIN_EXAMPLES
from actlas.store import InvalidInput, Task

_OPERATORS: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], bool]]] = {
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
    ast.In: ("in", lambda value, values: value in values),
    ast.NotIn: ("not in", lambda value, values: value not in values),
}
_EXPECTED = (
    'comparisons of columns with values, joined by and, or, not, such as label == "yes" and template_id in (1, 2)'
)


@dataclass(frozen=True, kw_only=True)
class RowChoice:
    """Which of the examples that two entries share are compared.

    Attributes
    ----------
    where : str or None
        An expression on the task's columns.
    match_n : int or None
        How many are drawn, so that tasks of other sizes are comparable.
    seed : int
        What they are drawn with.
    min_shared : float
        The share of the larger entry's examples that both must have.
    """

    where: str | None = None
    match_n: int | None = None
    seed: int = 0
    min_shared: float = 0.0

    def __post_init__(self) -> None:
        if self.where is not None:
            check_where(self.where)
        if self.match_n is not None and self.match_n < MIN_EXAMPLES:
            raise InvalidInput(f"match_n: expected at least {MIN_EXAMPLES} examples, got {self.match_n}")
        if not 0 <= self.min_shared <= 1:
            raise InvalidInput(f"min_shared: expected a share from 0 to 1, got {self.min_shared}")


EVERY_ROW = RowChoice()


def check_where(expression: str) -> None:
    """Refuse an expression that is not one of comparisons; nothing in it is ever run as code.

    Raises
    ------
    InvalidInput
        With what was expected.
    """
    _Checked(expression).visit(_parse(expression))


def rows_where(task: Task, expression: str) -> list[bool]:
    """Return for every row of a task whether it fits; an empty cell fits only ``== None`` and ``!=``.

    Raises
    ------
    InvalidInput
        For a column that the task does not have, and values that cannot be compared.
    """
    tree = _parse(expression)
    wanted = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    having = {*task.rows[0]} - {"example_id"}
    if unknown := sorted(wanted - having):
        raise InvalidInput(
            f"where {expression!r}: task {task.slug!r} has no column {', '.join(unknown)}; it has {', '.join(sorted(having))}"
        )
    try:
        return [bool(_value(tree, row)) for row in task.rows]
    except TypeError as error:
        raise InvalidInput(f"where {expression!r}, task {task.slug!r}: {error}") from error


def _parse(expression: str) -> ast.expr:
    try:
        return ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidInput(f"where {expression!r}: expected {_EXPECTED}") from error


class _Checked(ast.NodeVisitor):
    """Lets pass what `_value` knows, and nothing else."""

    _KNOWN = (ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Compare, ast.cmpop, ast.Name, ast.Load)

    def __init__(self, expression: str) -> None:
        self._expression = expression

    def generic_visit(self, node: ast.AST) -> None:
        known = isinstance(node, (*self._KNOWN, ast.Tuple, ast.List, ast.Constant)) and type(node) not in (
            ast.Is,
            ast.IsNot,
        )
        if not known:
            raise InvalidInput(
                f"where {self._expression!r}: expected {_EXPECTED}; got {ast.unparse(node) or 'something else'}"
            )
        super().generic_visit(node)


def _value(node: ast.expr, row: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return row[node.id]
        case ast.Tuple() | ast.List():
            return [_value(one, row) for one in node.elts]
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, row)
        case ast.UnaryOp():
            return -_value(node.operand, row)
        case ast.BoolOp(op=ast.And()):
            return all(_value(one, row) for one in node.values)
        case ast.BoolOp():
            return any(_value(one, row) for one in node.values)
        case ast.Compare():
            return _compare([_value(one, row) for one in (node.left, *node.comparators)], node.ops)
    raise AssertionError(node)  # check_where lets nothing else pass


def _compare(values: Sequence[Any], operators: Sequence[ast.cmpop]) -> bool:
    for left, right, kind in zip(values, values[1:], operators, strict=False):
        name, holds = _OPERATORS[type(kind)]
        ordered = name in ("<", "<=", ">", ">=")
        if ordered and (left is None or right is None):
            return False
        if not holds(left, right):
            return False
    return True
