"""Copying a part of a store to another directory: byte by byte, verified, resumed, and visible last."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actlas.store import (
    ActError,
    AlreadyExists,
    Copied,
    Corrupt,
    Incomplete,
    InvalidInput,
    Mismatch,
    NotFound,
    ReadOnly,
    Store,
    StoreWriter,
    collect,
    copy_entries,
    create_store,
    open_store,
    open_writer,
    withdraw,
    write_limit,
)
from actlas.store.catalog import read_catalog
from actlas.store.digest import file_digest
from actlas.store.disk import Data, Disk
from actlas.store.excerpt import copy_excerpt
from actlas.store.mirror import Mirror
from actlas.store.storage import LocalStorage
from tests.cli.conftest import tree_digest
from tests.store.tiny import (
    LEAF,
    everything,
    flipped,
    folder,
    move_tree,
    problems_of,
    tiny_model,
    tiny_spec,
    tiny_task,
    tiny_values,
    unlock,
    write_tiny,
)

FROZEN = Path(__file__).parents[1] / "data" / "store-v1"


def copy(source: Store | Path, destination: Path, **options: Any) -> list[Copied]:
    """Copy to the end."""
    opened = source if isinstance(source, Store) else open_store(source)
    return list(copy_entries(opened, destination, **options))


def outcomes(copied: list[Copied]) -> list[tuple[str, str, str]]:
    return [(one.record.model, one.record.task, one.outcome) for one in copied]


def ids(store: Store) -> list[str]:
    return [record.id for record in store.records()]


def staging(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".staging").iterdir())


# Whole entries


def test_a_copy_is_the_same_files_with_the_same_bytes_and_modes(pristine: Path, tmp_path: Path):
    copied = copy(pristine, tmp_path / "copy.act")
    assert tree_digest(tmp_path / "copy.act") == tree_digest(pristine)
    assert [one.id for one in copied] == [one.record.id for one in copied] == ids(open_store(pristine))
    assert {one.outcome for one in copied} == {"copied"}
    assert problems_of(open_store(tmp_path / "copy.act")) == ""
    assert staging(tmp_path / "copy.act") == []


def test_a_second_copy_writes_nothing(pristine: Path, tmp_path: Path):
    copy(pristine, tmp_path / "copy.act")
    before = {path: path.stat().st_ino for path in (tmp_path / "copy.act").rglob("*") if path.is_file()}
    assert {outcome for _, _, outcome in outcomes(copy(pristine, tmp_path / "copy.act"))} == {"present"}
    assert {path: path.stat().st_ino for path in (tmp_path / "copy.act").rglob("*") if path.is_file()} == before


def test_a_frozen_store_is_copied_without_write_permissions(tmp_path: Path):
    copy(FROZEN, tmp_path / "copy.act")
    for entry in open_store(tmp_path / "copy.act").entries():
        of_source = open_store(FROZEN).entry(model=entry.model, task=entry.task)
        assert entry.id == of_source.id
        assert everything(entry) == everything(of_source)
        assert [path for path in folder(entry).rglob("*") if path.stat().st_mode & 0o222] == []
    assert open_store(tmp_path / "copy.act").labels("tuned") == {"trained_on": ["rte"], "seed": 7}


def test_entries_join_those_that_are_there(pristine: Path, store: StoreWriter):
    there = write_tiny(store, tiny_spec(dtype="float16"))
    copy(pristine, store.root, models=["pythia"])
    assert sorted(ids(store.reader)) == sorted(
        [there.id, *(one.id for one in open_store(pristine).entries(model="pythia"))]
    )
    assert read_catalog(LocalStorage(store.root)) == store.reader.listing()


def test_an_entry_that_stands_in_a_wrong_place_is_copied_to_the_right_one(full: Store, tmp_path: Path):
    entry = full.entry(model="pythia", task="rte")
    move_tree(folder(entry), folder(entry).with_name("raw-last-00000000"))
    copy(full, tmp_path / "copy.act", models=["pythia"], tasks=["rte"])
    assert [one.path for one in open_store(tmp_path / "copy.act").entries()] == [entry.path]
    assert problems_of(open_store(tmp_path / "copy.act")) == ""


# Choosing


@pytest.mark.parametrize(
    ("models", "tasks", "expected"),
    [
        ((), (), 4),
        (("pythia",), (), 2),
        (("pythia*",), ("boolq",), 2),
        (("*-dpo", "pythia"), ("r*", "b?olq"), 4),
        (("[!x]*-*",), ("rte",), 1),
    ],
)
def test_models_and_tasks_are_chosen_by_globs(
    pristine: Path, tmp_path: Path, models: tuple[str, ...], tasks: tuple[str, ...], expected: int
):
    chosen = list(open_store(pristine).select(models, tasks).records)
    assert len(chosen) == expected
    copied = copy(pristine, tmp_path / "copy.act", models=models, tasks=tasks)
    assert [one.record for one in copied] == chosen
    assert ids(open_store(tmp_path / "copy.act")) == [record.id for record in chosen]


def test_unknown_names_are_refused_with_what_is_near_and_nothing_is_made(full: Store, tmp_path: Path):
    destination = tmp_path / "copy.act"
    for options, message in (
        ({"models": ["pithia"]}, "no model fits 'pithia'; did you mean 'pythia'"),
        ({"models": ["pythia", "gpt*"]}, "no model fits 'gpt\\*'; there is: pythia, pythia-dpo"),
        ({"tasks": ["rtf"]}, "no task fits 'rtf'; did you mean 'rte'"),
        ({"tasks": [""]}, "no task fits ''; there is: boolq, rte"),
    ):
        with pytest.raises(NotFound, match=message):
            copy(full, destination, **options)
    withdraw(open_writer(full.location), full.entry(model="pythia", task="rte").path)
    with pytest.raises(NotFound, match="no entry of these models on these tasks; `act ls` lists what there is"):
        copy(full, destination, models=["pythia"], tasks=["rte"])
    assert not destination.exists()


# Destinations


def test_source_and_destination_may_not_be_one_store(full: Store, tmp_path: Path):
    (tmp_path / "link.act").symlink_to(full.location)
    before = tree_digest(Path(full.location))
    for destination in (Path(full.location), tmp_path / "link.act", tmp_path / "x" / ".." / "full.act"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(InvalidInput, match="lies in the store that is to be copied; choose another path"):
            copy(full, destination)
    assert tree_digest(Path(full.location)) == before


def test_a_destination_with_another_token_budget_is_refused(pristine: Path, tmp_path: Path):
    other = create_store(tmp_path / "other.act", batch_tokens=100).root
    before = tree_digest(other)
    with pytest.raises(InvalidInput, match=r"its batches have 100 tokens, those of .* 16384; .*a store of its own"):
        copy(pristine, other)
    assert tree_digest(other) == before


def test_a_new_destination_has_the_token_budget_of_the_source(tmp_path: Path):
    source = create_store(tmp_path / "source.act", batch_tokens=100)
    write_tiny(source, tiny_spec())
    copy(source.root, tmp_path / "copy.act")
    assert open_store(tmp_path / "copy.act").batch_tokens == 100


def test_a_destination_that_is_no_store_is_refused(pristine: Path, tmp_path: Path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("x")
    for place, error, message in (
        ("notes", NotFound, "is not an actlas store"),
        ("notes/todo.txt", NotFound, "is not an actlas store"),
        ("missing/copy.act", InvalidInput, "the store cannot be made there"),
    ):
        with pytest.raises(error, match=message):
            copy(pristine, tmp_path / place)
    with pytest.raises(ReadOnly, match="nothing can be written there; copy to a directory or an s3:// URL"):
        list(copy_entries(open_store(pristine), "http://127.0.0.1:9/copy.act"))
    assert [path.name for path in tmp_path.rglob("*")] == ["notes", "todo.txt"]


def test_other_values_under_the_same_key_are_a_mismatch(pristine: Path, store: StoreWriter):
    spec = tiny_spec()
    other = write_tiny(store, spec, tiny_values(spec, seed=9))
    before = tree_digest(store.root / "models") | tree_digest(store.root / "tasks")
    source = open_store(pristine).entry(model="pythia", task="rte")
    assert (source.key, source.id == other.id) == (other.key, False)
    with pytest.raises(
        Mismatch, match=rf"{other.location}: holds other values under this key: .*{source.id[:12]}.*{other.id[:12]}"
    ):
        copy(pristine, store.root, models=["pythia"], tasks=["rte"])
    assert tree_digest(store.root / "models") | tree_digest(store.root / "tasks") == before
    assert ids(store.reader) == [other.id]


@pytest.mark.parametrize("layers", [None, "0,2"])
def test_another_checkpoint_under_the_same_name_is_a_mismatch(pristine: Path, store: StoreWriter, layers: str | None):
    write_tiny(store, tiny_spec(model=tiny_model(base="0c"), task=tiny_task(7)))
    before = ids(store.reader)
    with pytest.raises(Mismatch, match="the name 'pythia' belongs to another checkpoint"):
        copy(pristine, store.root, models=["pythia"], layers=layers)
    assert ids(store.reader) == before
    assert problems_of(store.reader) == ""


def test_what_stands_in_the_way_is_named(pristine: Path, store: StoreWriter):
    path = open_store(pristine).entry(model="pythia", task="rte").path
    (store.root / path).mkdir(parents=True)
    (store.root / path / "notes.txt").write_text("x")
    with pytest.raises(AlreadyExists, match=rf"{path}: cannot be put there .*`act rm` what stands in its place"):
        copy(pristine, store.root, models=["pythia"], tasks=["rte"])
    assert (store.root / path / "notes.txt").read_text() == "x"
    shutil.rmtree(store.root / path)
    copy(pristine, store.root, models=["pythia"], tasks=["rte"])
    assert problems_of(store.reader) == ""


def test_a_copy_respects_the_limit_and_goes_on_when_it_is_raised(pristine: Path, store: StoreWriter):
    sizes = [record.n_bytes for record in open_store(pristine).records()]
    write_limit(store.disk, store.root, sum(sizes[:2]) + 10)
    with pytest.raises(InvalidInput, match=rf"hold {sum(sizes[:2]):,} bytes, {sizes[2]:,} more would exceed its limit"):
        copy(pristine, store.root)
    assert ids(store.reader) == ids(open_store(pristine))[:2]
    assert problems_of(store.reader) == ""
    write_limit(store.disk, store.root, None)
    assert [outcome for _, _, outcome in outcomes(copy(pristine, store.root))] == ["present"] * 2 + ["copied"] * 2
    assert ids(store.reader) == ids(open_store(pristine))


# Damage


def damage_byte(path: Path) -> None:
    path.write_bytes(flipped(path.read_bytes(), 10, 3))


def damage_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: dict[str, tuple[str, Callable[[Path], object], type[ActError]]] = {
    "a flipped bit in a shard": ("models/pythia/rte/*/hidden_states/c.0.0.0", damage_byte, Corrupt),
    "a shard cut short": ("models/pythia/rte/*/hidden_states/c.0.0.0", damage_end, ActError),
    "a missing shard": ("models/pythia/rte/*/hidden_states/c.0.0.0", Path.unlink, Incomplete),
    "another provenance": ("models/pythia/rte/*/provenance.json", lambda path: path.write_bytes(b"[]\n"), Corrupt),
    "a changed manifest": ("models/pythia/rte/*/manifest.json", damage_byte, Corrupt),
    "a damaged table": ("tasks/rte/*.parquet", damage_end, Corrupt),
    "a missing table": ("tasks/rte/*.parquet", Path.unlink, Incomplete),
    "a changed model": ("models/pythia/model.json", damage_byte, Corrupt),
    "changed labels": ("models/pythia/labels.json", damage_byte, Corrupt),
}


@pytest.mark.parametrize("layers", [None, "0,2"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_in_the_source_is_named_and_nothing_of_it_is_visible(
    full: Store, tmp_path: Path, damage: str, layers: str | None
):
    pattern, harm, error = DAMAGES[damage]
    [path] = Path(full.location).glob(pattern)
    harm(path)
    with pytest.raises(error, match=str(path)):
        copy(full, tmp_path / "copy.act", models=["pythia"], tasks=["rte"], layers=layers)
    if (tmp_path / "copy.act").exists():
        assert ids(open_store(tmp_path / "copy.act")) == []
        assert problems_of(open_store(tmp_path / "copy.act")) == ""


def test_what_was_copied_before_the_damage_stays_and_the_rest_comes_when_it_is_mended(full: Store, tmp_path: Path):
    path = folder(full.entries()[-1]) / "mean" / "c.0.0"
    before = path.read_bytes()
    damage_byte(path)
    copied = []
    with pytest.raises(Corrupt, match=str(path)):
        copied.extend(copy_entries(full, tmp_path / "copy.act"))
    destination = open_store(tmp_path / "copy.act")
    assert (len(ids(destination)), problems_of(destination)) == (3, "")
    path.write_bytes(before)
    assert [one.outcome for one in copy(full, tmp_path / "copy.act")] == ["present"] * 3 + ["copied"]
    assert ids(destination) == ids(full)


# Interruptions


class StopsAtWrite(Disk):
    """A disk whose n-th file is half-written when the process stops."""

    def __init__(self, at: int, stop: Callable[[], None]) -> None:
        self.at, self.stop, self.written = at, stop, []

    def write(self, path: Path, data: Data) -> None:
        self.written.append(path.name)
        if len(self.written) == self.at:
            super().write(path, memoryview(data)[: len(data) // 2])
            self.stop()
        super().write(path, data)


def pull_the_plug() -> None:
    raise ConnectionError("the plug was pulled")


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def copy_first(source: Path, destination: Path, disk: Disk) -> None:
    """Copy one entry through a disk."""
    opened = open_store(source)
    Mirror(StoreWriter(destination, disk=disk)).receive(opened, opened.entry(model="pythia", task="rte"))


def copy_and_die(source: str, destination: str, at: int) -> None:
    copy_first(Path(source), Path(destination), StopsAtWrite(at, kill_itself))


def whole_files(entry_in_staging: Path, files: dict[str, dict[str, Any]]) -> set[str]:
    return {
        name
        for name, file in files.items()
        if (entry_in_staging / name).exists() and file_digest(entry_in_staging / name) == file["xxh3_128"]
    }


@pytest.mark.parametrize("at", [1, 4, 10, 20, 25, 26])
@pytest.mark.parametrize("how", ["raises", "killed"])
def test_an_interrupted_copy_keeps_whole_files_only_and_goes_on(
    pristine: Path, store: StoreWriter, processes: ForkServerContext, at: int, how: str
):
    entry = open_store(pristine).entry(model="pythia", task="rte")
    if how == "raises":
        with pytest.raises(ConnectionError, match="the plug was pulled"):
            copy_first(pristine, store.root, StopsAtWrite(at, pull_the_plug))
    else:
        process = processes.Process(target=copy_and_die, args=(str(pristine), str(store.root), at))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert store.reader.entries() == []
    assert problems_of(store.reader) == ""
    kept = whole_files(store.root / ".staging" / f"copy-{entry.key}", entry.manifest.files)
    disk = StopsAtWrite(0, pull_the_plug)
    copy_first(pristine, store.root, disk)
    again = [name for name in disk.written if not name.endswith(".tmp")]
    assert len(again) == len(entry.manifest.files) - len(kept)
    assert ids(store.reader) == [entry.id]
    assert problems_of(store.reader) == ""
    assert [name for name in staging(store.root) if not name.endswith(".tmp")] == []


def test_what_is_whole_but_not_of_the_entry_is_removed_from_staging(pristine: Path, store: StoreWriter):
    entry = open_store(pristine).entry(model="pythia", task="rte")
    staged = store.root / ".staging" / f"copy-{entry.key}"
    (staged / "mean").mkdir(parents=True)
    for name in ("notes.txt", "mean/c.9.9", "manifest.json", "mean/c.0.0"):
        (staged / name).write_bytes(b"another entry's")
    copy(pristine, store.root, models=["pythia"], tasks=["rte"])
    assert problems_of(store.reader) == ""


def test_what_an_interrupted_copy_left_is_collected(pristine: Path, store: StoreWriter):
    with pytest.raises(ConnectionError, match="the plug was pulled"):
        copy_first(pristine, store.root, StopsAtWrite(20, pull_the_plug))
    assert [leftover.what for leftover in collect(store, older_than=0)] == ["an entry under construction"]
    assert staging(store.root) == []


def copy_slowly(source: str, destination: str, answers: Any) -> None:
    """Copy one entry and wait in the middle of it to be killed."""

    def wait() -> None:
        answers.put("begin")
        time.sleep(60)

    copy_first(Path(source), Path(destination), StopsAtWrite(20, wait))


def test_a_copy_at_work_is_not_collected(pristine: Path, store: StoreWriter, processes: ForkServerContext):
    answers = processes.Queue()
    process = processes.Process(target=copy_slowly, args=(str(pristine), str(store.root), answers))
    process.start()
    assert answers.get(timeout=60) == "begin"
    assert collect(store, older_than=0) == []
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(collect(store, older_than=0)) == 1


# Labels


def test_labels_of_models_and_tasks_come_along_and_are_merged(full: Store, tmp_path: Path):
    writer = open_writer(full.location)
    writer.label("pythia", {"trained_on": ["rte"], "seed": 3})
    writer.label_task("rte", {"licence": "LDC"})
    copy(full, tmp_path / "copy.act")
    destination = open_store(tmp_path / "copy.act")
    assert destination.labels("pythia") == {"family": "pythia", "trained_on": ["rte"], "seed": 3}
    assert (destination.task_labels("rte"), destination.task_labels("boolq")) == ({"licence": "LDC"}, {})
    open_writer(tmp_path / "copy.act").label("pythia", {"owner": "ada", "seed": 4})
    writer.label_task("rte", {"source": "LDC2011T07"})
    copy(full, tmp_path / "copy.act")
    assert destination.labels("pythia") == {"family": "pythia", "trained_on": ["rte"], "seed": 3, "owner": "ada"}
    assert destination.task_labels("rte") == {"licence": "LDC", "source": "LDC2011T07"}


def test_a_restricted_task_is_refused_with_its_terms_before_anything_is_made(full: Store, tmp_path: Path):
    writer = open_writer(full.location)
    writer.label_task("rte", {"restricted": True, "licence": "LDC", "source": "LDC2011T07"})
    message = (
        r"task 'rte' of .* is restricted \(licence: LDC; source: LDC2011T07\): prompts can be .*--allow-restricted"
    )
    for options in ({}, {"tasks": ["r*"]}, {"layers": "0"}):
        with pytest.raises(InvalidInput, match=message):
            copy(full, tmp_path / "copy.act", **options)
    assert not (tmp_path / "copy.act").exists()
    assert len(copy(full, tmp_path / "copy.act", tasks=["boolq"])) == 2
    writer.label_task("rte", {"restricted": False})
    assert len(copy(full, tmp_path / "copy.act")) == 4


class Watches(Disk):
    """A disk that notes which labels a task has when its examples, and then an entry, become visible."""

    def __init__(self, root: Path) -> None:
        self.root, self.seen = root, []

    def rename(self, source: Path, target: Path) -> None:
        if target.name.startswith("raw-last-") or target.suffix == ".parquet":
            self.seen.append((self.root / "tasks" / "rte" / "labels.json").read_text())
        super().rename(source, target)


@pytest.mark.parametrize("layers", [None, (0, 2)])
def test_the_label_restricted_is_there_before_the_entry_is(
    full: Store, store: StoreWriter, layers: tuple[int, ...] | None
):
    open_writer(full.location).label_task("rte", {"restricted": True})
    entry, disk = full.entry(model="pythia", task="rte"), Watches(store.root)
    writer = StoreWriter(store.root, disk=disk)
    if layers is None:
        Mirror(writer).receive(full, entry)
    else:
        copy_excerpt(full, entry, layers, writer)
    assert len(disk.seen) == 2
    assert all('"restricted": true' in seen for seen in disk.seen)
    with pytest.raises(InvalidInput, match="is restricted"):
        copy(store.reader, store.root.with_name("further.act"))


def test_a_restricted_task_stays_restricted_wherever_it_is_copied(full: Store, tmp_path: Path):
    open_writer(full.location).label_task("rte", {"restricted": True})
    copy(full, tmp_path / "one.act", allow_restricted=True)
    copy(tmp_path / "one.act", tmp_path / "two.act", allow_restricted=True, layers="0")
    assert open_store(tmp_path / "two.act").task_labels("rte") == {"restricted": True}


def test_tombstones_stay_where_they_are_and_go_where_the_entry_comes(full: Store, tmp_path: Path):
    writer, entry = open_writer(full.location), full.entry(model="pythia", task="rte")
    copy(full, tmp_path / "copy.act")
    destination = open_store(tmp_path / "copy.act")
    withdraw(writer, entry.path, why="wrong template")
    copy(full, tmp_path / "copy.act")
    assert destination.listing().withdrawn == ()
    assert entry.id in ids(destination)
    withdraw(open_writer(tmp_path / "copy.act"), full.entry(model="pythia", task="boolq").path)
    copy(full, tmp_path / "copy.act")
    assert destination.listing().withdrawn == read_catalog(LocalStorage(tmp_path / "copy.act")).withdrawn == ()
    assert list((tmp_path / "copy.act").rglob("*.withdrawn.json")) == []


# Some layers


@pytest.fixture(scope="module")
def long_source(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One entry of two superblocks; not to be changed."""
    store = create_store(tmp_path_factory.mktemp("long") / "lab.act")
    write_tiny(store, tiny_spec(task=tiny_task(LEAF + 2, "long")), provenance={"device": "cpu"})
    return store.reader


