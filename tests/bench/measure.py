"""How the store's benchmarks measure: side by side in one run, on entries written for the purpose."""

import dataclasses
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from actlas.store import Entry, EntrySpec, StoreWriter
from tests.bench.activations import encoder_states
from tests.store.tiny import tiny_model, tiny_spec, tiny_task, unlock

LAYERS, N, P = 8, 2048, 4096
REPEATS = 9
PAGES = Path(__file__).parents[2] / "docs" / "benchmarks"
Array = npt.NDArray[Any]


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes; what it returns is freed before the clock stops for nobody else."""
    start = time.perf_counter()
    result = work()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def side_by_side(*works: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Return the median seconds of several pieces of work, done in turn so that the machine's moods hit all alike."""
    for work in works:
        work()
    times = [[seconds(work) for work in works] for _ in range(repeats)]
    return [float(np.median(column)) for column in zip(*times, strict=True)]


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for stores; committed entries are made writable again before it is removed."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
        unlock(Path(name))


def spec_of(states: Array, dtype: str, codec: str) -> EntrySpec:
    """Return the spec of an entry with these states."""
    n_layers, n, width = states.shape
    model = tiny_model(f"bench-{codec}", width=width, norm_width=None)
    spec = tiny_spec(model=model, task=tiny_task(n, "bench"), dtype=dtype, layers=tuple(range(n_layers)))
    return dataclasses.replace(spec, codec=codec)


def write_entry(store: StoreWriter, states: Array, dtype: str, codec: str) -> tuple[Entry, float, float]:
    """Write one entry; return it with the seconds of writing and of committing."""
    spec = spec_of(states, dtype, codec)
    with store.new_entry(spec) as writer:
        writing = seconds(lambda: writer.write(states))
        start = time.perf_counter()
        entry = store.commit(writer, {})
        return entry, writing, time.perf_counter() - start


def large_states(dtype: str) -> Array:
    """Return trained states of the benchmark's shape: eleven tokens of the encoder side by side, one layer twice."""
    states = encoder_states(dtype, 11)[..., :P]
    return np.ascontiguousarray(np.concatenate([states, states[1:2]]))


def machine() -> str:
    """Return what the figures depend on, for the page."""
    cores = f"{len(os.sched_getaffinity(0))} {platform.machine()} cores"
    return f"{cores}, Python {platform.python_version()}, zarr {zarr.__version__}, NumPy {np.__version__}"


def stored_bytes(entry: Entry) -> int:
    """Return the bytes of an entry's hidden states on the disk."""
    return sum(file["size"] for name, file in entry.manifest.files.items() if name.startswith("hidden_states/c"))
