"""Encoding: Zarr makes the metadata and the chunks of an entry in memory; what it made is taken and put on the disk."""

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import zarr
from zarr.codecs import Crc32cCodec
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from actlas.store.codec import BLOCK_BYTES, CODECS, compressors
from actlas.store.digest import LEAF_ROWS
from actlas.store.dtype import Array, fill_value, stored_dtype
from actlas.store.metadata import CHUNK_BYTES, ArrayMetadata, Shape, parse_array
from actlas.store.spec import ArraySpec

CHUNK_ROWS = 256  # or more, see below
SHARD_BYTES = 16 << 20


def chunk_and_shard(array: ArraySpec, itemsize: int, codec: str) -> tuple[Shape, Shape]:
    """Return chunk and shard shape of an array.

    Parameters
    ----------
    array : ArraySpec
        The array.
    itemsize : int
        Bytes of one number, as stored.
    codec : str
        What its chunks are coded with.

    Returns
    -------
    chunk, shard : tuple of int
        One layer by 256 examples; where there is a compressor, by more, up to a superblock, while they fit into one block
        of it: it keeps high and low bytes apart in large blocks only. A shard spans examples up to one superblock, then layers
        until it holds about 16 MiB, so that small tasks do not become thousands of small files.
    """
    axis = array.row_axis
    layers, n_rows, features = array.shape[:axis], array.shape[axis], array.shape[axis + 1 :]
    row_bytes = math.prod(features) * itemsize
    # Halved or not, they divide a superblock: all of these are powers of two.
    rows = min(LEAF_ROWS if CODECS[codec] else CHUNK_ROWS, array.superblock_rows)
    while rows > 1 and rows * row_bytes > (BLOCK_BYTES if rows > CHUNK_ROWS else CHUNK_BYTES):
        rows //= 2
    rows = min(rows, n_rows)
    shard_rows = min(array.superblock_rows, -(-n_rows // rows) * rows)
    shard_layers = [max(1, min(n, SHARD_BYTES // (shard_rows * row_bytes))) for n in layers]
    return (*(1 for _ in layers), rows, *features), (*shard_layers, shard_rows, *features)


class Encoder:
    """The Zarr group of one entry, in memory.

    Parameters
    ----------
    arrays : mapping
        The arrays that are written superblock by superblock, by name.
    codec : str
        What their chunks are coded with.

    Attributes
    ----------
    metadata : dict
        How these arrays are cut and coded.
    """

    def __init__(self, arrays: Mapping[str, ArraySpec], codec: str) -> None:
        self._made: dict[str, Any] = {}
        self._store = MemoryStore(self._made)
        self._group = zarr.create_group(self._store, zarr_format=3)
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self.metadata: dict[str, ArrayMetadata] = {}
        for name, array in arrays.items():
            dtype = stored_dtype(array.dtype)
            chunk, shard = chunk_and_shard(array, dtype.itemsize, codec)
            self._arrays[name] = self._group.create_array(
                name,
                shape=array.shape,
                dtype=dtype,
                chunks=chunk,
                shards=shard,
                compressors=compressors(codec, dtype.itemsize),
                fill_value=fill_value(array.dtype),
                dimension_names=list(array.dimensions),
                chunk_key_encoding={"name": "default", "separator": "."},
                attributes={"logical_dtype": array.dtype},
                config={"write_empty_chunks": True},
            )
            described = json.loads(self._made[f"{name}/zarr.json"].to_bytes())
            self.metadata[name] = parse_array(described, name)

    def encode(self, name: str, index: tuple[Any, ...], bits: Array) -> dict[str, memoryview]:
        """Encode whole shards of one of these arrays, and return their files by name."""
        self._arrays[name][index] = bits
        return self._take(lambda key: key.startswith(f"{name}/c."))

    def encode_small(self, name: str, data: Array, dimensions: Sequence[str]) -> dict[str, memoryview]:
        """Encode a small array in one checksummed chunk, and return its file by name."""
        array = self._group.create_array(
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
        return self._take(lambda key: key.startswith(f"{name}/c."))

    def rest(self, attributes: Mapping[str, Any]) -> dict[str, memoryview]:
        """Return every file that was not returned yet, the metadata consolidated among them."""
        self._group.attrs.update(dict(attributes))
        with warnings.catch_warnings():  # zarr says that only zarr-python knows consolidated metadata; it is a copy
            warnings.simplefilter("ignore", ZarrUserWarning)
            zarr.consolidate_metadata(self._store)
        return self._take(lambda _: True)

    def _take(self, wanted: Callable[[str], bool]) -> dict[str, memoryview]:
        keys = sorted(key for key in self._made if wanted(key))
        return {key: memoryview(self._made.pop(key).as_numpy_array()).cast("B") for key in keys}