def ingested(root: Path, task: str, n: int, layers: tuple[int, ...]) -> Store:
    """A store in which only some layers of the entry were ever written."""
    spec = tiny_spec(task=tiny_task(n, task), layers=layers)
    hidden_states, norm = tiny_values(tiny_spec(task=tiny_task(n, task)))
    store = create_store(root)
    write_tiny(store, spec, (np.ascontiguousarray(hidden_states[list(layers)]), norm))
    return store.reader


@pytest.mark.parametrize(
    ("text", "layers"), [("0", (0,)), ("0,2", (0, 2)), ("-1", (2,)), ("1:", (1, 2)), ("0:9:2", (0, 2))]
)
def test_some_layers_are_what_an_ingest_of_these_layers_gives(
    pristine: Path, tmp_path: Path, text: str, layers: tuple[int, ...]
):
    [copied] = copy(pristine, tmp_path / "copy.act", models=["pythia"], tasks=["rte"], layers=text)
    assert_same_but_for_provenance(tmp_path / "copy.act", ingested(tmp_path / "ingested.act", "rte", 5, layers))
    assert copied.id == ids(open_store(tmp_path / "copy.act"))[0] != copied.record.id


def test_some_layers_of_several_superblocks_too(long_source: Store, tmp_path: Path):
    copy(long_source, tmp_path / "copy.act", layers="0,2")
    assert_same_but_for_provenance(tmp_path / "copy.act", ingested(tmp_path / "ingested.act", "long", LEAF + 2, (0, 2)))


