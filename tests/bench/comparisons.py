"""Stores to compare, of any size, and a process that compares them and says what it took."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from actlas.store import EntryIdentity, EntrySpec, Model, ModelIdentity, create_store, make_task, open_writer

SUPERBLOCK = 2048


def write_models(
    root: Path, *, models: int, layers: int, n: int, p: int, tasks: int = 1, npy: Path | None = None
) -> list[Path]:
    """Write float16 models whose layers share a part of their variance that falls with depth; return .npy files of each.

    Parameters
    ----------
    root : Path
        Of the store, which is made.
    models, layers, n, p, tasks : int
        Sizes.
    npy : Path, optional
        Where each layer of each model is kept as one .npy file too.
    """
    generator = np.random.default_rng(0)
    create_store(root)
    files: list[Path] = []
    for task in range(tasks):
        shared = generator.standard_normal((min(n, SUPERBLOCK), p), np.float32)
        for number in range(models):
            with open_writer(root).new_entry(_spec(number, f"task-{task}", layers, n, p)) as entry:
                for start in range(0, n, SUPERBLOCK):
                    rows = shared[: min(SUPERBLOCK, n - start)]
                    states = _states(rows, layers, generator)
                    entry.write(states)
                    if npy is not None:
                        files += _save(npy, number, states)
                open_writer(root).commit(entry, {})
    return files


def _states(shared: npt.NDArray[np.float32], layers: int, generator: np.random.Generator) -> npt.NDArray[np.float16]:
    states = np.empty((layers, *shared.shape), np.float16)
    for layer, weight in enumerate(np.linspace(0.2, 2, layers, dtype=np.float32)):
        states[layer] = shared + weight * generator.standard_normal(shared.shape, np.float32)
    return states


def _save(directory: Path, number: int, states: npt.NDArray[np.float16]) -> list[Path]:
    files = [directory / f"{number}-{layer}.npy" for layer in range(len(states))]
    for file, values in zip(files, states, strict=True):
        np.save(file, values)
    return files


def _spec(number: int, task: str, layers: int, n: int, p: int) -> EntrySpec:
    examples = make_task(task, [{"prompt": f"prompt {i}", "target": ""} for i in range(n)])
    model = Model(
        name=f"model-{number}",
        identity=ModelIdentity(base_digest=f"{number}"),
        base="generated",
        revision=None,
        adapter=None,
        architecture="generated",
        n_layers=layers - 1,
        width=p,
        norm_width=None,
        tokenizer_digest="0",
    )
    identity = EntryIdentity(
        model_digest=model.identity.digest,
        tokenizer_digest="0",
        task_digest=examples.digest,
        rendering_digest="0",
        plan_digest="0",
        position="last",
        layers=tuple(range(layers)),
        dtype="float16",
    )
    return EntrySpec(
        model=model,
        task=examples,
        rendering="raw",
        position="last",
        identity=identity,
        token_digests=examples.example_ids,
        n_tokens=[1] * n,
    )


_MEASURED = """
import json, re, sys, time
from pathlib import Path
import dask, numpy, pandas, xarray, zarr
from actlas.analyze import Means, Question, ask, explain
from actlas.analyze.passes import evaluate
from actlas.store import open_store
import dask.threaded, threadpoolctl
options = json.loads(sys.argv[2])
memory = options.pop("memory", 4 << 30)
store = open_store(sys.argv[1])
asked = Question.of(store.models(), **options)
means = Means(memory=memory, cache=False)
plan = explain(store, asked, means)
def kilobytes(what):
    return int(re.search(what + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: getrusage's has the parent's memory in it
bare = kilobytes("VmRSS") * 1024
start = time.perf_counter()
answer = ask(store, asked, means)
seconds = time.perf_counter() - start
peak = kilobytes("VmHWM") * 1024
print(json.dumps({"seconds": seconds, "grew": peak - bare, "planned": int(plan["peak_bytes"].max()),
                  "flops": int(plan["flops"].sum()), "reads": float(plan["n_reads"].max()), "rows": len(answer.table)}))
"""


def compare_alone(root: Path, **options: Any) -> dict[str, Any]:
    """Compare all models of a store in a process of its own; return seconds, bytes that it grew by, and what was planned."""
    result = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(root), json.dumps(options)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"ACTLAS_CACHE": ""},
    )
    found: dict[str, Any] = json.loads(result.stdout)
    return found
