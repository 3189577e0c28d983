"""Entries in which every token is a row, and entries that keep the model's outputs beside its states."""

import dataclasses
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import load_file

from actlas.store import (
    Entry,
    EntrySpec,
    InvalidInput,
    NotFound,
    Store,
    StoreWriter,
    copy_entries,
    create_store,
    export_entry,
    open_store,
    verify,
)
from actlas.store.spec import superblock_rows
from tests.store.tiny import flipped, folder, problems_of, replaced_in_place, same_bits, tiny_spec, tiny_task

N_TOKENS = (3, 1, 5, 2, 4, 3, 5, 1, 2)
ORDER = (2, 6, 4, 0, 5, 3, 8, 1, 7)  # longest first, as a plan computes them


@pytest.fixture
def store(tmp_path: Path) -> StoreWriter:
    return create_store(tmp_path / "lab.act")


@pytest.fixture(autouse=True)
def small_superblocks(monkeypatch: pytest.MonkeyPatch):
    """Superblocks of 4 rows: three layers of 8 features in bfloat16 are 48 bytes a row."""
    monkeypatch.setattr("actlas.store.spec.RAGGED_BYTES", 200)


def ragged_spec(**changes: object) -> EntrySpec:
    spec = tiny_spec(task=tiny_task(len(N_TOKENS)), position="all")
    starts = dict(zip(ORDER, np.cumsum([0, *(N_TOKENS[row] for row in ORDER[:-1])]).tolist(), strict=True))
    return dataclasses.replace(
        spec, n_tokens=N_TOKENS, offsets=[starts[row] for row in range(len(N_TOKENS))], **changes
    )


def ragged_values(spec: EntrySpec) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(0).integers(0, 2**15, (4, spec.n_rows, 8)).astype("u2").view(ml_dtypes.bfloat16)
    return values[:3], np.ascontiguousarray(values[3, :, :6])


def write_rows(store: StoreWriter, spec: EntrySpec, stop: int | None = None, **provenance: object) -> Entry | None:
    hidden_states, final_norm = ragged_values(spec)
    with store.new_entry(spec) as writer:
        for start in range(writer.n_written, spec.n_rows, spec.superblock_rows):
            if stop is not None and start >= stop:
                return None
            rows = slice(start, start + spec.superblock_rows)
            writer.write(hidden_states[:, rows], final_norm[rows])
        return store.commit(writer, provenance)


