"""Write tests/data/store-v1, the store that every later version must read: `python tests/data/make_store_v1.py`.

Run it only while format 1 may still change. It prints the ids that tests/store/test_store_v1.py holds as literals.
"""

import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import xxhash

from actlas.store import (
    EntryIdentity,
    EntrySpec,
    Model,
    ModelIdentity,
    Task,
    create_store,
    make_task,
)

ROOT = Path(__file__).with_name("store-v1")
DTYPES = {"base": ml_dtypes.bfloat16, "tuned": np.float32}
ADAPTERS = {"base": None, "tuned": "c3" * 32}
N_EXAMPLES = {"boolq": 3, "rte": 5}
TOKENIZER_DIGEST = "70" * 32


def values(model: str, *shape: int) -> np.ndarray:
    """Multiples of 1/8 from -4 on, exact in every dtype; one NaN and one infinity in the base."""
    offset = list(DTYPES).index(model)
    numbers = (np.indices(shape) * np.array([17, 5, 3][-len(shape) :]).reshape(-1, *[1] * len(shape))).sum(0) + offset
    states = ((numbers % 64 - 32) / 8).astype(DTYPES[model])
    if model == "base" and len(shape) == 3:
        states[1, 0, 2], states[2, 1, 0] = np.nan, -np.inf
    return states


def token_ids(row: int) -> list[int]:
    """Token ids of one example."""
    return [1, *range(100, 103 + row)]


def make_tasks() -> list[Task]:
    """Return the tasks: texts beyond ASCII, and a column of every type, with a hole in each."""
    return [
        make_task(
            name,
            [
                {
                    "prompt": f"Größe {row}?\n",
                    "target": "ja" if row % 2 else "nein",
                    "template_id": f"t{row % 2}" if row else None,
                    "label": row if row != 1 else None,
                    "weight": row / 4 if row != 1 else None,
                    "hard": row > 1 if row != 1 else None,
                }
                for row in range(n)
            ],
        )
        for name, n in N_EXAMPLES.items()
    ]


def main() -> None:
    """Replace the store."""
    if ROOT.exists():
        shutil.rmtree(ROOT)
    store = create_store(ROOT)
    for name, dtype in DTYPES.items():
        adapter = ADAPTERS[name]
        identity = ModelIdentity(base_digest="b1" * 32, adapter_digest=adapter)
        model = Model(
            name=name,
            identity=identity,
            base="some/base",
            revision="main",
            adapter=None if adapter is None else "some/adapter",
            architecture="LlamaForCausalLM",
            n_layers=2,
            width=8,
            norm_width=8,
            tokenizer_digest=TOKENIZER_DIGEST,
        )
        for task in make_tasks():
            n = len(task)
            spec = EntrySpec(
                model=model,
                task=task,
                rendering="raw",
                position="last",
                identity=EntryIdentity(
                    model_digest=identity.digest,
                    tokenizer_digest=TOKENIZER_DIGEST,
                    task_digest=task.digest,
                    rendering_digest="4e" * 32,
                    plan_digest="91" * 32,
                    position="last",
                    layers=(0, 1, 2),
                    dtype=np.dtype(dtype).name,
                ),
                token_digests=[
                    xxhash.xxh3_128_hexdigest(np.array(token_ids(row), "<i4").tobytes()) for row in range(n)
                ],
                n_tokens=[len(token_ids(row)) for row in range(n)],
            )
            labels = {"trained_on": ["rte"], "seed": 7} if name == "tuned" else None
            with store.new_entry(spec) as writer:
                writer.write(values(name, 3, n, 8), values(name, n, 8))
                entry = store.commit(writer, {"actlas": "0.1.0", "device": "cpu"}, labels)
            print(f'    ("{name}", "{task.slug}"): "{entry.id}",')
    for path in [ROOT, *ROOT.rglob("*")]:  # as in a fresh clone: git keeps neither modes nor empty directories
        path.chmod(0o755 if path.is_dir() else 0o644)
    (ROOT / ".staging").rmdir()


if __name__ == "__main__":
    main()