def assert_same_but_for_provenance(copied: Path, wanted: Store) -> None:
    [found], [expected] = open_store(copied).entries(), wanted.entries()
    assert (found.key, found.id, found.path) == (expected.key, expected.id, expected.path)
    contents = [everything(entry) for entry in (found, expected)]
    for content in contents:
        content.pop("provenance")
    assert contents[0] == contents[1]
    assert problems_of(open_store(copied)) == ""


def test_the_provenance_of_some_layers_names_their_source(long_source: Store, tmp_path: Path):
    copy(long_source, tmp_path / "copy.act", layers="0")
    [source], [part] = long_source.entries(), open_store(tmp_path / "copy.act").entries()
    assert part.provenance == {"device": "cpu", "copied_from": {"location": source.location, "id": source.id}}


def test_some_layers_a_second_time_are_there_already(pristine: Path, tmp_path: Path):
    options = {"models": ["pythia"], "layers": "0"}
    first = copy(pristine, tmp_path / "copy.act", **options)
    before = tree_digest(tmp_path / "copy.act")
    second = copy(pristine, tmp_path / "copy.act", **options)
    assert tree_digest(tmp_path / "copy.act") == before
    assert [one.outcome for one in first + second] == ["copied"] * 2 + ["present"] * 2
    assert [one.id for one in first] == [one.id for one in second]


