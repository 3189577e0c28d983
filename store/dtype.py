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
_FILL: dict[str, int | float] = {"bfloat16": 0x7FC0, "float16": float("nan"), "float32": float("nan")}


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


def stored_dtype(name: str) -> np.dtype[Any]:
    """Return what values of a dtype are kept in: itself, but for bfloat16."""
    return np.dtype("<u2") if name == "bfloat16" else np.dtype(name).newbyteorder("<")


def fill_value(name: str) -> int | float:
    """Return what a missing chunk would read as: NaN, where the dtype has one."""
    return _FILL.get(name, 0)


def to_stored(block: Array, dtype: str) -> Array:
    """Return the stored form of a block; its dtype must be the logical one, for nothing is ever rounded here."""
    if block.dtype != LOGICAL.get(dtype, dtype):
        raise InvalidInput(f"superblock: expected dtype {dtype}, got {block.dtype}; the store never rounds")
    return block.view(stored_dtype(dtype))
