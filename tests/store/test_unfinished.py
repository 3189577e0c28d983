"""What stands in staging under a key is told without waiting for its writer or touching it."""

from pathlib import Path

from actlas.store import create_store
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
        assert find_unfinished(root, key) == ("running", 4096)
    before = sorted(root.rglob("*"))
    assert find_unfinished(root, key) == ("interrupted", 4096)
    assert find_unfinished(root, "0" * 64) == (None, 0)
    assert sorted(root.rglob("*")) == before
    journal = root / ".staging" / f"{key}.journal"
    journal.write_bytes(journal.read_bytes()[:-10])  # as a crash would cut it
    assert find_unfinished(root, key) == ("interrupted", 2048)
    journal.unlink()
    assert find_unfinished(root, key) == ("interrupted", 0)
    write_tiny(store, spec)
    assert find_unfinished(root, key) == (None, 0)
