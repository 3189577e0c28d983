"""What goes in comes out, bit for bit, by every way of reading."""

import math
import tempfile
import warnings
from pathlib import Path

import dask.array
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from actlas.store import NotFound, StoreWriter, create_store, open_store
from tests.store.tiny import (
    BITS,
    REAL,
    folder,
    many_chunks,
    root_of,
    same_bits,
    tiny_model,
    tiny_spec,
    tiny_task,
    tiny_values,
    write_tiny,
)


@pytest.mark.parametrize("n", [1, 3, 255, 256, 257, 2048, 2049, 2500])
@pytest.mark.parametrize(("dtype", "norm_width"), [("bfloat16", 6), ("float16", None), ("float32", 16)])
def test_every_bit_comes_back(store: StoreWriter, n: int, dtype: str, norm_width: int | None):
    spec = tiny_spec(model=tiny_model(norm_width=norm_width), task=tiny_task(n), dtype=dtype)
    hidden_states, final_norm = tiny_values(spec)
    written = write_tiny(store, spec, (hidden_states, final_norm))
    entry = open_store(store.root).entry(model="pythia", task="rte")
    assert entry.id == written.id
    assert same_bits(entry.hidden_states[...], hidden_states)
    assert same_bits(np.asarray(entry.hidden_states), hidden_states)
    assert entry.has_final_norm == (norm_width is not None)
    if final_norm is not None:
        assert same_bits(entry.final_norm[...], final_norm)
    assert entry.example_ids == spec.task.example_ids
    assert entry.token_digests == list(spec.token_digests)
    assert entry.n_tokens.tolist() == list(spec.n_tokens)
    assert (entry.n_examples, entry.width, entry.dtype) == (n, 8, REAL[dtype])


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_bits_of_any_shape_come_back(data: st.DataObject):
    dtype = data.draw(st.sampled_from(sorted(REAL)))
    n, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5))
    layers = tuple(sorted(data.draw(st.sets(st.integers(0, 40), min_size=1, max_size=4))))
    spec = tiny_spec(model=tiny_model(width=width, norm_width=None), task=tiny_task(n), dtype=dtype, layers=layers)
    shape = (len(layers), n, width)
    n_bytes = math.prod(shape) * BITS[dtype].itemsize
    raw = data.draw(st.binary(min_size=n_bytes, max_size=n_bytes))
    values = np.frombuffer(raw, BITS[dtype]).reshape(shape).view(REAL[dtype])
    with tempfile.TemporaryDirectory() as directory:
        entry = write_tiny(create_store(Path(directory) / "lab.act"), spec, (values, None))
        assert same_bits(entry.hidden_states[...], values)
        for index, layer in enumerate(layers):
            assert same_bits(entry.read(layer), values[index])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory):
    spec = tiny_spec(task=tiny_task(300), layers=(1, 4, 7))
    values = tiny_values(spec)
    with many_chunks():
        return write_tiny(create_store(tmp_path_factory.mktemp("read") / "lab.act"), spec, values), *values


def test_a_layer_is_read_whole_by_range_and_by_index_array(written):
    entry, hidden_states, _ = written
    assert same_bits(entry.read(4), hidden_states[1])
    assert same_bits(entry.read(7, slice(250, 260)), hidden_states[2, 250:260])
    rows = np.array([299, 0, 255, 256, 256])
    assert same_bits(entry.read(1, rows), hidden_states[0, rows])
    assert entry.read(1, np.array([], np.intp)).shape == (0, 8)
    with pytest.raises(NotFound, match=r"layer 3 is not kept; it has \[1, 4, 7\]"):
        entry.read(3)


def test_the_arrays_index_like_numpy_and_refuse_what_does_not_fit(written):
    stored, hidden_states = written[0].hidden_states, written[1]
    assert (stored.ndim, stored.size, len(stored)) == (3, hidden_states.size, 3)
    assert repr(stored).endswith("shape=(3, 300, 8) dtype=bfloat16>")
    assert same_bits(stored[-1, -2], hidden_states[-1, -2])
    assert same_bits(stored[[2, 0], [5, 3, 5]], hidden_states[np.ix_([2, 0], [5, 3, 5])])
    for index in ((3,), (0, [300]), (0, [[1]]), (0, 0, 0, 0), (None,), (..., 0, ...)):
        with pytest.raises(IndexError, match=r"out of bounds|unsupported|step|too many"):
            stored[index]


def test_xarray_reads_lazily_and_labelled(written):
    entry, hidden_states, final_norm = written
    dataset = entry.to_xarray()
    assert dataset.hidden_states.dims == ("layer", "example", "feature")
    assert not dataset.hidden_states.variable._in_memory
    assert dataset.layer.values.tolist() == [1, 4, 7]
    assert dataset.attrs == {
        "model": "pythia",
        "task": "rte",
        "rendering": "raw",
        "position": "last",
        "id": entry.id,
    }
    wanted = [entry.example_ids[row] for row in (7, 2)]
    assert same_bits(dataset.hidden_states.sel(layer=4, example=wanted).values, hidden_states[1, [7, 2]])
    assert same_bits(dataset.final_norm[::-1].values, final_norm[::-1])
    assert dataset.n_tokens.sel(example=wanted).values.tolist() == [3, 5]


