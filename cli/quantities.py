"""Sizes and durations as people write them."""

from actlas.store import InvalidInput


def bytes_of(text: str, option: str) -> int:
    """Return a size in bytes, e.g. of ``4GiB`` or ``500MB``.

    Raises
    ------
    InvalidInput
        When it cannot be read or is not above zero.
    """
    from dask.utils import parse_bytes  # not before it is needed: act verify should start at once

    try:
        value = int(parse_bytes(text))
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{option} {text!r}: expected a size such as 4GiB or 500MB") from error
    if value <= 0 or not text.strip():  # Dask takes no text at all for one byte
        raise InvalidInput(f"{option} {text!r}: expected a size above zero")
    return value


def seconds_of(text: str, option: str) -> float:
    """Return a duration in seconds, e.g. of ``7d``, ``12h`` or ``0s``.

    Raises
    ------
    InvalidInput
        When it cannot be read or is negative.
    """
    from dask.utils import parse_timedelta

    try:
        value = float(parse_timedelta(text, default=None))
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise InvalidInput(f"{option} {text!r}: expected a duration such as 7d, 12h or 0s") from error
    if not value >= 0:
        raise InvalidInput(f"{option} {text!r}: expected a duration that is not negative")
    return value
