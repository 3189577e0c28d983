"""Every error that a user can meet: one tree, grouped by what its handler does next."""

import difflib
from collections.abc import Iterable


class ActError(Exception):
    """A problem that the user can act on; its message says expected, got, where and what to do."""


class NotFound(ActError, KeyError):
    """A store, model, task, layer or file that is not there."""

    __str__ = Exception.__str__  # KeyError would print the repr


class AlreadyExists(ActError):
    """Something else stands under this name."""


class ReadOnly(ActError):
    """A store that this user cannot write to."""


class InvalidInput(ActError, ValueError):
    """An argument or a file of the user's that cannot be used as it is."""


class Corrupt(ActError):
    """Stored bytes that are not those that were written."""


class Incomplete(ActError):
    """A file that belongs to an entry and is missing or too short."""


class Unreachable(ActError):
    """A server that cannot be reached, or fails; later it may work."""


class Mismatch(ActError):
    """Two things that must belong together and do not."""


class MemoryBudget(ActError):
    """A computation that does not fit the memory that it may use."""


class Source(ActError):
    """A checkpoint, adapter or tokenizer that cannot be used."""


def near_misses(wanted: str, known: Iterable[str]) -> str:
    """Return a hint such as ``did you mean 'rte'?`` or the list of what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    if not names:
        return "there is none yet"
    shown = ", ".join(names[:10])
    return f"there is: {shown}" + (f" and {len(names) - 10} more" if len(names) > 10 else "")