def test_all_layers_by_number_are_a_copy_byte_by_byte(pristine: Path, tmp_path: Path):
    copy(pristine, tmp_path / "copy.act", layers="0:")
    assert tree_digest(tmp_path / "copy.act") == tree_digest(pristine)


def test_whole_and_part_live_beside_each_other(pristine: Path, tmp_path: Path):
    for layers in (None, "0"):
        copy(pristine, tmp_path / "copy.act", models=["pythia"], tasks=["rte"], layers=layers)
    entries = open_store(tmp_path / "copy.act").entries()
    assert sorted(entry.layers for entry in entries) == [(0,), (0, 1, 2)]
    assert problems_of(open_store(tmp_path / "copy.act")) == ""


def test_a_shard_of_another_entry_is_found_when_some_layers_are_copied(store: StoreWriter, tmp_path: Path):
    specs = [tiny_spec(plan_digest=digest * 32) for digest in ("91", "77")]
    shards = [
        folder(write_tiny(store, spec, tiny_values(spec, seed))) / "hidden_states" / "c.0.0.0"
        for seed, spec in enumerate(specs)
    ]
    unlock(store.root)
    assert shards[0].stat().st_size == shards[1].stat().st_size
    shards[0].write_bytes(shards[1].read_bytes())
    with pytest.raises(Corrupt, match=rf"{shards[0]}: its bytes are not those that were written"):
        copy(store.root, tmp_path / "copy.act", layers="0")
    assert [
        entry.id for entry in open_store(tmp_path / "copy.act").entries() if entry.key == specs[0].identity.key
    ] == []


