"""All layers of two models from a store, against the paper's procedure and a public library on the same arrays.

Run: make bench. Writes docs/benchmarks/compare.md.
"""

import inspect
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from tests.bench.comparisons import compare_alone, write_models
from tests.bench.measure import PAGES, machine, scratch, seconds

N, P, LAYERS, MODELS = 2048, 4096, 33, 2
SAMPLE = 30  # pairs on which a procedure that takes seconds a pair is measured
REPEATS = 3
_TILE = 512


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured, in seconds but for the rate and the flops."""

    matched: float
    every: float
    flops: float
    rate: float
    first: float
    again: float
    inner: float
    procedure: float
    ckatorch: float | None
    difference: float


def papers_inner(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Biased CKA as the paper's function computes it: float64, feature space, self terms anew for every pair."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    cross = np.linalg.norm(x.T @ y) ** 2
    return float(cross / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


_PROCEDURE = f"""
import sys
import numpy as np
{inspect.getsource(papers_inner).replace("npt.NDArray[np.float64]", "object")}
print(papers_inner(*(np.load(file).astype(np.float64) for file in sys.argv[1:])))
"""


def papers_procedure(files: Sequence[Path]) -> float:
    """One pair as the paper's script does it: a process that loads two .npy files."""
    command = [sys.executable, "-c", _PROCEDURE, *map(str, files)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def gemm_rate() -> float:
    """Return flops a second of float32 products of the engine's shape, one BLAS thread on each core, no two sides alike."""
    generator = np.random.default_rng(0)
    tiles = [generator.standard_normal((_TILE, P), np.float32) for _ in range(8)]

    def multiply(start: int) -> None:
        for step in range(10):
            tiles[(start + step) % 8] @ tiles[(start + step + 3) % 8].T

    workers = len(os.sched_getaffinity(0))
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        times = [seconds(lambda: list(pool.map(multiply, range(workers)))) for _ in range(4)]
    return workers * 10 * 2 * _TILE * _TILE * P / float(np.median(times[1:]))


def executed_flops() -> float:
    """Return the flops of all products: a tile with itself is symmetric, and BLAS computes half of it."""
    tiles = N // _TILE
    products = tiles * (tiles - 1) // 2 * 2 + tiles
    pairs = MODELS * LAYERS * (MODELS * LAYERS + 1) // 2
    sums = 2 * 2 * pairs * (tiles * (tiles + 1) // 2) * _TILE * _TILE
    return float(MODELS * LAYERS * products * _TILE * _TILE * P + sums)


def with_ckatorch(arrays: Sequence[npt.NDArray[np.float16]]) -> float | None:
    """Return the seconds of one pair by ckatorch, where it is installed."""
    try:
        import torch
        from ckatorch.core import cka_base
    except ImportError:
        return None
    sides = [torch.from_numpy(array.astype(np.float32)) for array in arrays[:2]]
    cka_base(*sides)
    return float(np.median([seconds(lambda: cka_base(*sides, unbiased=True)) for _ in range(5)]))


def measure(directory: Path) -> Figures:
    """Measure everything on one store."""
    root = directory / "lab.act"
    files = write_models(root, models=MODELS, layers=LAYERS, n=N, p=P, npy=directory)
    pairs = list(itertools.combinations_with_replacement(files, 2))
    chosen = [pairs[index] for index in np.random.default_rng(0).choice(len(pairs), SAMPLE, replace=False)]
    compare_alone(root)  # page cache
    ours = {layers: [compare_alone(root, layers=layers) for _ in range(REPEATS)] for layers in ("matched", "all")}
    matched, every = (float(np.median([run["seconds"] for run in runs])) for runs in ours.values())
    arrays = [np.load(file) for file in files[:2]]
    inner = _mean_seconds(lambda pair: papers_inner(*(np.load(file).astype(np.float64) for file in pair)), chosen)
    first, again = (seconds(lambda: _act_compare(root, directory / "cache")) for _ in range(2))
    return Figures(
        matched=matched,
        every=every,
        flops=executed_flops(),
        rate=gemm_rate(),
        first=first,
        again=again,
        inner=inner,
        procedure=_mean_seconds(papers_procedure, chosen[:10]),
        ckatorch=with_ckatorch(arrays),
        difference=_difference(root, files),
    )


def _mean_seconds(work: Callable[[Sequence[Path]], object], pairs: Sequence[Sequence[Path]]) -> float:
    work(pairs[0])
    start = time.perf_counter()
    for pair in pairs:
        work(pair)
    return (time.perf_counter() - start) / len(pairs)


def _act_compare(root: Path, cache: Path) -> None:
    script = "from actlas.cli.main import main; main()"
    names = [f"model-{number}" for number in range(MODELS)]
    subprocess.run(
        [sys.executable, "-c", script, "compare", str(root), *names, "--json"],
        check=True,
        capture_output=True,
        env=os.environ | {"ACTLAS_CACHE": str(cache)},
    )


def _difference(root: Path, files: Sequence[Path]) -> float:
    from actlas.analyze import compare_table
    from actlas.store import open_store

    store = open_store(root)
    table = compare_table(store, store.models(), layers="0,16,32", cache=False)
    expected = [
        papers_inner(*(np.load(files[model * LAYERS + layer]).astype(np.float64) for model in range(MODELS)))
        for layer in (0, 16, 32)
    ]
    return float(np.abs(table["cka_biased"] - expected).max())


def page(figures: Figures) -> str:
    """Return the page."""
    n_pairs = MODELS * LAYERS * (MODELS * LAYERS + 1) // 2
    share = figures.flops / figures.every / figures.rate

    def verdict(holds: bool) -> str:
        return "holds" if holds else "**falls short**"

    rows = [
        ("matched layers, against the paper's inner function", LAYERS, figures.matched, figures.inner * LAYERS, 4.5),
        ("all pairs, against the paper's inner function", n_pairs, figures.every, figures.inner * n_pairs, 300.0),
        ("all pairs, against the paper's procedure", n_pairs, figures.every, figures.procedure * n_pairs, 300.0),
    ]
    if figures.ckatorch is not None:
        rows.append(("all pairs, against ckatorch 1.0.3", n_pairs, figures.every, figures.ckatorch * n_pairs, 100.0))
    table = "\n".join(
        f"| {what} | {pairs:,} | {ours:.1f} | {theirs:,.0f} | {theirs / ours:,.1f} | {asked:g} | "
        f"{verdict(theirs / ours >= asked)} |"
        for what, pairs, ours, theirs, asked in rows
    )
    return f"""# Comparing all layers of two models

Measured by `python -m tests.bench.compare_all_pairs` in one run: {MODELS} models x {LAYERS} layers, n = {N:,}, p = {P:,},
float16, on {machine()}. Times of actlas are medians of {REPEATS} processes, from the
compressed store, imports left out; every cell has debiased and biased CKA with its jackknife standard error.

| what | pairs | actlas, s | other, s | ratio | asked | |
|---|---:|---:|---:|---:|---:|---|
{table}

The inner function gets both arrays as float64 from .npy, and computes products in feature space and the self terms anew for
every pair; the procedure is one process a pair. The other side's seconds are those of {SAMPLE} pairs drawn at random (the
procedure: 10; ckatorch, unbiased, on arrays in memory: 5 calls) times the number of pairs. The largest difference of biased
CKA between the two, at three layers: {figures.difference:.1e}.

| what | measured | asked | |
|---|---:|---:|---|
| float32 products of 512 x {P:,} tiles on all cores | {figures.rate / 1e9:.0f} GFLOP/s | | |
| executed flops of all pairs, over the whole time, as a share of that rate | {share:.0%} | 70 % | {verdict(share >= 0.7)} |
| all pairs, times matched layers | {figures.every / figures.matched:.2f} | | |
| `act compare`, matched layers, the first time | {figures.first:.1f} s | | |
| the same again, from the cache, the start of Python included | {figures.again:.2f} s | 1 s | {verdict(figures.again < 1)} |

Executed flops count a tile with itself once, for it is symmetric; the whole time has reading, decoding and centring in it.
"""


def main() -> None:
    """Measure and write the page."""
    with scratch() as directory:
        text = page(measure(directory))
    (PAGES / "compare.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
