"""How much memory a comparison takes, and how its cost grows, against what the planner says.

Run: make bench. Writes docs/benchmarks/compare-memory.md.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.comparisons import compare_alone, write_models
from tests.bench.measure import PAGES, machine, scratch
from tests.store.tiny import unlock

GRID = [  # models, layers, n, p, budget in MiB
    (2, 8, 2048, 1024, 4096),
    (2, 8, 4096, 1024, 256),
    (2, 8, 4096, 1024, 1024),
    (4, 8, 4096, 512, 512),
    (2, 24, 4096, 1024, 1024),
    (2, 4, 8192, 4096, 1024),
]
BASE = {"models": 2, "layers": 8, "n": 2048, "p": 2048, "tasks": 1}
LARGE = {"models": 2, "layers": 80, "n": 4096, "p": 8192}
LARGE_BUDGET = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Run:
    """One comparison: its shape, and what it took."""

    shape: dict[str, int]
    budget: int
    found: dict[str, Any]


def run(directory: Path, shape: dict[str, int], budget: int, repeats: int = 1) -> Run:
    """Compare all pairs of layers of a store made for it; the median time of several."""
    root = directory / "-".join(map(str, shape.values()))
    if not root.exists():
        write_models(root, **shape)
        compare_alone(root, layers="0")
    runs = [compare_alone(root, layers="all", memory=budget) for _ in range(repeats)]
    return Run(
        shape=shape, budget=budget, found=runs[0] | {"seconds": float(np.median([one["seconds"] for one in runs]))}
    )


def page(grid: list[Run], growth: list[Run], large: Run | None) -> str:
    """Return the page."""
    memory = "\n".join(
        f"| {one.shape['models']} x {one.shape['layers']} | {one.shape['n']:,} | {one.shape['p']:,} | {one.budget >> 20:,} | "
        f"{one.found['reads']:.1f} | {one.found['planned'] / 2**20:,.0f} | {one.found['grew'] / 2**20:,.0f} | "
        f"{one.found['grew'] / one.found['planned']:.2f} | {'yes' if one.found['grew'] <= 1.1 * one.budget else '**no**'} |"
        for one in grid
    )
    base = growth[0]
    costs = "\n".join(
        f"| {_doubled(one, base)} | {one.found['seconds']:.2f} | {one.found['seconds'] / base.found['seconds']:.2f} | "
        f"{one.found['flops'] / base.found['flops']:.2f} |"
        for one in growth
    )
    return f"""# Memory and growth of a comparison

Measured by `python -m tests.bench.compare_memory` on {machine()}: each
comparison (all pairs of layers, float16) in a process of its own; *grew* is its peak over what it held after its imports.

## Memory

| models x layers | n | p | budget, MiB | reads | planned, MiB | grew, MiB | grew / planned | within 1.1 budgets |
|---|---:|---:|---:|---:|---:|---:|---:|---|
{memory}

Asked: the planner's estimate within 15 % of the measured peak.
{_large(large)}
## Growth

Of {", ".join(f"{size:,} {name}" for name, size in BASE.items())}, each doubled; medians of 3.

| doubled | seconds | measured ratio | ratio of planned flops |
|---|---:|---:|---:|
{costs}

Asked: measured within 25 % of planned.
"""


def _doubled(one: Run, base: Run) -> str:
    return next((name for name, size in one.shape.items() if size != base.shape[name]), "nothing")


def _large(large: Run | None) -> str:
    if large is None:
        return ""
    shape, found = large.shape, large.found
    n_bytes = 2 * int(np.prod([*shape.values()], dtype=np.int64))
    return f"""
Entries of {n_bytes / 1e9:.1f} GB ({shape["models"]} x {shape["layers"]} layers, n = {shape["n"]:,}, p = {shape["p"]:,}), all
{found["rows"]:,} pairs, with `--memory 1GiB`: {found["seconds"]:.0f} s, {found["reads"]:.1f} reads of every
representation, grew by {found["grew"] / 2**20:,.0f} MiB, {found["grew"] / large.budget:.2f} times the budget (asked: 1.1).
"""


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--large", action="store_true", help="Also entries of 10 GB, which take some minutes.")
    large_too = parser.parse_args().large
    names = ("models", "layers", "n", "p")
    with scratch() as directory:
        grid = [run(directory, dict(zip(names, shape, strict=False)), budget << 20) for *shape, budget in GRID]
        growth = [run(directory, BASE | {name: size}, 4 << 30, 3) for name, size in [("models", 2), *_doublings()]]
        unlock(directory)
        large = run(directory, LARGE, LARGE_BUDGET) if large_too else None
    text = page(grid, growth, large)
    (PAGES / "compare-memory.md").write_text(text)
    print(text)


def _doublings() -> list[tuple[str, int]]:
    return [(name, 2 * size) for name, size in BASE.items()]


if __name__ == "__main__":
    main()
