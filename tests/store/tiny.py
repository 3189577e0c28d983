"""Tiny models, tasks and entries; also what child processes of the tests run."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from actlas.store import (
    AlreadyExists,
    Entry,
    EntryIdentity,
    EntrySpec,
    EntryWriter,
    Model,
    ModelIdentity,
    Store,
    StoreWriter,
    Task,
    create_store,
    make_task,
    open_writer,
    verify,
)
from actlas.store.digest import canonical_json

LEAF = 2048
TOKENIZER = "70" * 32
SMALL = ("example_ids", "token_digests", "n_tokens", "nonfinite", "max_abs", "mean")
BITS = {"bfloat16": np.dtype("<u2"), "float16": np.dtype("<u2"), "float32": np.dtype("<u4")}
REAL = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
# NaN with payloads (quiet and signalling), infinities, the smallest subnormal, minus zero
SPECIAL = {
    "bfloat16": [0x7FC0, 0x7F81, 0xFFFF, 0x7F80, 0xFF80, 0x0001, 0x8000],
    "float16": [0x7E00, 0x7C01, 0xFFFF, 0x7C00, 0xFC00, 0x0001, 0x8000],
    "float32": [0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x7F800000, 0xFF800000, 0x00000001, 0x80000000],
}


def tiny_model(name: str = "pythia", *, width: int = 8, norm_width: int | None = 6, base: str = "ba") -> Model:
    return Model(
        name=name,
        identity=ModelIdentity(base_digest=base * 32),
        base="some/base",
        revision="main",
        adapter=None,
        architecture="GPTNeoXForCausalLM",
        n_layers=2,
        width=width,
        norm_width=norm_width,
        tokenizer_digest=TOKENIZER,
    )


def tiny_task(n: int = 5, slug: str = "rte") -> Task:
    return make_task(slug, [{"prompt": f"Is {i} even?", "target": "yes" if i % 2 == 0 else "no"} for i in range(n)])


def tiny_spec(
    *,
    model: Model | None = None,
    task: Task | None = None,
    dtype: str = "bfloat16",
    layers: tuple[int, ...] = (0, 1, 2),
    **identity: str,
) -> EntrySpec:
    model, task = model or tiny_model(), task or tiny_task()
    rendering = identity.pop("rendering", "raw")
    position = identity.pop("position", "last")
    digests = {
        "model_digest": model.identity.digest,
        "tokenizer_digest": model.tokenizer_digest,
        "task_digest": task.digest,
        "rendering_digest": "4e" * 32,
        "plan_digest": "91" * 32,
    } | identity
    return EntrySpec(
        model=model,
        task=task,
        rendering=rendering,
        position=position,
        identity=EntryIdentity(**digests, position=position, layers=layers, dtype=dtype),
        token_digests=[f"{row:032x}" for row in range(len(task))],
        n_tokens=[3 + row % 7 for row in range(len(task))],
    )


def tiny_values(spec: EntrySpec, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
    """Hidden states and final norm of random bits, special values among them."""
    dtype = spec.identity.dtype
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        bits = random.integers(0, 2**32, shape, dtype=np.uint32).astype(BITS[dtype])
        flat = bits.reshape(-1)
        count = min(len(SPECIAL[dtype]), flat.size)
        flat[:: max(1, flat.size // count)][:count] = SPECIAL[dtype][:count]
        return bits.view(REAL[dtype])

    n = len(spec.task)
    norm = None if spec.model.norm_width is None else draw(n, spec.model.norm_width)
    return draw(len(spec.identity.layers), n, spec.model.width), norm


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and np.ascontiguousarray(a).tobytes() == b.tobytes()


@contextlib.contextmanager
def many_chunks() -> Iterator[None]:
    """Entries that are written inside have chunks of 256 rows, as those of wide models have, however narrow they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("actlas.store.encoder.BLOCK_BYTES", 1)
        yield


