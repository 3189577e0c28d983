import multiprocessing
import shutil
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from actlas.store import Store, StoreWriter, create_store, open_store
from tests.store.tiny import build_tiny_store, unlock


@pytest.fixture
def store(tmp_path: Path) -> StoreWriter:
    """An empty store."""
    return create_store(tmp_path / "lab.act")


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models on two tasks; not to be changed."""
    return Path(build_tiny_store(tmp_path_factory.mktemp("pristine") / "lab.act").location)


@pytest.fixture
def full(pristine: Path, tmp_path: Path) -> Store:
    """A copy of two models on two tasks that may be damaged."""
    shutil.copytree(pristine, tmp_path / "full.act")
    unlock(tmp_path / "full.act")
    return open_store(tmp_path / "full.act")


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Where child processes come from: forked from a server that has imported the store and started no thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["actlas.store", "tests.store.tiny"])
    return context
