"""Forms: what an entry is exported as, for programs that know nothing of actlas. Each is written block by block."""

import io
import json
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.errors import ZarrUserWarning

from actlas.store.codec import CODEC
from actlas.store.digest import LEAF_ROWS
from actlas.store.disk import Disk
from actlas.store.dtype import Array
from actlas.store.encoder import chunk_and_shard
from actlas.store.entry import Entry

_SAFETENSORS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "int32": "I32", "uint8": "U8"}


@dataclass(frozen=True, eq=False)
class Excerpt:
    """What is exported of an entry.

    Attributes
    ----------
    entry : Entry
        The entry.
    layers : tuple of int
        Layers, ascending; the final norm is exported where there is one.
    """

    entry: Entry
    layers: tuple[int, ...]

    @property
    def portable_dtype(self) -> np.dtype[Any]:
        """A dtype that holds the values exactly and that every reader knows: bfloat16 becomes float32."""
        dtype = self.entry.dtype
        return np.dtype("<f4") if dtype.name == "bfloat16" else dtype

    def names(self, of_layer: str) -> dict[str, int | None]:
        """Return the layers by name, and the final norm as None; `of_layer` has a field for the number."""
        arrays: dict[str, int | None] = {of_layer.format(layer): layer for layer in self.layers}
        return arrays | ({"final_norm": None} if self.entry.has_final_norm else {})

    def shape(self, layer: int | None) -> tuple[int, int]:
        """Return the shape of a layer, or of the final norm."""
        return self.entry.n_examples, self.entry.final_norm.shape[1] if layer is None else self.entry.width

    def blocks(self, layer: int | None) -> Iterator[tuple[slice, Array]]:
        """Return rows and values of the superblocks of a layer, or of the final norm, in the real dtype."""
        n_examples = self.entry.n_examples
        for start in range(0, n_examples, LEAF_ROWS):
            rows = slice(start, min(start + LEAF_ROWS, n_examples))
            yield rows, self.entry.final_norm[rows] if layer is None else self.entry.read(layer, rows)


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form.

    Attributes
    ----------
    suffix : str
        What its name ends in.
    write : callable
        Writes an excerpt to a path that does not exist.
    """

    suffix: str
    write: Callable[[Excerpt, Path, Disk], None]


def _write_npy(excerpt: Excerpt, place: Path, disk: Disk) -> None:
    """Write a directory with one .npy file a layer, named as in the paper, and a table of the examples."""
    disk.make_directory(place)
    dtype, entry = excerpt.portable_dtype, excerpt.entry
    for name, layer in excerpt.names("hidden_states_{}").items():
        header = io.BytesIO()
        described = {"descr": dtype.str, "fortran_order": False, "shape": excerpt.shape(layer)}
        np.lib.format.write_array_header_1_0(header, described)
        disk.write(place / f"{name}.npy", header.getbuffer())
        for _, block in excerpt.blocks(layer):
            disk.append(place / f"{name}.npy", _bytes(block.astype(dtype, copy=False)))
    examples = enumerate(zip(entry.example_ids, entry.n_tokens.tolist(), strict=True))
    lines = [f"{row},{example},{n_tokens}" for row, (example, n_tokens) in examples]
    disk.write(place / "examples.csv", "\n".join(["row,example_id,n_tokens", *lines, ""]).encode())


def _write_safetensors(excerpt: Excerpt, place: Path, disk: Disk) -> None:
    """Write a file with one tensor a layer in the real dtype, and the examples' ids and lengths."""
    entry, names = excerpt.entry, excerpt.names("hidden_states.{}")
    examples = {"n_tokens": entry.n_tokens, "example_id": _id_bytes(entry)}
    described = {name: (entry.dtype, excerpt.shape(layer)) for name, layer in names.items()} | {
        name: (data.dtype, data.shape) for name, data in examples.items()
    }
    metadata = {**entry.manifest.names, "id": entry.id, "layers": ",".join(map(str, excerpt.layers))}
    disk.write(place, _safetensors_header(described, metadata))
    for layer in names.values():
        for _, block in excerpt.blocks(layer):
            disk.append(place, _bytes(block))
    for data in examples.values():
        disk.append(place, _bytes(data))


def _safetensors_header(described: dict[str, tuple[np.dtype[Any], tuple[int, ...]]], metadata: dict[str, str]) -> bytes:
    # Written here, for the package can only write what is in memory as a whole.
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in described.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _SAFETENSORS[dtype.name], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_zarr(excerpt: Excerpt, place: Path, _: Disk) -> None:
    """Write a Zarr group that xarray opens as a Dataset with the coordinates layer, example and n_tokens."""
    entry = excerpt.entry
    group = zarr.create_group(place, zarr_format=3, attributes={"coordinates": "n_tokens"})
    states = _new_array(group, excerpt, "hidden_states", ("layer", "example", "feature"))
    for index, layer in enumerate(excerpt.layers):
        for rows, block in excerpt.blocks(layer):
            states[index, rows] = block.astype(states.dtype, copy=False)
    if entry.has_final_norm:
        norm = _new_array(group, excerpt, "final_norm", ("example", "norm_feature"))
        for rows, block in excerpt.blocks(None):
            norm[rows] = block.astype(norm.dtype, copy=False)
    coordinates: dict[str, tuple[str, Array]] = {
        "layer": ("layer", np.array(excerpt.layers, "<i4")),
        "example": ("example", np.array(entry.example_ids, np.dtypes.StringDType())),
        "n_tokens": ("example", entry.n_tokens),
    }
    for name, (dimension, data) in coordinates.items():
        kind = "string" if name == "example" else data.dtype
        array = group.create_array(name, shape=data.shape, dtype=kind, chunks=data.shape, dimension_names=[dimension])
        array[...] = data
    with warnings.catch_warnings():  # zarr says that only zarr-python knows consolidated metadata; it is a copy
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(str(place))


def _new_array(group: zarr.Group, excerpt: Excerpt, name: str, dimensions: tuple[str, ...]) -> Any:
    dtype = excerpt.portable_dtype
    shape = (len(excerpt.layers), *excerpt.shape(excerpt.layers[0])) if len(dimensions) == 3 else excerpt.shape(None)
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunk_and_shard(shape, dtype.itemsize, CODEC)[0],
        dimension_names=list(dimensions),
        fill_value=float("nan"),
        config={"write_empty_chunks": True},
    )


def _id_bytes(entry: Entry) -> Array:
    return np.frombuffer(bytes.fromhex("".join(entry.example_ids)), np.uint8).reshape(-1, 16)


def _bytes(data: Array) -> memoryview:
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data


FORMS: dict[str, Form] = {
    "npy": Form(suffix="", write=_write_npy),
    "safetensors": Form(suffix=".safetensors", write=_write_safetensors),
    "zarr": Form(suffix=".zarr", write=_write_zarr),
}
