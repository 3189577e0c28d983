"""Exporting: what other programs read is what was stored, and it is there whole or not at all."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from safetensors import safe_open

from actlas.store import (
    FORMS,
    AlreadyExists,
    Corrupt,
    Entry,
    InvalidInput,
    NotFound,
    Store,
    StoreWriter,
    check_not_restricted,
    export_entry,
    open_store,
)
from tests.servers.nginx import missing, nginx
from tests.store.tiny import (
    LEAF,
    REAL,
    flipped,
    folder,
    replaced,
    same_bits,
    tiny_model,
    tiny_spec,
    tiny_task,
    tiny_values,
    unlock,
    write_tiny,
)
from tests.torture.failing_disk import FailingDisk

Export = Callable[..., Path]


@pytest.fixture(params=sorted(REAL))
def entry(request: pytest.FixtureRequest, store: StoreWriter) -> Entry:
    """An entry of several superblocks, chunks and special values."""
    return write_tiny(store, tiny_spec(dtype=request.param, task=tiny_task(LEAF + 3), layers=(0, 2, 7)))


@pytest.fixture
def small(store: StoreWriter) -> Entry:
    """An entry of five examples."""
    return write_tiny(store, tiny_spec())


@pytest.fixture
def export(store: StoreWriter, tmp_path: Path) -> Export:
    """Export an entry of the store to `out`."""
    return lambda entry, **options: export_entry(store.reader, entry, tmp_path / "out", **options)


def portable(values: np.ndarray) -> np.ndarray:
    """bfloat16 as the float32 of which it is the upper half."""
    if values.dtype != REAL["bfloat16"]:
        return values
    return (values.view("u2").astype("u4") << 16).view("f4")


def test_npy_is_one_file_a_layer_as_in_the_paper(entry: Entry, export: Export, tmp_path: Path):
    path = export(entry)
    assert path == tmp_path / "out" / "pythia" / "rte"
    assert {file.name for file in path.iterdir()} == {
        "hidden_states_0.npy", "hidden_states_2.npy", "hidden_states_7.npy", "final_norm.npy", "examples.csv",
    }  # fmt: skip
    for layer in entry.layers:
        assert same_bits(np.load(path / f"hidden_states_{layer}.npy"), portable(entry.read(layer)))
    assert same_bits(np.load(path / "final_norm.npy"), portable(entry.final_norm[...]))
    header, *lines = (path / "examples.csv").read_text("utf-8").splitlines()
    assert header == "row,example_id,n_tokens"
    wanted = zip(entry.example_ids, entry.n_tokens.tolist(), strict=True)
    assert lines == [f"{row},{example},{n}" for row, (example, n) in enumerate(wanted)]


def test_safetensors_keeps_the_dtype(entry: Entry, export: Export, tmp_path: Path):
    path = export(entry, form="safetensors")
    assert path == tmp_path / "out" / "pythia" / "rte.safetensors"
    with safe_open(path, framework="np") as tensors:
        assert tensors.metadata() == {
            "model": "pythia", "task": "rte", "rendering": "raw", "position": "last", "id": entry.id, "layers": "0,2,7",
        }  # fmt: skip
        assert len(tensors.keys()) == 6
        for layer in entry.layers:
            assert same_bits(tensors.get_tensor(f"hidden_states.{layer}"), entry.read(layer))
        assert same_bits(tensors.get_tensor("final_norm"), entry.final_norm[...])
        assert tensors.get_tensor("n_tokens").tolist() == entry.n_tokens.tolist()
        assert [bytes(row).hex() for row in tensors.get_tensor("example_id")] == entry.example_ids


def test_torch_reads_the_tensors_bit_by_bit(entry: Entry, export: Export):
    torch = pytest.importorskip("torch", reason="reads safetensors with torch")
    from safetensors.torch import load_file

    loaded = load_file(export(entry, form="safetensors"))
    for layer in entry.layers:
        tensor = loaded[f"hidden_states.{layer}"]
        assert str(tensor.dtype) == f"torch.{entry.identity.dtype}"
        assert tensor.view(torch.uint8).numpy().tobytes() == entry.read(layer).tobytes()


def test_the_header_of_safetensors_leaves_the_numbers_aligned(small: Entry, export: Export):
    data = export(small, form="safetensors").read_bytes()
    n_header = int.from_bytes(data[:8], "little")
    assert n_header % 8 == 0
    header = json.loads(data[8 : 8 + n_header])
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    assert (max(ends), ends) == (len(data) - 8 - n_header, sorted(ends))


def test_zarr_is_a_dataset_without_anything_of_ours(entry: Entry, export: Export, tmp_path: Path):
    path = export(entry, form="zarr")
    assert path == tmp_path / "out" / "pythia" / "rte.zarr"
    assert b"actlas" not in b"".join(file.read_bytes() for file in path.rglob("zarr.json"))
    with xr.open_zarr(path) as dataset:
        ours = entry.to_xarray()
        assert dict(dataset.sizes) == dict(ours.sizes)
        assert dataset.attrs == {} == dataset["hidden_states"].attrs
        assert set(dataset.coords) == {"layer", "example", "n_tokens"}
        for name in ("hidden_states", "final_norm"):
            assert dataset[name].dims == ours[name].dims
            assert same_bits(dataset[name].values, portable(ours[name].values))
        assert dataset["layer"].values.tolist() == list(entry.layers)
        assert dataset["n_tokens"].dims == ("example",)
        assert dataset["n_tokens"].values.tolist() == entry.n_tokens.tolist()
        one = dataset["hidden_states"].sel(layer=7, example=entry.example_ids[LEAF])
        assert same_bits(one.values, portable(entry.read(7)[LEAF]))


@pytest.mark.parametrize("form", FORMS)
def test_some_layers_and_a_model_without_a_final_norm(store: StoreWriter, export: Export, form: str):
    entry = write_tiny(store, tiny_spec(model=tiny_model(norm_width=None), dtype="float32"))
    path = export(entry, form=form, layers=[2, 0, 2])
    if form == "npy":
        assert {file.name for file in path.iterdir()} == {"hidden_states_0.npy", "hidden_states_2.npy", "examples.csv"}
    elif form == "safetensors":
        with safe_open(path, framework="np") as tensors:
            assert set(tensors.keys()) == {"hidden_states.0", "hidden_states.2", "n_tokens", "example_id"}
            assert tensors.metadata()["layers"] == "0,2"
    else:
        with xr.open_zarr(path) as dataset:
            assert list(dataset.data_vars) == ["hidden_states"]
            assert dataset["layer"].values.tolist() == [0, 2]
            assert same_bits(dataset["hidden_states"].values, entry.hidden_states[[0, 2]])


@pytest.mark.parametrize("form", FORMS)
def test_a_restricted_task_is_exported_only_when_that_is_asked_for(
    store: StoreWriter, small: Entry, export: Export, tmp_path: Path, form: str
):
    store.label_task("rte", {"restricted": True, "licence": "LDC", "source": "https://example.org"})
    with pytest.raises(InvalidInput, match=r"'rte' .* is restricted .*LDC.*https://example.org.*--allow-restricted"):
        export(small, form=form)
    assert not (tmp_path / "out").exists()
    assert export(small, form=form, allow_restricted=True).exists()
    store.label_task("rte", {"restricted": False})
    check_not_restricted(store.reader, "rte", allow=False)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_there_already_is_left_alone(small: Entry, export: Export, tmp_path: Path, form: str):
    target = tmp_path / "out" / "pythia" / f"rte{FORMS[form].suffix}"
    for make in (lambda: target.write_text("x"), target.mkdir, lambda: target.symlink_to("nowhere")):
        target.parent.mkdir(parents=True, exist_ok=True)
        make()
        with pytest.raises(AlreadyExists, match=f"{target}: is there already; remove it, or export to another"):
            export(small, form=form)
        assert list(target.parent.iterdir()) == [target]
        target.rmdir() if target.is_dir() else target.unlink()


def test_places_that_cannot_be_exported_to(store: StoreWriter, small: Entry, tmp_path: Path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(store.root)
    places = {
        tmp_path / "file": "expected a directory to export to, got a file",
        store.root: "is inside the store",
        store.root / "models" / "x": "is inside the store",
        tmp_path / "link" / "x": "is inside the store",
    }
    before = sorted(tmp_path.rglob("*"))
    for place, match in places.items():
        with pytest.raises(InvalidInput, match=f"{place}: {match}"):
            export_entry(store.reader, small, place)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cannot_be_exported(small: Entry, export: Export, tmp_path: Path):
    with pytest.raises(NotFound, match=r"layer 3 is not kept; it has \[0, 1, 2\]"):
        export(small, layers=[0, 3])
    with pytest.raises(InvalidInput, match="expected at least one layer to export, got none"):
        export(small, layers=[])
    with pytest.raises(InvalidInput, match="form 'hdf5': expected one of npy, safetensors, zarr"):
        export(small, form="hdf5")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", FORMS)
def test_damage_that_is_met_on_the_way_leaves_nothing_behind(
    store: StoreWriter, export: Export, tmp_path: Path, form: str
):
    entry = write_tiny(store, tiny_spec(task=tiny_task(LEAF + 3)))
    unlock(store.root)
    chunk = max((folder(entry) / "final_norm").glob("c.*"))
    with replaced(chunk, flipped(chunk.read_bytes(), 5, 1)), pytest.raises(Corrupt, match="does not fit its checksum"):
        export(entry, form=form)
    assert list((tmp_path / "out" / "pythia").iterdir()) == []
    assert export(entry, form=form).exists()


@pytest.mark.parametrize("form", ["npy", "safetensors"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_at_any_operation_leaves_all_or_nothing(
    small: Entry, export: Export, tmp_path: Path, form: str, code: int
):
    counting = FailingDisk(0)
    whole = contents(export(small, form=form, disk=counting))
    assert counting.n_points > 20
    for lasting in (False, True):
        for at in range(1, counting.n_points + 1):
            place = tmp_path / f"{at}{lasting}"
            disk = FailingDisk(at, code, lasting=lasting)
            with pytest.raises(OSError, match=r"Input/output error|No space left"):
                export_entry(open_store(tmp_path / "lab.act"), small, place, form=form, disk=disk)
            target = place / "pythia" / f"rte{FORMS[form].suffix}"
            assert not target.exists() or contents(target) == whole


def contents(path: Path) -> dict[str, bytes]:
    files = path.rglob("*") if path.is_dir() else [path]
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("form", FORMS)
def test_an_entry_at_a_url_is_exported_like_any_other(full: Store, tmp_path: Path, form: str):
    if reason := missing():
        pytest.skip(reason)
    here = export_entry(full, full.entry(model="pythia", task="rte"), tmp_path / "here", form=form)
    with nginx(Path(full.location).parent) as url:
        remote = open_store(f"{url}/full.act")
        there = export_entry(remote, remote.entry(model="pythia", task="rte"), tmp_path / "there", form=form)
    files = sorted(path.relative_to(here) for path in here.rglob("*") if path.is_file()) if here.is_dir() else [Path()]
    assert all((here / file).read_bytes() == (there / file).read_bytes() for file in files)


@pytest.mark.parametrize("n", [1, 255, 256, LEAF - 1, LEAF, LEAF + 1])
def test_any_number_of_examples_is_exported(store: StoreWriter, export: Export, n: int):
    spec = tiny_spec(task=tiny_task(n), dtype="float16")
    values = tiny_values(spec)
    entry = write_tiny(store, spec, values)
    path = export(entry)
    assert same_bits(np.stack([np.load(path / f"hidden_states_{layer}.npy") for layer in (0, 1, 2)]), values[0])
    with xr.open_zarr(export(entry, form="zarr")) as dataset:
        assert same_bits(dataset["hidden_states"].values, values[0])
