"""Positions: how the token axis is reduced, as the span of tokens of each prompt that a position covers."""

from collections.abc import Callable, Sequence

from actlas.store import InvalidInput

Span = tuple[int, int]

# From the number of tokens to the first token of the span and the one after its last; several tokens are averaged.
POSITIONS: dict[str, Callable[[int], Span]] = {
    "last": lambda n_tokens: (n_tokens - 1, n_tokens),
    "mean": lambda n_tokens: (0, n_tokens),
    "first": lambda _: (0, 1),
}


def check_positions(positions: Sequence[str]) -> tuple[str, ...]:
    """Return positions when all are known and each is named once.

    Raises
    ------
    InvalidInput
        When they are not.
    """
    if not positions or len(set(positions)) < len(positions) or not set(positions) <= POSITIONS.keys():
        raise InvalidInput(
            f"positions: expected one or more of {', '.join(POSITIONS)}, each once, got {list(positions)}"
        )
    return tuple(positions)


def spans(position: str, lengths: Sequence[int]) -> list[Span]:
    """Return the span of a position in each of several prompts of so many tokens."""
    return [POSITIONS[position](length) for length in lengths]
