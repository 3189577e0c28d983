"""Positions: how the token axis is reduced, as the span of an example's tokens that a position covers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actlas.store import InvalidInput

Span = tuple[int, int]  # the first token, and the one after the last


@dataclass(frozen=True)
class Parts:
    """What the tokens of one example are.

    Attributes
    ----------
    n_prompt : int
        Tokens of the prompt; those that follow are the target's.
    content : Span or None
        Those of the prompt that hold the example's own text, without its template; None where nobody asked.
    """

    n_prompt: int
    content: Span | None = None


def _content(parts: Parts, _n_tokens: int) -> Span:
    assert parts.content is not None
    return parts.content


# From the parts and the number of tokens to a span; several tokens are averaged.
SPANS: dict[str, Callable[[Parts, int], Span]] = {
    "last": lambda parts, _: (parts.n_prompt - 1, parts.n_prompt),
    "mean": lambda parts, _: (0, parts.n_prompt),
    "first": lambda _parts, _: (0, 1),
    "content-mean": _content,
    "target-last": lambda _parts, n_tokens: (n_tokens - 1, n_tokens),
    "target-mean": lambda parts, n_tokens: (parts.n_prompt, n_tokens),
}
ALL = "all"  # every token is a row
CONTENT, LAST, TARGETS = "content-mean", "last", ("target-last", "target-mean")
POSITIONS = (*SPANS, ALL)


def check_positions(positions: Sequence[str]) -> tuple[str, ...]:
    """Return positions when all are known and each is named once.

    Raises
    ------
    InvalidInput
        When they are not.
    """
    if not positions or len(set(positions)) < len(positions) or not {*positions} <= {*POSITIONS}:
        raise InvalidInput(
            f"positions: expected one or more of {', '.join(POSITIONS)}, each once, got {list(positions)}"
        )
    return tuple(positions)


def spans(position: str, parts: Sequence[Parts], lengths: Sequence[int]) -> list[Span]:
    """Return the span of a position in each of several examples of so many tokens."""
    return [SPANS[position](one, length) for one, length in zip(parts, lengths, strict=True)]


def whole_prompts(token_ids: Sequence[Sequence[int]]) -> list[Parts]:
    """Return the parts of examples that are prompts alone."""
    return [Parts(len(ids)) for ids in token_ids]
