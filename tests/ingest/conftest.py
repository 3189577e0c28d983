import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch

from actlas.store import Task
from tests.ingest.checkpoints import save_adapter, save_base, tiny_task


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are slower on many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a base of a family once; not to be changed."""
    made: dict[tuple[Any, ...], Path] = {}

    def base(family: str = "llama", **settings: Any) -> Path:
        known = (family, *sorted(settings.items()))
        if known not in made:
            made[known] = save_base(tmp_path_factory.mktemp("bases") / family, family, **settings)
        return made[known]

    return base


@pytest.fixture(scope="session")
def llama(bases: Callable[..., Path]) -> Path:
    """A Llama in float32; not to be changed."""
    return bases("llama")


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory, bases: Callable[..., Path]) -> Callable[..., Path]:
    """Makes an adapter for a base of a family once; not to be changed."""
    made: dict[str, Path] = {}

    def adapter(family: str = "llama", *, base: Path | None = None, **settings: Any) -> Path:
        known = repr((family, base, sorted(settings.items())))
        if known not in made:
            directory = tmp_path_factory.mktemp("adapters") / f"lora-{len(made)}"
            made[known] = save_adapter(directory, base or bases(family), **settings)
        return made[known]

    return adapter


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "lab.act"


@pytest.fixture(scope="session")
def task() -> Task:
    """Twelve prompts of mixed lengths."""
    return tiny_task()


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Where child processes come from: forked from a server that has imported torch and run nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["actlas.store", "actlas.ingest", "tests.ingest.checkpoints"])
    return context
