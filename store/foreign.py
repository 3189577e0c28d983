"""Arrays in files that others wrote (.npy, .npz, .safetensors): described first, then read superblock by superblock."""

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from actlas.store.digest import LEAF_ROWS
from actlas.store.dtype import LOGICAL, Array
from actlas.store.errors import ActError, InvalidInput

Read = Callable[[int], Iterator[Array]]

_BARE_BYTES = "void16"  # what NumPy makes of bfloat16 in a .npy file: two bytes without a meaning
_PIECE_BYTES = 1 << 16  # zipfile reads as far ahead as it is asked for at once, in each layer
_SAFETENSORS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True, eq=False)
class ForeignArray:
    """An array (n, p) in a file of someone else's.

    Attributes
    ----------
    file : Path
        The file.
    where : str
        The file, and the array's name in it, for messages.
    shape : tuple of int
        n and p.
    dtype : str
        What it is kept in there.
    read : callable
        Returns the superblocks of the array as it is kept there, from a row on.
    """

    file: Path
    where: str
    shape: tuple[int, int]
    dtype: str
    read: Read

    def logical_dtype(self, wanted: str | None) -> str:
        """Return the dtype that hidden states are kept in when they come from this array.

        Raises
        ------
        InvalidInput
            When that means to round and nobody asked for it, or the array holds something else than such numbers.
        """
        if self.dtype == _BARE_BYTES and wanted != "bfloat16":
            raise InvalidInput(
                f"{self.where}: expected floating-point numbers, got two bytes without a dtype; .npy and .npz lose the "
                "name of bfloat16: if that is what they are, say --dtype bfloat16"
            )
        if self.dtype != _BARE_BYTES and not self.dtype.startswith(("float", "bfloat16")):
            raise InvalidInput(f"{self.where}: expected floating-point numbers, got {self.dtype}; convert the file")
        if wanted is None and self.dtype not in LOGICAL:
            raise InvalidInput(
                f"{self.where}: expected {', '.join(LOGICAL)}, got {self.dtype}; nothing is rounded unless you say to "
                "what, as in --dtype float32"
            )
        return wanted or self.dtype

    def blocks(self, dtype: str, start: int = 0) -> Iterator[Array]:
        """Return the superblocks from row `start` on, (at most 2,048, p), in a logical dtype.

        Raises
        ------
        InvalidInput
            When the file cannot be read, or a value is too large for the dtype.
        """
        with _readable(self.where):  # no loop: its variable would hold a block of every layer while the next are read
            yield from map(partial(self._as_logical, dtype), self.read(start))

    def _as_logical(self, dtype: str, block: Array) -> Array:
        block = block.reshape(-1, self.shape[1])
        if self.dtype == _BARE_BYTES:
            return np.ascontiguousarray(block).view(LOGICAL[dtype])
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = block.astype(LOGICAL[dtype], copy=False)
        if self.dtype != dtype and np.isinf(rounded).sum() > np.isinf(block).sum():
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
        When it cannot be read, holds Python objects, or has another shape than (n, p) or (n, 1, p).
    """
    where = f"{file}:{name}" if name else str(file)
    with _readable(where):
        shape, dtype, read = OPENERS[file.suffix](file, name)
    if len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and shape[1] != 1):
        raise InvalidInput(f"{where}: expected an array of shape (examples, features), got {shape}")
    return ForeignArray(file, where, (shape[0], shape[-1]), dtype, read)


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except ActError:
        raise
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, SafetensorError) as error:
        raise InvalidInput(f"{where}: cannot be read ({error}); check the file, or make it again") from error


def _open_npy(file: Path, _: str) -> tuple[tuple[int, ...], str, Read]:
    array = np.lib.format.open_memmap(file, mode="r")  # refuses Python objects; an open map is an open file
    return array.shape, array.dtype.name, lambda start: _slices(np.lib.format.open_memmap(file, mode="r"), start)


def _slices(array: Array, start: int) -> Iterator[Array]:
    for first in range(start, len(array), LEAF_ROWS):
        yield array[first : first + LEAF_ROWS]


def _open_npz(file: Path, name: str) -> tuple[tuple[int, ...], str, Read]:
    with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as member:
        shape, _, dtype = _read_header(member)
        if archive.getinfo(f"{name}.npy").file_size != member.tell() + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"it has another size than {shape} of {dtype} needs")
    return shape, dtype.name, lambda start: _npz_slices(file, name, start)


def _npz_slices(file: Path, name: str, start: int) -> Iterator[Array]:
    with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as member:
        shape, is_fortran, dtype = _read_header(member)
        if is_fortran:
            yield from _slices(np.frombuffer(member.read(), dtype).reshape(shape[::-1]).T, start)
            return
        for first in range(0, start, LEAF_ROWS):
            _read_rows(member, (min(LEAF_ROWS, start - first), *shape[1:]), dtype)
        for first in range(start, shape[0], LEAF_ROWS):
            yield _read_rows(member, (min(LEAF_ROWS, shape[0] - first), *shape[1:]), dtype)


def _read_rows(member: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    rows = np.empty(shape, dtype)
    buffer = rows.reshape(-1).view(np.uint8).data
    for start in range(0, len(buffer), _PIECE_BYTES):
        piece = buffer[start : start + _PIECE_BYTES]
        piece[:] = member.read(len(piece))  # raises where the member is cut off
    return rows


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    return np.lib.format.read_array_header_2_0(member)


def _open_safetensors(file: Path, name: str) -> tuple[tuple[int, ...], str, Read]:
    with safe_open(file, framework="np") as tensors:
        part = tensors.get_slice(name)
        shape, dtype = tuple(part.get_shape()), str(part.get_dtype())
    return shape, _SAFETENSORS.get(dtype, dtype), lambda start: _tensor_slices(file, name, start)


def _tensor_slices(file: Path, name: str, start: int) -> Iterator[Array]:
    with safe_open(file, framework="np") as tensors:
        part = tensors.get_slice(name)
        n_rows = part.get_shape()[0]
        for first in range(start, n_rows, LEAF_ROWS):
            yield part[first : min(first + LEAF_ROWS, n_rows)]  # unlike an array, it minds a slice beyond its end


OPENERS: dict[str, Callable[[Path, str], tuple[tuple[int, ...], str, Read]]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".safetensors": _open_safetensors,
}
