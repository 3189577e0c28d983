"""A disk of 6 MiB runs full: a clear error, nothing to be seen, and the next run goes on once there is room."""

import errno
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from actlas.store import ActError, EntrySpec, Store, create_store, open_store, open_writer, store_exists
from tests.store.tiny import LEAF, everything, problems_of, tiny_model, tiny_spec, tiny_task, write_tiny
from tests.torture.count import Count
from tests.torture.exact import Exact, remove, uninterrupted

_DISK = "6m"
_BALLAST = 64 << 10


def missing() -> str | None:
    """Return why no disk can be mounted here, or None where it can."""
    done = subprocess.run([*_own_mounts(), "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True)
    return None if done.returncode == 0 else f"cannot mount a tmpfs: {done.stderr.strip()}"


def run(seed: int, *, rounds: int) -> Count:
    """Let a run meet a full disk `rounds` times, with more or less room, in a process with mounts of its own."""
    with tempfile.TemporaryDirectory(prefix="torture-") as directory:
        command = [*_own_mounts(), "sh", "-c", f'mount -t tmpfs -o size={_DISK} tmpfs "$0" && exec "$@"', directory]
        child = [sys.executable, "-m", "tests.torture.full_disks", directory, str(seed), str(rounds)]
        done = subprocess.run(
            [*command, *child], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
        )
    assert done.returncode == 0, done.stderr
    return Count(rounds, Counter(json.loads(done.stdout)))


def _own_mounts() -> list[str]:
    return ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]


def _spec() -> EntrySpec:
    """About 1.2 MB in two superblocks."""
    return tiny_spec(model=tiny_model(width=64), task=tiny_task(LEAF + 1000, "long"))


def _rounds(disk: Path, seed: int, rounds: int) -> Counter[str]:
    exact, seeded, seen = uninterrupted(_spec()), random.Random(seed), Counter[str]()
    root, ballast = disk / "lab.act", disk / "ballast"
    while sum(seen.values()) < rounds:
        _fill(ballast, room=seeded.randrange(2_000_000))
        try:
            writer = open_writer(root) if store_exists(root) else create_store(root)
            write_tiny(writer, _spec())
        except (OSError, ActError) as error:
            _assert_clear(error, disk)
            seen[_absent_or_exact(root, exact)] += 1
        ballast.unlink()
        writer = open_writer(root) if store_exists(root) else create_store(root)
        assert write_tiny(writer, _spec()).id == exact.id
        assert _absent_or_exact(root, exact) == "exact"
        remove(root)
    return seen


def _assert_clear(error: Exception, disk: Path) -> None:
    assert "No space left on device" in str(error), error
    assert str(disk) in str(error), f"no file is named: {error}"


def _absent_or_exact(root: Path, exact: Exact) -> str:
    if not store_exists(root):
        return "absent"
    store: Store = open_store(root)
    assert problems_of(store) == ""
    for entry in store.entries():
        assert (entry.id, everything(entry)) == (exact.id, exact.content)
    return "exact" if store.entries() else "absent"


def _fill(ballast: Path, *, room: int) -> None:
    """Write random bytes until the disk has no more than some room left."""
    with ballast.open("wb", buffering=0) as file:
        while (free := os.statvfs(ballast.parent).f_bavail * os.statvfs(ballast.parent).f_frsize) > room:
            try:
                file.write(bytes(min(_BALLAST, max(1, free - room))))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return


if __name__ == "__main__":
    print(json.dumps(_rounds(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
