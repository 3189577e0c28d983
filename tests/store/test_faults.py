"""Damage of every kind is named, and never read as a value."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actlas.store import Corrupt, Entry, Incomplete, Store, create_store, verify
from actlas.store.digest import file_digest
from actlas.store.disk import Disk
from actlas.store.manifest import Manifest, list_files, write_manifest
from tests.store.tiny import (
    flipped,
    folder,
    move_tree,
    replaced,
    same_bits,
    tiny_model,
    tiny_spec,
    tiny_task,
    write_tiny,
)


def test_a_whole_store_verifies_and_says_how_much_it_read(full: Store):
    found = list(verify(full))
    assert [line.problems for line in found] == [()] * 4
    assert [line.path for line in found] == [entry.path for entry in full.entries()]
    assert [line.n_bytes for line in found] == [entry.manifest.n_bytes for entry in full.entries()]
    assert [line.path.split("/")[1] for line in verify(full, model="pythia-dpo")] == ["pythia-dpo"] * 2


def test_no_bit_of_the_metadata_that_steer_reading_can_be_wrong(full: Store):
    """A chunk shape or key separator that is off by one bit would make zarr read missing chunks as NaN."""
    path = folder(full.entry(model="pythia", task="rte")) / "zarr.json"
    data = path.read_bytes()
    at = data.index(b'"separator": "."') + len('"separator": "')
    with replaced(path, flipped(data, at, 0)):
        assert b'"separator": "/"' in path.read_bytes()
        with pytest.raises(Corrupt, match=r"zarr.json: its bytes are not those that were written"):
            full.entry(model="pythia", task="rte")


def test_metadata_that_agree_with_the_manifest_but_not_with_zarr_are_corrupt(full: Store):
    """A writer with a fault of its own: everything fits its digest, and still nothing can be opened."""
    entry = full.entry(model="pythia", task="rte")
    rewrite(entry, lambda metadata: metadata.update(zarr_format=9))
    with pytest.raises(Corrupt, match="its Zarr metadata cannot be read"):
        full.entry(model="pythia", task="rte")


def test_an_array_of_another_shape_than_recorded_is_corrupt(full: Store):
    entry = full.entry(model="pythia", task="rte")
    arrays = "consolidated_metadata", "metadata", "hidden_states"
    rewrite(entry, lambda metadata: metadata[arrays[0]][arrays[1]][arrays[2]].update(shape=[3, 4, 8]))
    with pytest.raises(Corrupt, match=r"hidden_states/zarr.json: expected shape \(3, 5, 8\), got \(3, 4, 8\)"):
        full.entry(model="pythia", task="rte")


def rewrite(entry: Entry, change) -> None:
    metadata = json.loads((folder(entry) / "zarr.json").read_text())
    change(metadata)
    (folder(entry) / "zarr.json").write_text(json.dumps(metadata))
    old = entry.manifest
    files = {
        name: {"size": (folder(entry) / name).stat().st_size, "xxh3_128": file_digest(folder(entry) / name)}
        for name in list_files(folder(entry))
    }
    fresh = Manifest(names=old.names, identity=old.identity, arrays=old.arrays, files=files)
    write_manifest(Disk(), folder(entry), fresh)


def test_a_file_that_does_not_belong_is_reported(full: Store):
    entry = full.entry(model="pythia", task="rte")
    (folder(entry) / "hidden_states" / "c.9.9.9").write_bytes(b"more")
    found = [line for one in verify(full) for line in one.problems]
    assert found == [f"{folder(entry)}/hidden_states/c.9.9.9: not part of the entry"]


def test_a_task_table_that_is_missing_or_changed_is_found(full: Store):
    entry = full.entry(model="pythia", task="rte")
    (path,) = (Path(full.location) / "tasks" / "rte").glob("*.parquet")
    assert entry.read_task().rows == tiny_task().rows
    for table, error, message in (
        (None, Incomplete, "the table of task 'rte' is missing"),
        (b"PAR1", Corrupt, "not a readable Parquet file"),
        (path.read_bytes()[:-9], Corrupt, "not a readable Parquet file"),
    ):
        with replaced(path, table):
            with pytest.raises(error, match=message):
                entry.read_task()
            assert message in "\n".join(line for found in verify(full, model="pythia") for line in found.problems)
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    with pytest.raises(Corrupt, match=r"expected a task of digest .*; the file was changed"):
        entry.read_task()
    assert [bool(found.problems) for found in verify(full)] == [False, True, False, True]
    assert same_bits(entry.read(0), full.entry(model="pythia", task="rte").read(0))


def test_a_model_of_another_digest_beside_an_entry_is_found(full: Store):
    other = create_store(Path(full.location).parent / "other.act")
    write_tiny(other, tiny_spec(model=tiny_model(base="cc")))
    shutil.copy(other.root / "models/pythia/model.json", Path(full.location) / "models/pythia/model.json")
    problems = [found.problems for found in verify(full, model="pythia")]
    assert len(problems) == 2
    assert all("model.json beside it describes another checkpoint" in line for (line,) in problems)


def test_an_entry_moved_to_another_task_or_name_is_found(full: Store):
    entry = full.entry(model="pythia", task="rte")
    elsewhere = folder(entry).parents[1] / "boolq" / folder(entry).name
    move_tree(folder(entry), elsewhere)
    (found,) = (found for found in verify(full) if found.problems)
    assert found.problems == (f"{elsewhere}: this entry belongs in {folder(entry).parent}",)
    renamed = folder(entry).with_name("raw-last-00000000")
    move_tree(elsewhere, renamed)
    (found,) = (found for found in verify(full) if found.problems)
    assert found.problems == (f"{renamed}: this entry belongs in {folder(entry).parent}",)
