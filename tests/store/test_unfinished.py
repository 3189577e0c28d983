"""What stands in staging under a key is told without waiting for its writer or touching it."""

import threading
from pathlib import Path

from actlas.store import create_store, store_exists
from actlas.store.unfinished import find_unfinished
from tests.store.tiny import long_spec, write_superblocks, write_tiny


def test_an_entry_under_construction_is_counted_by_its_journal(tmp_path: Path):
    spec, root = long_spec(), tmp_path / "lab.act"
    key = spec.identity.key
    assert find_unfinished(root, key) == (None, 0)
    store = create_store(root)
    assert find_unfinished(root, key) == (None, 0)
    with store.new_entry(spec) as writer:
        assert find_unfinished(root, key) == ("running", 0)
        write_superblocks(writer, spec, 2)
        assert find_unfinished(root, key) == ("running", 2)
    before = sorted(root.rglob("*"))
    assert find_unfinished(root, key) == ("interrupted", 2)
    assert find_unfinished(root, "0" * 64) == (None, 0)
    assert sorted(root.rglob("*")) == before
    journal = root / ".staging" / f"{key}.journal"
    journal.write_bytes(journal.read_bytes()[:-10])  # as a crash would cut it
    assert find_unfinished(root, key) == ("interrupted", 1)
    journal.unlink()
    assert find_unfinished(root, key) == ("interrupted", 0)
    write_tiny(store, spec)
    assert find_unfinished(root, key) == (None, 0)


def test_a_store_is_there_whatever_its_writers_move_away(tmp_path: Path):
    root, done = create_store(tmp_path / "lab.act").root, threading.Event()

    def commit_all_the_time() -> None:
        for number in range(10**6):
            staged = root / ".staging" / f"{number}" / "hidden_states"
            staged.mkdir(parents=True)
            staged.parent.rename(root / "models" / f"{number}")
            if done.is_set():
                break

    writer = threading.Thread(target=commit_all_the_time)
    writer.start()
    try:
        assert all(store_exists(root) for _ in range(300))
    finally:
        done.set()
        writer.join()


def test_what_a_killed_creation_leaves_is_no_store_yet(tmp_path: Path):
    root = tmp_path / "lab.act"
    for directory in (root, root / "tasks", root / "models"):
        directory.mkdir()
        assert not store_exists(root)
    for file in (root / "models" / ".zarr.json.12.tmp", root / "models" / "zarr.json"):
        file.touch()
        assert not store_exists(root)
    (root / "models" / "base").mkdir()
    assert store_exists(root)
