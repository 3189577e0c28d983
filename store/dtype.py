"""The dtypes of hidden states, and the bits in which bfloat16 is kept."""

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from actlas.store.errors import InvalidInput

Array = npt.NDArray[Any]

# bfloat16 is no core Zarr dtype: its bits are kept as uint16, and a missing chunk would read as NaN (0x7FC0).
LOGICAL: dict[str, np.dtype[Any]] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
}
STORED: dict[str, np.dtype[Any]] = {
    "bfloat16": np.dtype("<u2"),
    "float16": LOGICAL["float16"],
    "float32": LOGICAL["float32"],
}
FILL: dict[str, int | float] = {"bfloat16": 0x7FC0, "float16": float("nan"), "float32": float("nan")}


def check_dtype(name: str) -> str:
    """Return `name` when hidden states can be kept in it.

    Raises
    ------
    InvalidInput
        For anything but bfloat16, float16 and float32.
    """
    if name not in LOGICAL:
        raise InvalidInput(f"dtype {name!r}: expected one of {', '.join(LOGICAL)}")
    return name


def to_stored(block: Array, dtype: str) -> Array:
    """Return the stored form of a block; its dtype must be the logical one, for nothing is ever rounded here."""
    if block.dtype != LOGICAL[dtype]:
        raise InvalidInput(f"hidden states: expected dtype {dtype}, got {block.dtype}; the store never rounds")
    return block.view(STORED[dtype])
