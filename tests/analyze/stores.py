"""Stores with given activations, and CKA written as plainly as possible."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actlas.store import (
    EntryIdentity,
    EntrySpec,
    Model,
    ModelIdentity,
    Store,
    create_store,
    make_task,
    open_store,
    open_writer,
)


def put(
    root: Path,
    model: str,
    states: np.ndarray,
    *,
    task: str = "rte",
    ids: Sequence[int] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    tokens: Sequence[str] | None = None,
    tokenizer: str = "t",
    plan: str = "p",
    rendering: str = "raw",
    outputs: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Add one entry of `states` (n_layers, n, p); `ids` names the examples, `outputs` are kept beside the states."""
    n = states.shape[1]
    ids = range(n) if ids is None else ids
    rows = [
        {"prompt": f"prompt {number}", "target": "", **{name: column[row] for name, column in (columns or {}).items()}}
        for row, number in enumerate(ids)
    ]
    made = make_task(task, rows)
    writer = open_writer(root) if root.exists() else create_store(root)
    identity = ModelIdentity(base_digest=model)
    spec = EntrySpec(
        model=Model(
            name=model,
            identity=identity,
            base="b",
            revision=None,
            adapter=None,
            architecture="A",
            n_layers=len(states) - 1,
            width=states.shape[2],
            norm_width=None,
            tokenizer_digest=tokenizer,
        ),
        task=made,
        rendering=rendering,
        position="last",
        identity=EntryIdentity(
            model_digest=identity.digest,
            tokenizer_digest=tokenizer,
            task_digest=made.digest,
            rendering_digest=rendering,
            plan_digest=plan,
            position="last",
            layers=tuple(range(len(states))),
            dtype=states.dtype.name,
            outputs=outputs is not None,
        ),
        token_digests=tokens or made.example_ids,
        n_tokens=[1] * n,
        n_top=None if outputs is None else outputs["top_token"].shape[1],
    )
    with writer.new_entry(spec) as entry:
        for start in range(0, n, 2048):
            rows = slice(start, start + 2048)
            entry.write(states[:, rows], **{name: data[rows] for name, data in (outputs or {}).items()})
        writer.commit(entry, {})


def store_of(root: Path, models: Mapping[str, np.ndarray], **options: Any) -> Store:
    """Return a store with one entry a model."""
    for model, states in models.items():
        put(root, model, states, **options)
    return open_store(root)


def related(n: int, p: int, q: int, *, seed: int = 0, n_layers: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return two correlated float32 stacks of representations, (n_layers, n, p) and (n_layers, n, q)."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=(n, min(p, q)))
    x = generator.normal(size=(n_layers, n, p))
    y = generator.normal(size=(n_layers, n, q))
    x[..., : common.shape[1]] += common
    y[..., : common.shape[1]] += common
    return x.astype(np.float32), y.astype(np.float32)


def plain_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2012, equation 5, in float64 and n^2 memory."""
    n = len(x)
    K, L = x.astype(np.float64) @ x.T.astype(np.float64), y.astype(np.float64) @ y.T.astype(np.float64)
    np.fill_diagonal(K, 0)
    np.fill_diagonal(L, 0)
    one = np.ones(n)
    total = np.trace(K @ L) + (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
    return float((total - 2 / (n - 2) * (one @ K @ L @ one)) / (n * (n - 3)))


def plain_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Debiased linear CKA of centred rows, straight from the definition."""
    x, y = (side.astype(np.float64) - side.astype(np.float64).mean(axis=0) for side in (x, y))
    return plain_hsic(x, y) / np.sqrt(plain_hsic(x, x) * plain_hsic(y, y))


def plain_biased(x: np.ndarray, y: np.ndarray) -> float:
    """Biased linear CKA in feature space (Kornblith et al. 2019)."""
    x, y = (side.astype(np.float64) - side.astype(np.float64).mean(axis=0) for side in (x, y))
    norm = np.linalg.norm
    return float(norm(x.T @ y) ** 2 / (norm(x.T @ x) * norm(y.T @ y)))


def plain_jackknife(x: np.ndarray, y: np.ndarray, groups: Sequence[object]) -> float:
    """Delete-one-group jackknife error of debiased CKA, computed anew for every group."""
    labels = np.array([list(dict.fromkeys(groups)).index(group) for group in groups])
    left = np.array([plain_cka(x[labels != g], y[labels != g]) for g in np.unique(labels)])
    return float(np.sqrt((len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum()))
