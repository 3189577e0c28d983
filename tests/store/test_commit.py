"""An entry is there whole or not at all, whatever happens while it is written."""

import contextlib
import os
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest

from actlas.store import AlreadyExists, InvalidInput, StoreWriter, create_store, open_store, open_writer, verify
from actlas.store.catalog import read_catalog
from actlas.store.digest import file_digest
from actlas.store.disk import Disk
from actlas.store.lock import file_lock
from actlas.store.storage import LocalStorage
from actlas.store.withdraw import withdraw
from tests.store.tiny import (
    child_stops_halfway,
    child_writes,
    folder,
    long_spec,
    tiny_model,
    tiny_spec,
    tiny_task,
    tiny_values,
    unlock,
    write_superblocks,
    write_tiny,
)

NOBODY = 65534


def assert_empty_and_clean(store: StoreWriter):
    assert store.reader.models() == store.reader.tasks() == store.reader.entries() == []
    assert [found for found in verify(store.reader) if found.problems] == []


def test_nothing_is_visible_before_commit(store: StoreWriter):
    spec = tiny_spec()
    with store.new_entry(spec) as writer:
        writer.write(*tiny_values(spec))
        assert_empty_and_clean(store)
        assert store.find(spec) is None
        entry = store.commit(writer, {"device": "cpu"})
    assert store.find(spec).id == entry.id
    assert [found.id for found in store.reader.entries()] == [entry.id]
    assert entry.provenance == {"device": "cpu"}


@pytest.mark.parametrize("n_superblocks", [0, 1, 2])
def test_an_exception_inside_leaves_nothing_but_whole_superblocks_in_staging(store: StoreWriter, n_superblocks: int):
    spec = long_spec()

    def fail() -> None:
        with store.new_entry(spec) as writer:
            write_superblocks(writer, spec, n_superblocks)
            raise RuntimeError("the GPU is on fire")

    with pytest.raises(RuntimeError, match="the GPU is on fire"):
        fail()
    assert_empty_and_clean(store)
    assert len(list((store.root / ".staging").iterdir())) == (2 if n_superblocks else 0)
    with store.new_entry(spec) as writer:
        assert writer.n_written == 2048 * n_superblocks


def test_an_unfinished_entry_is_not_committed(store: StoreWriter):
    spec = tiny_spec(task=tiny_task(2049))
    hidden_states, final_norm = tiny_values(spec)
    with store.new_entry(spec) as writer:
        writer.write(hidden_states[:, :2048], final_norm[:2048])
        with pytest.raises(InvalidInput, match="expected 2049 rows, got 2048; write the rest first"):
            store.commit(writer, {})
    assert_empty_and_clean(store)


def test_a_wrong_superblock_is_refused_and_may_be_corrected(store: StoreWriter, tmp_path: Path):
    spec = tiny_spec()
    hidden_states, final_norm = tiny_values(spec)
    wrong = [
        ((hidden_states[:, :4], final_norm), r"of hidden_states: expected shape \(3, 5, 8\), got \(3, 4, 8\)"),
        ((hidden_states, final_norm[:, :3]), r"of final_norm: expected shape \(5, 6\), got \(5, 3\)"),
        ((hidden_states, None), r"expected the arrays \['hidden_states', 'final_norm'\]"),
        ((hidden_states.astype("f4"), final_norm), "expected dtype bfloat16, got float32; the store never rounds"),
        ((hidden_states, final_norm.view("u2")), "expected dtype bfloat16, got uint16"),
    ]
    with store.new_entry(spec) as writer:
        for blocks, message in wrong:
            with pytest.raises(InvalidInput, match=message):
                writer.write(*blocks)
        writer.write(hidden_states, final_norm)
        with pytest.raises(InvalidInput, match="all 5 rows are written already"):
            writer.write(hidden_states[:, :0], final_norm[:0])
        corrected = store.commit(writer, {})
    assert corrected.id == write_tiny(create_store(tmp_path / "right.act"), spec).id
    assert not any(found.problems for found in verify(store.reader))


def test_a_final_norm_that_the_model_lacks_is_refused(store: StoreWriter):
    spec = tiny_spec(model=tiny_model(norm_width=None))
    with (
        pytest.raises(InvalidInput, match=r"expected the arrays \['hidden_states'\], got"),
        store.new_entry(spec) as writer,
    ):
        writer.write(tiny_values(spec)[0], np.zeros((5, 8)))