@pytest.mark.parametrize(
    ("row_bytes", "rows"),
    [(1, 2048), (33 * 4096 * 2, 512), (200 << 20, 1), (1 << 40, 1), (131072, 2048), (131073, 1024)],
)
def test_superblocks_of_tokens_hold_256_mib(row_bytes: int, rows: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("actlas.store.spec.RAGGED_BYTES", 256 << 20)
    assert superblock_rows(row_bytes, is_ragged=True) == rows
    assert superblock_rows(row_bytes, is_ragged=False) == 2048


def test_the_tokens_of_an_example_are_found_again(store: StoreWriter):
    spec = ragged_spec()
    assert spec.superblock_rows == 4
    entry = write_rows(store, spec)
    hidden_states, final_norm = ragged_values(spec)
    assert (entry.n_examples, entry.n_rows, entry.is_ragged) == (9, 26, True)
    first = 0
    for row in ORDER:
        rows = entry.rows_of(row)
        assert (rows.start, rows.stop) == (first, first + N_TOKENS[row])
        assert same_bits(entry.read(1, rows), hidden_states[1, rows])
        assert same_bits(entry.final_norm[rows], final_norm[rows])
        assert [entry.example_at(place) for place in range(rows.start, rows.stop)] == [row] * N_TOKENS[row]
        first = rows.stop
    assert entry.nonfinite.shape == entry.max_abs.shape == (3, 26)
    assert store.reader.records()[0].n_examples == 9
    assert not any(found.problems for found in verify(store.reader))


def test_an_interrupted_entry_of_tokens_goes_on(store: StoreWriter, tmp_path: Path):
    spec = ragged_spec()
    assert write_rows(store, spec, stop=12) is None
    with store.new_entry(spec) as writer:
        assert writer.n_written == 12
    resumed, whole = write_rows(store, spec), write_rows(create_store(tmp_path / "whole.act"), spec)
    assert resumed.id == whole.id
    assert not any(found.problems for found in verify(store.reader))


def test_offsets_belong_to_the_id_and_lie_inside(store: StoreWriter, tmp_path: Path):
    spec = ragged_spec()
    entry = write_rows(store, spec)
    swapped = dataclasses.replace(spec, offsets=[*spec.offsets[1::-1], *spec.offsets[2:]])
    assert write_rows(create_store(tmp_path / "other.act"), swapped).id != entry.id
    path = next(folder(entry).glob("offset/c*"))
    with replaced_in_place(path, flipped(path.read_bytes(), 5, 6)):
        assert "offset" in problems_of(store.reader)


def test_some_layers_of_tokens_are_copied_as_an_ingest_of_them_would_be(store: StoreWriter, tmp_path: Path):
    spec = ragged_spec()
    write_rows(store, spec)
    fewer = dataclasses.replace(spec, identity=dataclasses.replace(spec.identity, layers=(0, 2)))
    hidden_states, final_norm = ragged_values(spec)
    direct = create_store(tmp_path / "direct.act")
    with direct.new_entry(fewer) as writer:
        for start in range(0, fewer.n_rows, fewer.superblock_rows):
            rows = slice(start, start + fewer.superblock_rows)
            writer.write(np.ascontiguousarray(hidden_states[::2, rows]), final_norm[rows])
        expected = direct.commit(writer, {})
    for _ in range(2):  # the second time it is there, and is compared
        copied = list(copy_entries(store.reader, tmp_path / "copy.act", layers="0,2"))
        assert [one.id for one in copied] == [expected.id]
    assert open_store(tmp_path / "copy.act").entries()[0].rows_of(6) == direct.reader.entries()[0].rows_of(6)


def test_tokens_are_exported_with_their_offsets(store: StoreWriter, tmp_path: Path):
    entry = write_rows(store, ragged_spec())
    states = entry.hidden_states[...].astype("f4")
    folder_of = export_entry(store.reader, entry, tmp_path / "npy")
    assert np.array_equal(np.load(folder_of / "hidden_states_1.npy"), states[1], equal_nan=True)
    lines = (folder_of / "examples.csv").read_text().splitlines()
    assert lines[0] == "row,example_id,n_tokens,offset"
    assert [line.split(",")[3] for line in lines[1:]] == list(map(str, entry.offsets))
    tensors = load_file(export_entry(store.reader, entry, tmp_path / "st", form="safetensors"))
    assert np.array_equal(tensors["offset"], entry.offsets)
    opened = xr.open_zarr(export_entry(store.reader, entry, tmp_path / "zarr", form="zarr"))
    assert opened.hidden_states.dims == ("layer", "token", "feature")
    assert opened.sizes["example"] == 9
    assert np.array_equal(opened.offset, entry.offsets)
    assert np.array_equal(entry.to_xarray().hidden_states.astype("f4"), states, equal_nan=True)
    assert entry.to_xarray(chunks={}).sizes["token"] == 26


def outputs_of(n: int, k: int = 4) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    floats = {name: random.normal(size=n).astype("f4") for name in ("log_sum_exp", "entropy", "target_nll")}
    return {
        "top_token": random.integers(0, 99, (n, k)).astype("i4"),
        "top_logit": random.normal(size=(n, k)).astype("f4"),
        **floats,
    }


def outputs_spec(n: int = 4100) -> EntrySpec:
    spec = tiny_spec(task=tiny_task(n))
    return dataclasses.replace(
        spec,
        identity=dataclasses.replace(spec.identity, outputs=True),
        n_top=4,
        n_target_tokens=[row % 3 for row in range(n)],
    )


def write_outputs(store: StoreWriter, spec: EntrySpec, n_superblocks: int = 9) -> Entry | None:
    states, outputs = np.ones((3, len(spec.task), 8), ml_dtypes.bfloat16), outputs_of(len(spec.task))
    with store.new_entry(spec) as writer:
        for start in range(writer.n_written, len(spec.task), 2048):
            if n_superblocks == 0:
                return None
            rows = slice(start, start + 2048)
            writer.write(states[:, rows], states[0, rows, :6], **{name: data[rows] for name, data in outputs.items()})
            n_superblocks -= 1
        return store.commit(writer, {})


def test_outputs_are_kept_beside_states_also_when_interrupted(store: StoreWriter, tmp_path: Path):
    spec = outputs_spec()
    assert write_outputs(store, spec, 1) is None
    entry = write_outputs(store, spec)
    assert entry.id == write_outputs(create_store(tmp_path / "whole.act"), spec).id
    assert entry.has_outputs
    for name, expected in outputs_of(4100).items():
        assert same_bits(entry.outputs[name], expected)
    assert entry.n_target_tokens.tolist() == list(spec.n_target_tokens)
    dataset = entry.to_xarray()
    assert dataset.top_token.dims == ("example", "rank")
    assert same_bits(dataset.entropy.values, entry.outputs["entropy"])
    copied = list(copy_entries(store.reader, tmp_path / "copy.act", layers="0"))
    there = open_store(tmp_path / "copy.act").entries()[0]
    assert there.id == copied[0].id
    assert same_bits(there.outputs["top_logit"], entry.outputs["top_logit"])


def test_an_entry_with_outputs_stands_beside_one_without(store: StoreWriter):
    spec = outputs_spec(5)
    plain = dataclasses.replace(spec, identity=dataclasses.replace(spec.identity, outputs=False), n_top=None)
    assert "outputs" not in plain.identity.as_json()
    assert plain.identity.key != spec.identity.key
    entry = write_outputs(store, spec)
    assert json.loads((folder(entry) / "manifest.json").read_text())["identity"]["outputs"] is True
    with store.new_entry(plain) as writer, pytest.raises(InvalidInput, match="expected the arrays"):
        writer.write(np.ones((3, 5, 8), ml_dtypes.bfloat16), np.ones((5, 6), ml_dtypes.bfloat16), **outputs_of(5))


def test_what_an_entry_does_not_keep_is_said(tmp_path: Path):
    store: Store = open_store(Path(__file__).parents[1] / "data" / "store-v1")
    entry = store.entries()[0]
    assert not entry.is_ragged
    assert not entry.has_outputs
    assert entry.rows_of(2) == slice(2, 3)
    for name in ("offsets", "outputs", "n_target_tokens"):
        with pytest.raises(NotFound, match="has no array"):
            getattr(entry, name)
