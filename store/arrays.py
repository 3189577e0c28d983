"""The Zarr arrays of an entry: how they are cut and coded, and how they are read back in their real dtype."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import BoundsCheckError

from actlas.store.digest import LEAF_ROWS
from actlas.store.dtype import FILL, LOGICAL, STORED, Array
from actlas.store.errors import Corrupt

CHUNK_ROWS = 256
SHARD_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 20  # blosc's own choice shrinks bf16 by 1.28, this by 1.45 to 1.49


def chunk_and_shard(shape: Sequence[int], itemsize: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return chunk and shard shape of an array of hidden states.

    Parameters
    ----------
    shape : (n_layers, n_examples, n_features) or (n_examples, n_features)
        Shape of the array.
    itemsize : int
        Bytes of one number.

    Returns
    -------
    chunk, shard : tuple of int
        One layer by at most 256 examples; a shard spans examples up to one superblock, then layers until it holds
        about 16 MiB, so that small tasks do not become thousands of small files.
    """
    *layers, n_examples, n_features = shape
    rows = min(CHUNK_ROWS, n_examples)
    shard_rows = min(LEAF_ROWS, -(-n_examples // rows) * rows)
    layer_bytes = shard_rows * n_features * itemsize
    shard_layers = [max(1, min(n, SHARD_BYTES // layer_bytes)) for n in layers]
    return (*(1 for _ in layers), rows, n_features), (*shard_layers, shard_rows, n_features)


def create_hidden_array(
    group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str, dimensions: Sequence[str]
) -> zarr.Array[Any]:
    """Create an array of hidden states: sharded, shuffled, compressed, with a checksum on every chunk."""
    itemsize = STORED[dtype].itemsize
    chunk, shard = chunk_and_shard(shape, itemsize)
    blosc = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=itemsize, blocksize=_BLOCK_BYTES)
    return group.create_array(
        name,
        shape=shape,
        dtype=STORED[dtype],
        chunks=chunk,
        shards=shard,
        compressors=[blosc, Crc32cCodec()],
        fill_value=FILL[dtype],
        dimension_names=list(dimensions),
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes={"logical_dtype": dtype},
        config={"write_empty_chunks": True},
    )


def write_small_array(group: zarr.Group, name: str, data: Array, dimensions: Sequence[str]) -> None:
    """Write a small array in one checksummed chunk."""
    array = group.create_array(
        name,
        shape=data.shape,
        dtype=data.dtype,
        chunks=data.shape,
        compressors=[Crc32cCodec()],
        fill_value=float("nan") if data.dtype.kind == "f" else 0,
        dimension_names=list(dimensions),
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
    )
    array[...] = data


class StoredArray:
    """A read-only array of the store that is read by indexing, in its real dtype.

    Indexing takes integers, slices and index arrays (one per axis, orthogonal) and returns NumPy arrays. dask
    (``dask.array.from_array``) and xarray take it as it is.

    Attributes
    ----------
    zarr : zarr.Array
        The array below; bfloat16 stands there as uint16 bits.
    shape, chunks : tuple of int
        Its shape, and the shape of what is decoded at once.
    dtype : numpy.dtype
        The real dtype.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self.zarr = array
        logical = array.attrs.get("logical_dtype")
        self.dtype: np.dtype[Any] = LOGICAL[str(logical)] if logical else np.dtype(array.dtype)
        self.shape: tuple[int, ...] = array.shape
        self.chunks: tuple[int, ...] = array.chunks

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    def __repr__(self) -> str:
        return f"<StoredArray {self.zarr.name} shape={self.shape} dtype={self.dtype}>"

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
        IndexError
            When the index does not fit the shape.
        """
        try:
            bits = np.asarray(self.zarr.oindex[index])
        except (IndexError, BoundsCheckError, MemoryError):
            raise
        except Exception as error:  # zarr and its codecs raise whatever they like for bad bytes
            raise Corrupt(
                f"{self.zarr.store_path}: a chunk cannot be read ({type(error).__name__}: {error}); "
                "run `act verify` on the store to see which file"
            ) from error
        return bits.view(self.dtype)