def test_other_values_under_the_key_of_some_layers_are_a_mismatch(pristine: Path, store: StoreWriter):
    copy(pristine, store.root, models=["pythia"], tasks=["rte"], layers="0,2")
    spec = tiny_spec(layers=(0, 2))
    other = create_store(store.root.with_name("other.act"))
    write_tiny(other, spec, tiny_values(spec, 5))
    with pytest.raises(Mismatch, match=r"holds other values under this key: expected id .*`act rm` it, or copy into"):
        copy(pristine, other.root, models=["pythia"], tasks=["rte"], layers="0,2")


def test_damage_of_another_model_stops_no_copy(full: Store, store: StoreWriter):
    damaged = folder(full.entry(model="pythia-dpo", task="rte")) / "manifest.json"
    damaged.write_text("{}")
    assert len(copy(full, store.root, models=["pythia"])) == 2
    with pytest.raises(Corrupt, match=str(damaged)):
        copy(full, store.root)


def test_a_task_that_is_restricted_at_the_destination_stays_so(full: Store, tmp_path: Path):
    there = tmp_path / "there.act"
    copy(full, there)
    open_writer(there).label_task("rte", {"restricted": True})
    open_writer(full.location).label_task("rte", {"restricted": False, "licence": "MIT"})
    copy(full, there)
    copy(full, there, layers="0")
    assert open_store(there).task_labels("rte") == {"restricted": True, "licence": "MIT"}