def test_committed_files_and_directories_cannot_be_written(store: StoreWriter):
    entry = write_tiny(store, tiny_spec())
    paths = [folder(entry), *folder(entry).rglob("*"), store.root / "models" / "pythia" / "model.json"]
    assert len(paths) > 20
    assert [path for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o222] == []


@pytest.fixture
def owned_root() -> Iterator[Path]:
    """A directory that a child without privileges can reach and write."""
    directory = Path(tempfile.mkdtemp())
    if os.getuid() == 0:
        os.chown(directory, NOBODY, NOBODY)
    yield directory
    unlock(directory)
    shutil.rmtree(directory)


def test_a_user_without_privileges_commits(owned_root: Path, processes: ForkServerContext):
    root = create_store(owned_root / "lab.act").root
    user = None
    if os.getuid() == 0:
        user = NOBODY
        for path in (root, *root.rglob("*")):
            os.chown(path, user, user)
    answers = processes.Queue()
    process = processes.Process(target=child_writes, args=(str(root), answers, user))
    process.start()
    assert answers.get(timeout=60) == "begin"
    committed = answers.get(timeout=60)
    process.join()
    (entry,) = open_store(root).entries()
    assert entry.id == committed
    assert folder(entry).stat().st_uid == (user if user is not None else os.getuid())
    assert not any(found.problems for found in verify(open_store(root)))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Id of the long entry."""
    return write_tiny(create_store(tmp_path_factory.mktemp("uninterrupted") / "lab.act"), long_spec()).id


def test_a_kill_halfway_leaves_superblocks_that_the_next_run_takes_over(
    store: StoreWriter, processes: ForkServerContext, uninterrupted: str
):
    answers = processes.Queue()
    process = processes.Process(target=child_stops_halfway, args=(str(store.root), answers))
    process.start()
    assert answers.get(timeout=60) == "begin"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = store.root / ".staging" / long_spec().identity.key
    assert (left / "hidden_states" / "c.0.0.0").exists()
    (left / "stale").touch()
    assert_empty_and_clean(store)
    with store.new_entry(long_spec()) as writer:
        assert writer.n_written == 2048
    assert write_tiny(store, long_spec()).id == uninterrupted
    assert list((store.root / ".staging").iterdir()) == []


def test_a_second_writer_of_the_same_key_waits_says_so_and_finds_the_work_done(store: StoreWriter):
    spec, said, found = tiny_spec(), [], []

    def second() -> None:
        with open_writer(store.root).new_entry(spec, on_wait=said.append) as writer:
            found.append((writer.n_written, store.commit(writer, {}).id))

    with store.new_entry(spec) as writer:
        thread = threading.Thread(target=second)
        thread.start()
        while not said:
            time.sleep(0.01)
        writer.write(*tiny_values(spec))
        committed = store.commit(writer, {})
    thread.join(timeout=60)
    assert "another process is writing {'model': 'pythia'" in said[0]
    assert found == [(5, committed.id)]
    assert list((store.root / ".staging").iterdir()) == []


def test_the_second_of_two_commits_returns_the_entry_that_came_first(store: StoreWriter):
    spec = tiny_spec()
    first = write_tiny(store, spec, provenance={"run": 1})
    second = write_tiny(store, spec, provenance={"run": 2})
    assert (second.id, second.location) == (first.id, first.location)
    assert second.provenance == {"run": 1}
    assert list((store.root / ".staging").iterdir()) == []


def test_a_key_with_the_same_first_digits_is_refused(store: StoreWriter, tmp_path: Path):
    there, wanted = tiny_spec(plan_digest="01" * 32), tiny_spec(plan_digest="02" * 32)
    source = write_tiny(create_store(tmp_path / "other.act"), there).location
    collides = store.root / "models" / "pythia" / "rte" / f"raw-last-{wanted.identity.key[:8]}"
    shutil.copytree(source, collides)
    with pytest.raises(AlreadyExists, match="the first digits collide"):
        store.find(wanted)
    with pytest.raises(AlreadyExists, match="the first digits collide"):
        write_tiny(store, wanted)


def test_a_directory_without_a_manifest_is_in_the_way_and_is_named(store: StoreWriter):
    spec = tiny_spec()
    entry = write_tiny(store, spec)
    unlock(folder(entry))
    (folder(entry) / "manifest.json").unlink()
    assert store.find(spec) is None
    with pytest.raises(AlreadyExists, match=f"{folder(entry).name}: cannot be put there .*; `act rm` what stands"):
        write_tiny(store, spec)


def test_an_empty_directory_in_the_way_is_replaced(store: StoreWriter):
    spec = tiny_spec()
    (store.root / "models" / "pythia" / "rte" / f"raw-last-{spec.identity.key[:8]}").mkdir(parents=True)
    assert store.find(spec) is None
    assert store.reader.models() == []
    assert write_tiny(store, spec).n_examples == 5


def test_the_catalog_lists_what_is_committed(store: StoreWriter):
    first = write_tiny(store, tiny_spec())
    second = write_tiny(store, tiny_spec(task=tiny_task(3, "boolq"), dtype="float16", layers=(2,)))
    listing = read_catalog(LocalStorage(store.root))
    assert [record.id for record in listing.records] == [second.id, first.id]
    assert asdict(listing.records[0]) == {
        "path": second.path,
        "id": second.id,
        "key": second.key,
        "model": "pythia",
        "task": "boolq",
        "rendering": "raw",
        "position": "last",
        "dtype": "float16",
        "layers": (2,),
        "n_examples": 3,
        "width": 8,
        "n_bytes": second.manifest.n_bytes,
        "manifest_xxh3_128": file_digest(folder(second) / "manifest.json"),
    }


def test_an_entry_of_the_longest_names_is_listed_and_can_be_withdrawn(store: StoreWriter):
    model, task = tiny_model("m" * 101), tiny_task(3, "t" * 101)
    entry = write_tiny(store, tiny_spec(model=model, task=task, rendering="r" * 101, position="p" * 101))
    assert [record.id for record in read_catalog(LocalStorage(store.root)).records] == [entry.id]
    withdraw(store, entry.path)
    assert store.reader.models() == []
    assert [gone.path for gone in read_catalog(LocalStorage(store.root)).withdrawn] == [entry.path]


def test_one_damaged_entry_does_not_stop_the_commits_of_others(store: StoreWriter):
    damaged = write_tiny(store, tiny_spec())
    unlock(folder(damaged))
    (folder(damaged) / "manifest.json").write_text("{}")
    (store.root / "catalog.json").unlink()
    whole = write_tiny(store, tiny_spec(task=tiny_task(3, "boolq")))
    assert [record.id for record in read_catalog(LocalStorage(store.root)).records] == [whole.id]


def test_a_lock_is_free_again_when_its_holder_is_killed(
    store: StoreWriter, processes: ForkServerContext, uninterrupted: str
):
    answers = processes.Queue()
    process = processes.Process(target=child_stops_halfway, args=(str(store.root), answers))
    process.start()
    assert answers.get(timeout=60) == "begin"
    with (
        pytest.raises(AlreadyExists, match="another process is writing"),
        file_lock(store.root / ".staging" / f"{long_spec().identity.key}.lock", holder="writing", wait=False),
    ):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert write_tiny(store, long_spec()).id == uninterrupted


def test_a_lock_waits_for_its_holder_and_is_removed(tmp_path: Path):
    path, seen = tmp_path / "a.lock", []

    def wait() -> None:
        with file_lock(path, wait=True, holder="testing"):
            seen.append("held by the second")

    with file_lock(path, wait=False, holder="testing"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        seen.append("released by the first")
    thread.join(timeout=60)
    assert seen == ["released by the first", "held by the second"]
    assert not path.exists()


def test_of_many_writers_of_one_file_one_wins_and_the_file_is_its_own(tmp_path: Path):
    path, barrier = tmp_path / "model.json", threading.Barrier(8)

    def write(number: int) -> int | None:
        barrier.wait()
        with contextlib.suppress(FileExistsError):
            Disk().write_atomically(path, bytes([number]) * 100_000, replace=False)
            return number
        return None

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(write, range(8)) if number is not None]
    assert [path.read_bytes()] == [bytes([number]) * 100_000 for number in winners]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_whole_and_leaves_no_temporary_one(tmp_path: Path):
    path = tmp_path / "a.json"
    disk = Disk()
    disk.write_atomically(path, b"one")
    disk.write_atomically(path, b"two")
    with pytest.raises(FileExistsError, match="File exists"):
        disk.write_atomically(path, b"three", replace=False)
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]
