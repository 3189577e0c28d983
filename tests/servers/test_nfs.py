"""A store is read over NFS with the options of docs/how-to/share.md, wherever the kernel lets a test mount one."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from actlas.store import ReadOnly, open_store, open_writer, verify
from tests.servers.page import block
from tests.store.tiny import build_tiny_store, unlock


def missing() -> str | None:
    """Why NFS cannot be tested here; None where it can."""
    if os.getuid() != 0:
        return "only root mounts"
    if tools := [name for name in ("exportfs", "rpc.nfsd", "rpc.mountd", "mount.nfs") if not shutil.which(name)]:
        return f"not installed: {', '.join(tools)}"
    known = Path("/proc/filesystems").read_text().split()
    if lacking := {"nfs4", "nfsd"} - {*known}:
        return f"this kernel has no {', '.join(sorted(lacking))}"
    return None


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A store, and where a reader on NFS sees it."""
    if reason := missing():
        pytest.skip(reason)
    root = Path(build_tiny_store(tmp_path / "lab.act").location)
    options = block("text", "root_squash").split("(")[1].split(")")[0]
    how = block("text", "nfsvers").split()[3].replace("_netdev", "timeo=50")
    place = tmp_path / "mnt"
    place.mkdir()
    subprocess.run(["rpc.nfsd", "1"], check=True)
    subprocess.run(["rpc.mountd"], check=True)
    subprocess.run(["exportfs", "-o", options, f"127.0.0.1:{root}"], check=True)
    try:
        subprocess.run(["mount", "-t", "nfs", "-o", how, f"127.0.0.1:{root}", place], check=True)
        yield root, place
        subprocess.run(["umount", place], check=True)
    finally:
        subprocess.run(["exportfs", "-u", f"127.0.0.1:{root}"], check=True)
        unlock(tmp_path)


def test_a_store_is_read_over_nfs_and_cannot_be_written(mounted: tuple[Path, Path]):
    root, place = mounted
    assert [entry.id for entry in open_store(place).entries()] == [entry.id for entry in open_store(root).entries()]
    assert [found.problems for found in verify(open_store(place))] == [()] * 4
    with pytest.raises((ReadOnly, OSError), match=r"cannot be written to|Read-only"):
        open_writer(place).label("pythia", {"seed": 1})