def test_a_store_is_not_copied_into_itself(full: Store):
    with pytest.raises(InvalidInput, match="lies in the store that is to be copied; choose another path"):
        copy(full, Path(full.location) / "models" / "inner")


def test_layers_of_layers_are_those_that_are_kept(tmp_path: Path):
    source = ingested(tmp_path / "source.act", "rte", 5, (0, 2))
    with pytest.raises(InvalidInput, match="layers '1': the entry has layers 0, 2, got 1"):
        copy(source, tmp_path / "copy.act", layers="1")
    copy(source, tmp_path / "copy.act", layers="1:")
    assert [entry.layers for entry in open_store(tmp_path / "copy.act").entries()] == [(2,)]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("7", "the entry has layers 0, 1, 2, got 7"),
        ("upper", "expected numbers and slices such as 0,4,8 or 0:33:2, got 'upper'"),
        ("", "expected numbers and slices"),
        ("2:1", "names no layer of 0, 1, 2"),
    ],
)
def test_layers_that_are_not_there_are_refused(pristine: Path, store: StoreWriter, layers: str, message: str):
    before = tree_digest(store.root)
    for destination in (store.root, store.root.with_name("new.act")):
        with pytest.raises(InvalidInput, match=message):
            copy(pristine, destination, layers=layers)
    assert tree_digest(store.root) == before
    assert not store.root.with_name("new.act").exists()


