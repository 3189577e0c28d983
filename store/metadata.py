"""Zarr metadata, parsed strictly: what the format does not have is refused before anything is allocated or run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from actlas.store.codec import CRC_BYTES
from actlas.store.documents import parse_json
from actlas.store.errors import Corrupt

CHUNK_BYTES = 128 << 20  # the largest chunk that is decoded
_SHARD_CHUNKS = 1 << 16

_DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("uint8", "uint16", "uint32", "int32", "int64", "float16", "float32", "float64")
}
_BYTES = ({"name": "bytes"}, {"name": "bytes", "configuration": {"endian": "little"}})
_CRC32C = ({"name": "crc32c"}, {"name": "crc32c", "configuration": {}})

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ArrayMetadata:
    """How an array is cut and coded.

    Attributes
    ----------
    shape, chunk : tuple of int
        Shape of the array, and of what is decoded at once.
    shard : tuple of int or None
        Shape of what is in one file; None where that is one chunk.
    dtype : numpy.dtype
        As it is stored, little-endian.
    is_compressed : bool
        Whether blosc stands before the checksum.
    attributes : dict
        The array's own.
    """

    shape: Shape
    chunk: Shape
    shard: Shape | None
    dtype: np.dtype[Any]
    is_compressed: bool
    attributes: Mapping[str, Any]

    @property
    def file_shape(self) -> Shape:
        """Shape of what is in one file."""
        return self.shard or self.chunk

    @property
    def grid(self) -> Shape:
        """Files along each axis."""
        return tuple(-(-length // part) for length, part in zip(self.shape, self.file_shape, strict=True))

    @property
    def shard_grid(self) -> Shape:
        """Chunks along each axis of one file."""
        return tuple(whole // part for whole, part in zip(self.file_shape, self.chunk, strict=True))

    @property
    def chunk_bytes(self) -> int:
        """Decoded bytes of one chunk."""
        return math.prod(self.chunk) * self.dtype.itemsize

    @property
    def index_bytes(self) -> int:
        """Bytes of the index at the end of a shard."""
        return 0 if self.shard is None else 16 * math.prod(self.shard_grid) + CRC_BYTES

    def file_name(self, place: Shape) -> str:
        """Return the name of the file at a place of the grid, relative to the array."""
        return "c." + ".".join(map(str, place))


def parse_group(data: bytes, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parse the metadata of an entry's group.

    Returns
    -------
    attributes, arrays : dict
        Its attributes, and the metadata of each array, not yet parsed.

    Raises
    ------
    Corrupt
        When it is no group with consolidated metadata.
    """
    group = parse_json(data, where)
    try:
        arrays = group["consolidated_metadata"]["metadata"]
        if (group["zarr_format"], group["node_type"]) != (3, "group") or not isinstance(arrays, dict):
            raise ValueError("not a Zarr v3 group")
        return dict(group["attributes"]), arrays
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(
            f"{where}: its Zarr metadata cannot be read ({error!r}); run `act verify` on the store"
        ) from error


def parse_array(node: Any, where: str) -> ArrayMetadata:
    """Parse the metadata of one array.

    Raises
    ------
    Corrupt
        For whatever format 1 does not have: another Zarr version, data type, codec or grid, a chain without a checksum,
        chunks or shards beyond the caps.
    """
    try:
        return _parse(node)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(f"{where}: not an array of store format 1 ({error}); run `act verify` on the store") from error


def _parse(node: Any) -> ArrayMetadata:
    if (node["zarr_format"], node["node_type"]) != (3, "array"):
        raise ValueError("expected Zarr v3")
    if node.get("storage_transformers"):
        raise ValueError("storage transformers")
    if node["data_type"] not in _DTYPES:
        raise ValueError(f"data type {node['data_type']!r}")
    if node["chunk_key_encoding"] != {"name": "default", "configuration": {"separator": "."}}:
        raise ValueError(f"chunk keys {node['chunk_key_encoding']}")
    if node["chunk_grid"]["name"] != "regular":
        raise ValueError(f"grid {node['chunk_grid']}")
    shape, outer = _shape(node["shape"]), _shape(node["chunk_grid"]["configuration"]["chunk_shape"])
    codecs, shard, chunk = node["codecs"], None, outer
    if len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed":
        sharding = codecs[0]["configuration"]
        shard, chunk, codecs = outer, _shape(sharding["chunk_shape"]), sharding["codecs"]
        _check_index(sharding)
    metadata = ArrayMetadata(
        shape=shape,
        chunk=chunk,
        shard=shard,
        dtype=_DTYPES[node["data_type"]],
        is_compressed=_is_compressed(codecs),
        attributes=dict(node.get("attributes") or {}),
    )
    _check_shapes(metadata)
    return metadata


def _shape(value: Any) -> Shape:
    if not isinstance(value, list) or not all(type(length) is int and length > 0 for length in value):
        raise ValueError(f"shape {value}")
    return tuple(value)


def _is_compressed(codecs: Any) -> bool:
    names = [codec["name"] for codec in codecs]
    if names[-1:] != ["crc32c"]:
        raise ValueError(f"codecs {names}: its chunks have no checksum")
    if names not in (["bytes", "crc32c"], ["bytes", "blosc", "crc32c"]) or codecs[0] not in _BYTES:
        raise ValueError(f"codecs {names}")
    return len(names) == 3


def _check_index(sharding: Any) -> None:
    codecs = sharding["index_codecs"]
    if sharding.get("index_location", "end") != "end" or len(codecs) != 2:
        raise ValueError("shard index elsewhere than at the end, or without a checksum")
    if codecs[0] not in _BYTES or codecs[1] not in _CRC32C:
        raise ValueError(f"codecs of the shard index {codecs}")


def _check_shapes(metadata: ArrayMetadata) -> None:
    shape, chunk, outer = metadata.shape, metadata.chunk, metadata.file_shape
    if not len(shape) == len(chunk) == len(outer) or any(
        whole % part for whole, part in zip(outer, chunk, strict=True)
    ):
        raise ValueError(f"chunks {chunk} in shards {outer} of an array {shape}")
    if metadata.chunk_bytes > CHUNK_BYTES:
        raise ValueError(f"chunks of {metadata.chunk_bytes} bytes, at most {CHUNK_BYTES} are decoded")
    if math.prod(metadata.shard_grid) > _SHARD_CHUNKS:
        raise ValueError(f"shards of {math.prod(metadata.shard_grid)} chunks, at most {_SHARD_CHUNKS} are read")
