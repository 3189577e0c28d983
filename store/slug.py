"""Slugs: the only names from which paths are built."""

import re

from actlas.store.errors import InvalidInput

_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,100}")


def suggest_slug(text: str) -> str:
    """Return the slug nearest to `text`, e.g. ``Llama 2 (7B)`` -> ``llama-2-7b``."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:100]
    return re.sub(r"(\.json)+$", "", slug) or "unnamed"


def is_slug(text: str) -> bool:
    """Return whether `text` can name a directory of the store; see `check_slug`."""
    return _SLUG.fullmatch(text) is not None and not text.endswith(".json")


def check_slug(text: str, what: str) -> str:
    """Return `text` when it is a slug that can name a directory of the store.

    Parameters
    ----------
    text : str
        The candidate.
    what : str
        What it names, for the message: ``model``, ``task``, ``rendering``.

    Raises
    ------
    InvalidInput
        When it is not; the message holds a slug that would do. Names ending in ``.json`` are refused
        because the store keeps files of such names beside its directories.
    """
    if is_slug(text):
        return text
    raise InvalidInput(
        f"{what} name {text!r} is not a slug: expected lower-case letters, digits, '.', '_' and '-', beginning with a "
        f"letter or digit, at most 101 characters, not ending in .json; {suggest_slug(text)!r} would do"
    )