def test_layers_that_one_of_several_models_lacks_are_refused_before_anything_is_copied(tmp_path: Path):
    source = ingested(tmp_path / "source.act", "boolq", 5, (0, 1, 2))
    write_tiny(open_writer(source.location), tiny_spec(layers=(0,)))
    with pytest.raises(InvalidInput, match="layers '1': the entry has layers 0, got 1"):
        copy(source, tmp_path / "copy.act", layers="1")
    assert not (tmp_path / "copy.act").exists()


class StopsAtSuperblock(Disk):
    """A disk that fails when the second superblock is noted in the journal."""

    n_noted = 0

    def append(self, path: Path, data: Data) -> None:
        self.n_noted += 1
        if self.n_noted == 2:
            pull_the_plug()
        super().append(path, data)


def test_an_interrupted_copy_of_layers_goes_on_from_its_last_superblock(
    long_source: Store, store: StoreWriter, tmp_path: Path
):
    [entry] = long_source.entries()
    with pytest.raises(ConnectionError, match="the plug was pulled"):
        copy_excerpt(long_source, entry, (0, 2), StoreWriter(store.root, disk=StopsAtSuperblock()))
    assert (store.reader.entries(), problems_of(store.reader)) == ([], "")
    disk = StopsAtSuperblock()
    copy_excerpt(long_source, entry, (0, 2), StoreWriter(store.root, disk=disk))
    assert disk.n_noted == 1
    assert_same_but_for_provenance(store.root, ingested(tmp_path / "ingested.act", "long", LEAF + 2, (0, 2)))
    assert staging(store.root) == []


def test_a_copy_of_layers_respects_the_limit(pristine: Path, store: StoreWriter):
    write_limit(store.disk, store.root, 1000)
    with pytest.raises(InvalidInput, match="would exceed its limit of 1,000"):
        copy(pristine, store.root, layers="0")
    assert store.reader.entries() == []
    write_limit(store.disk, store.root, None)
    assert len(copy(pristine, store.root, layers="0")) == 4
    assert problems_of(store.reader) == ""
