"""An array of an entry, read by indexing in its real dtype."""

from typing import Any

import numpy as np

from actlas.store.chunks import ChunkedArray
from actlas.store.dtype import LOGICAL, Array
from actlas.store.errors import Corrupt
from actlas.store.selection import select


class StoredArray:
    """A read-only array of the store that is read by indexing, in its real dtype.

    Indexing takes integers, slices and index arrays (one per axis, orthogonal) and returns NumPy arrays. dask
    (``dask.array.from_array``) and xarray take it as it is. Every chunk that is read is checked against its checksum.

    Attributes
    ----------
    shape, chunks : tuple of int
        Its shape, and the shape of what is decoded at once.
    dtype : numpy.dtype
        The real dtype; bfloat16 is stored as uint16 bits.
    """

    def __init__(self, chunked: ChunkedArray) -> None:
        self._chunked = chunked
        logical = chunked.metadata.attributes.get("logical_dtype")
        stored = chunked.metadata.dtype
        self.dtype: np.dtype[Any] = stored if logical is None else LOGICAL.get(str(logical), stored)
        if self.dtype.itemsize != stored.itemsize:
            raise Corrupt(f"{chunked.where('zarr.json')}: {logical} cannot be stored as {stored}; run `act verify`")
        self.shape: tuple[int, ...] = chunked.metadata.shape
        self.chunks: tuple[int, ...] = chunked.metadata.chunk

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    def __repr__(self) -> str:
        return f"<StoredArray {self._chunked.directory} shape={self.shape} dtype={self.dtype}>"

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        data = self[...]
        return data if dtype is None else data.astype(dtype, copy=bool(copy))

    def __getitem__(self, index: Any) -> Array:
        """Read and decode what `index` selects.

        Raises
        ------
        Corrupt
            When a chunk does not fit its checksum or cannot be decoded.
        Incomplete
            When a file is missing or has another size.
        IndexError
            When the index does not fit the shape.
        """
        selection = select(index, self.shape)
        bits = self._chunked.read(selection)
        return bits.view(self.dtype).squeeze(axis=selection.dropped)