def test_xarray_makes_dask_arrays_of_the_stored_chunks(written):
    entry, hidden_states, _ = written
    chunked = entry.to_xarray(chunks={}).hidden_states
    assert chunked.data.chunks == ((1, 1, 1), (256, 44), (8,))
    assert same_bits(chunked.compute().values, hidden_states)
    assert entry.to_xarray(chunks={"example": 100}).hidden_states.data.chunks[1] == (100, 100, 100)


def test_dask_takes_a_stored_array_as_it_is(written):
    entry, hidden_states, _ = written
    lazy = dask.array.from_array(entry.hidden_states, chunks=(1, 256, 8))
    assert lazy.dtype == entry.dtype
    assert same_bits(lazy[1:, 200:290].compute(), hidden_states[1:, 200:290])


def test_statistics_are_those_of_the_values_that_were_written(store: StoreWriter):
    values = np.array([[[1, -3], [np.nan, 2], [5, np.inf], [-7, 1]], [[np.nan, np.nan]] * 4], "f4")
    spec = tiny_spec(model=tiny_model(width=2, norm_width=None), task=tiny_task(4), dtype="float32", layers=(0, 2))
    entry = write_tiny(store, spec, (values, None))
    assert entry.nonfinite.tolist() == [[0, 1, 1, 0], [2, 2, 2, 2]]
    assert entry.max_abs.tolist() == [[3, 2, 5, 7], [0, 0, 0, 0]]
    assert entry.mean[0].tolist() == [-3, -1]
    assert np.isnan(entry.mean[1]).all()
    assert np.asarray(entry.hidden_states, dtype="f8").dtype == np.float64
    assert (entry.nonfinite.dtype, entry.max_abs.dtype, entry.mean.dtype) == (np.uint32, np.float32, np.float64)


def test_statistics_of_several_superblocks_are_those_of_the_whole(store: StoreWriter):
    spec = tiny_spec(task=tiny_task(2500))
    values = tiny_values(spec)[0].astype("f4")
    entry = write_tiny(store, spec)
    finite = np.isfinite(values)
    whole = finite.all(axis=2)
    assert (entry.nonfinite == (~finite).sum(axis=2)).all()
    assert (entry.max_abs == np.where(finite, np.abs(values), 0).max(axis=2)).all()
    for layer in range(3):
        expected = values[layer][whole[layer]].astype("f8").mean(axis=0)
        np.testing.assert_allclose(entry.mean[layer], expected, rtol=1e-9)


def test_an_entry_is_plain_zarr_with_a_checksum_in_every_chain(written):
    entry, hidden_states, _ = written
    for consolidated in (True, False):
        with warnings.catch_warnings():  # the JSON files beside the arrays are no Zarr, and zarr says so
            warnings.simplefilter("ignore")
            group = zarr.open_group(folder(entry), mode="r", use_consolidated=consolidated)
            arrays = dict(group.arrays())
        assert set(arrays) == {
            *("hidden_states", "final_norm", "example_id", "token_digest", "n_tokens"),
            *("nonfinite", "max_abs", "mean", "layer"),
        }
        assert (arrays["hidden_states"][...] == hidden_states.view("u2")).all()
        for name, array in arrays.items():
            assert array.metadata.dimension_names is not None, name
            codecs = array.metadata.to_dict()["codecs"]
            if name in ("hidden_states", "final_norm"):
                (sharding,) = codecs
                assert sharding["name"] == "sharding_indexed"
                assert sharding["configuration"]["index_codecs"][-1]["name"] == "crc32c"
                codecs = sharding["configuration"]["codecs"]
                blosc = codecs[1]["configuration"]
                assert (blosc["cname"], blosc["clevel"], blosc["shuffle"]) == ("zstd", 1, "shuffle")
                assert (blosc["typesize"], blosc["blocksize"]) == (2, 1 << 20)
                assert [codec["name"] for codec in codecs] == ["bytes", "blosc", "crc32c"]
                assert array.attrs["logical_dtype"] == "bfloat16"
            else:
                assert [codec["name"] for codec in codecs] == ["bytes", "crc32c"], name


def test_xarray_alone_opens_an_entry(written):
    entry, hidden_states, _ = written
    with xr.open_zarr(folder(entry), chunks=None) as dataset:
        assert dataset.hidden_states.dims == ("layer", "example", "feature")
        assert dataset.hidden_states.dtype == np.uint16
        assert (dataset.hidden_states.sel(layer=4).values == hidden_states[1].view("u2")).all()
        assert dataset["mean"].dims == ("layer", "feature")


def test_the_whole_store_is_one_zarr_hierarchy(written):
    entry = written[0]
    root = zarr.open_group(root_of(entry), mode="r")
    assert {**root.attrs["actlas"], "checksum": ""} == {"format": 1, "batch_tokens": 16384, "checksum": ""}
    path = entry.path
    assert root[path].attrs["actlas"]["key"] == entry.key
    assert isinstance(root["models/pythia/rte"], zarr.Group)


@pytest.mark.parametrize("consolidated", [True, False])
def test_a_missing_chunk_reads_as_nan_through_plain_zarr(store: StoreWriter, consolidated: bool):
    """Not zeros: a reader that checks nothing gets values that cannot be mistaken for activations."""
    entry = write_tiny(store, tiny_spec(dtype="bfloat16"))
    shard = folder(entry) / "hidden_states" / "c.0.0.0"
    shard.parent.chmod(0o755)
    shard.unlink()
    array = zarr.open_group(folder(entry), mode="r", use_consolidated=consolidated)["hidden_states"]
    assert np.isnan(array[...].view(REAL["bfloat16"]).astype("f4")).all()
