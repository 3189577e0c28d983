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
from actlas.store.disk import Disk
from actlas.store.dtype import Array
from actlas.store.encoder import chunk_and_shard
from actlas.store.entry import Entry
from actlas.store.spec import ArraySpec

_SAFETENSORS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "int32": "I32", "int64": "I64", "uint8": "U8"}


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
        return self.entry.n_rows, self.entry.final_norm.shape[1] if layer is None else self.entry.width

    @property
    def row(self) -> str:
        """What a row is."""
        return "token" if self.entry.is_ragged else "example"

    def examples(self) -> dict[str, Array]:
        """Return what is known of each example, by name: its number of tokens and, where tokens are rows, its first row."""
        offsets = {"offset": self.entry.offsets} if self.entry.is_ragged else {}
        return {"n_tokens": self.entry.n_tokens, **offsets}

    def blocks(self, layer: int | None) -> Iterator[tuple[slice, Array]]:
        """Return rows and values of the superblocks of a layer, or of the final norm, in the real dtype."""
        n_rows, step = self.entry.n_rows, self.entry.superblock_rows
        for start in range(0, n_rows, step):
            rows = slice(start, min(start + step, n_rows))
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
    known = {"example_id": entry.example_ids} | {name: data.tolist() for name, data in excerpt.examples().items()}
    lines = [",".join(map(str, (row, *values))) for row, values in enumerate(zip(*known.values(), strict=True))]
    disk.write(place / "examples.csv", "\n".join([",".join(["row", *known]), *lines, ""]).encode())


def _write_safetensors(excerpt: Excerpt, place: Path, disk: Disk) -> None:
    """Write a file with one tensor a layer in the real dtype, and the examples' ids and lengths."""
    entry, names = excerpt.entry, excerpt.names("hidden_states.{}")
    examples = {**excerpt.examples(), "example_id": _id_bytes(entry)}
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
    group = zarr.create_group(place, zarr_format=3, attributes={"coordinates": " ".join(excerpt.examples())})
    states = _new_array(group, excerpt, "hidden_states", ("layer", excerpt.row, "feature"))
    for index, layer in enumerate(excerpt.layers):
        for rows, block in excerpt.blocks(layer):
            states[index, rows] = block.astype(states.dtype, copy=False)
    if entry.has_final_norm:
        norm = _new_array(group, excerpt, "final_norm", (excerpt.row, "norm_feature"))
        for rows, block in excerpt.blocks(None):
            norm[rows] = block.astype(norm.dtype, copy=False)
    coordinates: dict[str, tuple[str, Array]] = {
        "layer": ("layer", np.array(excerpt.layers, "<i4")),
        "example": ("example", np.array(entry.example_ids, np.dtypes.StringDType())),
        **{name: ("example", data) for name, data in excerpt.examples().items()},
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
    described = ArraySpec(
        shape=shape, dtype=dtype.name, dimensions=dimensions, superblock_rows=excerpt.entry.superblock_rows
    )
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunk_and_shard(described, dtype.itemsize, CODEC)[0],
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
