"""An entry as an xarray Dataset: dimensions and coordinates, nothing read before it is needed."""

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from actlas.store.arrays import StoredArray
from actlas.store.dtype import Array

if TYPE_CHECKING:
    from actlas.store.entry import Entry


class _LazyArray(BackendArray):
    def __init__(self, array: StoredArray) -> None:
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        def read(index: tuple[Any, ...]) -> Array:
            return self.array[index]

        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, read)


def to_dataset(entry: "Entry", chunks: Any) -> xr.Dataset:
    """Return the Dataset that `Entry.to_xarray` describes."""

    def variable(dimensions: tuple[str, ...], array: StoredArray) -> xr.Variable:
        preferred = dict(zip(dimensions, array.chunks, strict=True))
        data = indexing.LazilyIndexedArray(_LazyArray(array))
        return xr.Variable(dimensions, data, encoding={"preferred_chunks": preferred})

    row = "token" if entry.is_ragged else "example"
    variables = {"hidden_states": variable(("layer", row, "feature"), entry.hidden_states)}
    if entry.has_final_norm:
        variables["final_norm"] = variable((row, "norm_feature"), entry.final_norm)
    if entry.has_outputs:
        outputs = {name: (("example", "rank")[: data.ndim], data) for name, data in entry.outputs.items()}
        variables |= {name: xr.Variable(dimensions, data) for name, (dimensions, data) in outputs.items()}
    coordinates = {
        "layer": ("layer", np.array(entry.layers)),
        "example": ("example", np.array(entry.example_ids)),
        "n_tokens": ("example", entry.n_tokens),
    } | ({"offset": ("example", entry.offsets)} if entry.is_ragged else {})
    attributes = {"model": entry.model, "task": entry.task, "id": entry.id} | {
        "rendering": entry.rendering,
        "position": entry.position,
    }
    dataset = xr.Dataset(variables, coords=coordinates, attrs=attributes)
    return dataset if chunks is None else dataset.chunk(chunks or _stored_chunks(dataset))


def _stored_chunks(dataset: xr.Dataset) -> dict[Any, Any]:
    merged: dict[Any, Any] = {}
    for variable in dataset.data_vars.values():
        merged |= variable.encoding.get("preferred_chunks", {})
    return merged
