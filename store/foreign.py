"""Arrays in files that others wrote (.npy, .npz, .safetensors): described first, then read superblock by superblock."""

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from actlas.store.dtype import LOGICAL, Array
from actlas.store.errors import InvalidInput

Header = tuple[tuple[int, ...], bool, np.dtype[Any]]

_SAFETENSORS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
_UNNAMED = "void16"  # what NumPy makes of bfloat16 in a .npy file: two bytes without a meaning


@dataclass(frozen=True, eq=False)
class ForeignArray:
    """An array (n, p) of a foreign file.

    Attributes
    ----------
    file : Path
        The file.
    where : str
        The file, and the array's name in it, for messages.
    shape : tuple of int
        n and p; a file may hold (n, 1, p).
    dtype : str
        What it is kept in there.
    read : callable
        Returns the superblocks of the array as it is kept there, beginning with a row.
    """

    file: Path
    where: str
    shape: tuple[int, int]
    dtype: str
    read: Callable[[int], Iterator[Array]]

    def blocks(self, dtype: str, start: int = 0) -> Iterator[Array]:
        """Return the superblocks from row `start` on, (at most 2,048, p), in a logical dtype.

        Raises
        ------
        InvalidInput
            When the file cannot be read, or a value is too large for the dtype.
        """
        with _readable(self.where):
            for block in self.read(start):
                yield self._rounded(block, dtype)

    def check_dtype(self, wanted: str | None) -> str:
        """Return the logical dtype that the array is to be kept in.

        Raises
        ------
        InvalidInput
            When it would have to be rounded and nobody asked for that, or holds no floating-point numbers.
        """
        if self.dtype == _UNNAMED:
            if wanted != "bfloat16":
                raise InvalidInput(
                    f"{self.where}: expected floating-point numbers, got two bytes of no dtype; if they are bfloat16, of "
                    "which .npy files lose the name, say --dtype bfloat16"
                )
        elif not self.dtype.startswith(("float", "bfloat16")):
            raise InvalidInput(f"{self.where}: expected floating-point numbers, got {self.dtype}; convert the file")
        elif wanted is None and self.dtype not in LOGICAL:
            raise InvalidInput(
                f"{self.where}: expected one of {', '.join(LOGICAL)}, got {self.dtype}; nothing is rounded unless you "
                "say to what, e.g. --dtype float32"
            )
        return wanted or self.dtype

    def _rounded(self, block: Array, dtype: str) -> Array:
        rows = block.reshape(len(block), self.shape[1])
        if self.dtype == _UNNAMED:
            return np.ascontiguousarray(rows).view(LOGICAL[dtype])
        with np.errstate(over="ignore"):
            rounded = rows.astype(LOGICAL[dtype], copy=False)
        if self.dtype not in (dtype, "float16") and np.isinf(rounded).sum() > np.isinf(rows).sum():
            raise InvalidInput(f"{self.where}: a value is too large for {dtype}; choose another --dtype")
        return rounded


def array_names(file: Path) -> list[str]:
    """Return the names of the arrays in a .npz or .safetensors file.

    Raises
    ------
    InvalidInput
        When the file cannot be read.
    """
    with _readable(str(file)):
        if file.suffix == ".npz":
            with zipfile.ZipFile(file) as archive:
                return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        with safe_open(file, framework="np") as tensors:
            return list(tensors.keys())


def open_array(file: Path, name: str = "") -> ForeignArray:
    """Describe an array of a file; `name` is its name in a .npz or .safetensors file.

    Raises
    ------
    InvalidInput
        When it cannot be read, holds Python objects, or is not of shape (n, p) or (n, 1, p).
    """
    where = f"{file}:{name}" if name else str(file)
    with _readable(where):
        if file.suffix == ".npy":
            array = np.lib.format.open_memmap(file, mode="r")
            shape, dtype = array.shape, array.dtype.name
            read = _slices(array)
        elif file.suffix == ".npz":
            (shape, _, kind), read = _npz_header(file, name), lambda start: _npz_blocks(file, name, start)
            dtype = kind.name
        else:
            with safe_open(file, framework="np") as tensors:
                part = tensors.get_slice(name)
                shape, dtype = tuple(part.get_shape()), str(part.get_dtype())
            dtype = _SAFETENSORS.get(dtype, dtype)
            read = lambda start: _safetensors_blocks(file, name, shape[0], start)  # noqa: E731
    n_rows, width = (shape[0], shape[-1]) if len(shape) == 2 or (len(shape) == 3 and shape[1] == 1) else (0, 0)
    if not n_rows or not width:
        raise InvalidInput(f"{where}: expected an array of shape (examples, features), got {tuple(shape)}")
    return ForeignArray(file, where, (n_rows, width), dtype, read)
