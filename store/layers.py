"""Layers as a user names them: numbers and slices."""

import re
from collections.abc import Sequence

from actlas.store.errors import InvalidInput


def parse_layers(text: str | None, n_layers: int, *, known: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return the layers that a specification names, ascending.

    Parameters
    ----------
    text : str or None
        Numbers and slices separated by commas, e.g. ``0,4,8``, ``0:``, ``1:33:2``; negative numbers count from the
        end. None for all.
    n_layers : int
        Number of blocks L; layers are 0 to L.
    known : sequence of int, optional
        Those of them that are kept: a slice passes over the others, a number must be among them. All by default.

    Raises
    ------
    InvalidInput
        When it cannot be read or names a layer that is not there.
    """
    everything = range(n_layers + 1)
    there = set(everything if known is None else known)
    whose, having = ("model", f"0 to {n_layers}") if known is None else ("entry", ", ".join(map(str, known)))
    chosen: set[int] = there if text is None else set()
    for part in [] if text is None else text.split(","):
        if not re.fullmatch(r"-?\d+|(-?\d+)?:(-?\d+)?(:[1-9]\d*)?", part.strip()):
            raise InvalidInput(f"layers {text!r}: expected numbers and slices such as 0,4,8 or 0:33:2, got {part!r}")
        numbers = [int(number) if number else None for number in part.strip().split(":")]
        named = there.intersection(everything[slice(*numbers)]) if len(numbers) > 1 else _one(int(part), n_layers)
        if len(numbers) == 1 and not named <= there:
            raise InvalidInput(f"layers {text!r}: the {whose} has layers {having}, got {part}")
        chosen |= named
    if not chosen:
        raise InvalidInput(f"layers {text!r}: names no layer of {having}")
    return tuple(sorted(chosen))


def _one(number: int, n_layers: int) -> set[int]:
    return {number if number >= 0 else number + n_layers + 1}
