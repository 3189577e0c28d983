"""On a GPU: the same values to rounding, and stored bits that are the device's own."""

import numpy as np
import pytest
import torch

from actlas.ingest.capture import Capture
from actlas.ingest.checkpoint import find_base
from actlas.ingest.loading import load_base
from actlas.ingest.plan import make_plan
from actlas.store import create_store
from tests.ingest.checkpoints import bits, byte_tokenizer, ingest_one, tiny_task

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BUDGET = 180


def test_a_gpu_gives_the_values_of_the_cpu_in_float32(llama, adapters, root, tmp_path):
    task = tiny_task(40)
    for adapter in (None, adapters()):
        here = ingest_one(tmp_path / "cpu.act", llama, task, adapter)
        there = ingest_one(root, llama, task, adapter, device="cuda")
        assert there.provenance["device"] == torch.cuda.get_device_name()
        assert here.key == there.key
        for mine, other in ((here.hidden_states, there.hidden_states), (here.final_norm, there.final_norm)):
            error = np.linalg.norm(mine[...] - other[...], axis=-1) / np.linalg.norm(mine[...], axis=-1)
            assert error.max() < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_stored_bits_are_those_that_the_gpu_computed(dtype, bases, root):
    task, base = tiny_task(40), bases("llama", dtype=dtype)
    create_store(root, batch_tokens=BUDGET)
    entry = ingest_one(root, base, task, device="cuda")
    capture = Capture(load_base(find_base(str(base)), dtype, "cuda"), range(4))
    token_ids = byte_tokenizer()(task.column("prompt"))["input_ids"]
    (superblock,) = make_plan([len(ids) for ids in token_ids], BUDGET).superblocks
    for batch in superblock:
        hidden, final, *_ = capture([token_ids[row] for row in batch.rows])
        rows = list(batch.rows)
        assert bits(entry.hidden_states[:, rows]) == bits(hidden.cpu())
        assert bits(entry.final_norm[rows]) == bits(final.cpu())
