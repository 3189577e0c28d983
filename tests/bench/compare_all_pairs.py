"""All pairs of layers of two models from a store, against matched layers and against the paper's procedure.

Run: make bench. Writes docs/benchmarks/compare.md.
"""

import itertools
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from actlas.analyze import compare_table
from actlas.store import (
    EntryIdentity,
    EntrySpec,
    Model,
    ModelIdentity,
    Store,
    create_store,
    make_task,
    open_store,
)

N, P, LAYERS, MODELS = 2000, 1024, 13, 2
REPEATS = 5
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "compare.md"


def make_data(directory: Path) -> tuple[Store, list[Path]]:
    """Write the same correlated float16 representations into a store and as one .npy file a layer."""
    generator = np.random.default_rng(0)
    writer = create_store(directory / "lab.act")
    task = make_task("bench", [{"prompt": f"prompt {i}", "target": ""} for i in range(N)])
    shared = generator.normal(size=(N, P)).astype(np.float32)
    files = []
    for number in range(MODELS):
        model = Model(
            name=f"model-{number}",
            identity=ModelIdentity(base_digest=f"{number}"),
            base="generated",
            revision=None,
            adapter=None,
            architecture="generated",
            n_layers=LAYERS - 1,
            width=P,
            norm_width=None,
            tokenizer_digest="0",
        )
        noise = generator.normal(size=(LAYERS, N, P)).astype(np.float32)
        states = (shared + noise * np.linspace(0.2, 2, LAYERS, dtype=np.float32)[:, None, None]).astype(np.float16)
        identity = EntryIdentity(
            model_digest=model.identity.digest,
            tokenizer_digest="0",
            task_digest=task.digest,
            rendering_digest="0",
            plan_digest="0",
            position="last",
            layers=tuple(range(LAYERS)),
            dtype="float16",
        )
        spec = EntrySpec(
            model=model,
            task=task,
            rendering="raw",
            position="last",
            identity=identity,
            token_digests=task.example_ids,
            n_tokens=[1] * N,
        )
        with writer.new_entry(spec) as entry:
            entry.write(states)
            writer.commit(entry, {})
        for layer, values in enumerate(states):
            files.append(directory / f"{model.name}_{layer}.npy")
            np.save(files[-1], values)
    return open_store(directory / "lab.act"), files


def papers_procedure(x_file: Path, y_file: Path) -> float:
    """Biased CKA of one pair as the paper computes it: float64, feature space, self terms anew, from .npy files."""
    x, y = (centred(np.load(file)) for file in (x_file, y_file))
    cross = np.linalg.norm(x.T @ y) ** 2
    return float(cross / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def centred(values: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
    """Return the columns in float64, minus their means."""
    exact = values.astype(np.float64)
    return exact - exact.mean(axis=0)


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measure and write the page."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        store, files = make_data(directory)
        models = store.models()
        compare_table(store, models)  # imports and page cache
        matched, every = [], []
        for _ in range(REPEATS):
            matched.append(seconds(lambda: compare_table(store, models)))
            every.append(seconds(lambda: compare_table(store, models, layers="all")))
        ours = compare_table(store, models, layers="all")
        pairs = list(itertools.combinations_with_replacement(files, 2))
        theirs: list[float] = []
        paper = seconds(lambda: theirs.extend(papers_procedure(*pair) for pair in pairs))
        difference = np.abs(np.sort(ours["cka_biased"]) - np.sort(theirs)).max()
        for path in [*directory.rglob("*"), directory]:  # committed entries are read-only
            path.chmod(0o755 if path.is_dir() else 0o644)
    write_page(float(np.median(matched)), float(np.median(every)), paper, len(pairs), float(difference))


def write_page(matched: float, every: float, paper: float, n_pairs: int, difference: float) -> None:
    """Write the figures with machine and command."""
    text = f"""# Comparing all layers of two models

Measured by `make bench` in one run: {MODELS} models x {LAYERS} layers x 1 task, n = {N:,}, p = {P:,}, float16, on
{len(os.sched_getaffinity(0))} {platform.machine()} cores, Python {platform.python_version()}, NumPy {np.__version__}.
Times of actlas are medians of {REPEATS} calls from the compressed store, imports left out; every cell has debiased and
biased CKA with its jackknife standard error.

| what | pairs | seconds | ratio |
|---|---:|---:|---|
| actlas, matched layers | {LAYERS} | {matched:.2f} | 1 |
| actlas, all pairs of layers | {n_pairs} | {every:.2f} | {every / matched:.2f} times matched (allowed: 1.5) |
| the paper's procedure, all pairs | {n_pairs} | {paper:.1f} | {paper / every:.0f} times actlas (at least: 25) |

The paper's procedure: both matrices of a pair from .npy, float64, products in feature space, self terms computed again
for every pair, biased CKA without an error. The largest difference of biased CKA between the two: {difference:.1e}.
"""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