def write_tiny(
    store: StoreWriter,
    spec: EntrySpec,
    values: tuple[np.ndarray, np.ndarray | None] | None = None,
    *,
    provenance: dict[str, Any] | None = None,
    labels: dict[str, Any] | None = None,
) -> Entry:
    hidden_states, final_norm = values or tiny_values(spec)
    with store.new_entry(spec) as writer:
        for start in range(writer.n_written, len(spec.task), LEAF):
            rows = slice(start, start + LEAF)
            writer.write(hidden_states[:, rows], None if final_norm is None else final_norm[rows])
        return store.commit(writer, provenance or {}, labels)


def write_superblocks(writer: EntryWriter, spec: EntrySpec, n_superblocks: int) -> None:
    """Write some superblocks of the values that `tiny_values` gives."""
    hidden_states, final_norm = tiny_values(spec)
    for start in range(0, n_superblocks * LEAF, LEAF):
        rows = slice(start, start + LEAF)
        writer.write(hidden_states[:, rows], None if final_norm is None else final_norm[rows])


def everything(entry: Entry) -> dict[str, bytes]:
    """All that an entry says, as bytes."""
    arrays = ["hidden_states", *(["final_norm"] if entry.has_final_norm else [])]
    found = {name: getattr(entry, name)[...].tobytes() for name in arrays}
    found |= {name: np.asarray(getattr(entry, name)).tobytes() for name in SMALL}
    task = [dict(row) for row in entry.read_task().rows]
    return found | {"provenance": canonical_json(dict(entry.provenance)), "task": canonical_json(task)}


def problems_of(store: Store) -> str:
    """All that `verify` has to say."""
    return "\n".join(line for found in verify(store) for line in found.problems)


def folder(entry: Entry) -> Path:
    """The directory of an entry of a local store."""
    return Path(entry.location)


def root_of(entry: Entry) -> Path:
    """The store that an entry stands in."""
    return folder(entry).parents[3]


def build_tiny_store(root: Path) -> Store:
    """Two models on two tasks."""
    store = create_store(root)
    for seed, (name, base) in enumerate((("pythia", "ba"), ("pythia-dpo", "bb"))):
        for task in (tiny_task(), tiny_task(3, "boolq")):
            spec = tiny_spec(model=tiny_model(name, base=base), task=task)
            write_tiny(store, spec, tiny_values(spec, seed), labels={"family": "pythia"})
    return store.reader


def unlock(directory: Path) -> None:
    """Make a committed directory writable again: tests damage it, and non-root cannot remove it as it is."""
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o200)


@contextlib.contextmanager
def replaced(path: Path, data: bytes | None) -> Iterator[None]:
    """Give a file other bytes, or none at all, for a while."""
    before = path.read_bytes()
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


@contextlib.contextmanager
def replaced_in_place(path: Path, data: bytes) -> Iterator[None]:
    """Give a file other bytes of the same number for a while."""
    before = path.read_bytes()
    assert len(data) == len(before)
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def flipped(data: bytes, position: int, bit: int) -> bytes:
    return data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]


def move_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    unlock(source)
    shutil.rmtree(source)


# What child processes run: importable by name, for they start from multiprocessing's fork server.


def long_spec() -> EntrySpec:
    return tiny_spec(model=tiny_model(width=32), task=tiny_task(5000, "long"))


def child_writes(root: str, answers: Any, user: int | None = None) -> None:
    """Write the long entry, step by step reported; answer its id, or the error's name."""
    if user is not None:
        os.setgid(user)
        os.setuid(user)
    spec = long_spec()
    values = tiny_values(spec)
    answers.put("begin")
    try:
        store = open_writer(root)
        answers.put(write_tiny(store, spec, values).id)
    except AlreadyExists as error:
        answers.put(f"AlreadyExists: {error}")


def child_stops_halfway(root: str, answers: Any) -> None:
    """Write one superblock of three, say so and wait to be killed."""
    spec = long_spec()
    hidden_states, final_norm = tiny_values(spec)
    with open_writer(root).new_entry(spec) as writer:
        writer.write(hidden_states[:, :LEAF], final_norm[:LEAF])
        answers.put("begin")
        os.read(os.pipe()[0], 1)
