"""Ingest against the bare forward passes of the same plan, and against the paper's procedure.

Run: make bench (CPU). On a GPU: python -m tests.bench.ingest_throughput --device cuda --shape 7b --tokens 256
Writes docs/benchmarks/ingest-cpu.md or ingest-cuda.md.
"""

import argparse
import dataclasses
import hashlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from actlas.ingest.capture import Capture, model_inputs
from actlas.ingest.families import CAUSAL
from actlas.ingest.jobs import Job
from actlas.ingest.passes import run_pass
from actlas.ingest.plan import Plan, make_plan
from actlas.ingest.positions import whole_prompts
from actlas.ingest.progress import Progress
from actlas.ingest.tokenizing import TokenizedTask
from actlas.store import BATCH_TOKENS, EntryIdentity, EntrySpec, Model, ModelIdentity, create_store, make_task
from tests.bench.measure import PAGES, machine, scratch
from tests.store.tiny import unlock

REPEATS = 3
PAPER_PROMPTS = 12
SHAPES = {
    "100m": LlamaConfig(
        vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=10, num_attention_heads=12
    ),
    "7b": LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    ),
}
PEAK = {"NVIDIA H200": 989e12, "NVIDIA H100": 989e12}  # dense bf16, operations a second


def random_tokens(n: int, length: int | None, seed: int = 0) -> list[list[int]]:
    """Return prompts of a length, or of lognormal lengths of mean 120."""
    random = np.random.default_rng(seed)
    lengths = (
        np.full(n, length) if length else np.clip(random.lognormal(np.log(120) - 0.32, 0.8, n), 4, 1500).astype(int)
    )
    return [random.integers(3, 16000, size).tolist() for size in lengths]


def build_model(shape: str, device: str, dtype: torch.dtype) -> LlamaForCausalLM:
    """Return a model of random weights, made where it runs."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(SHAPES[shape]).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def job_of(token_ids: list[list[int]], model: LlamaForCausalLM, dtype: str) -> tuple[EntrySpec, Job]:
    """Return what an ingest would make of these prompts."""
    digests = [hashlib.sha256(repr(ids).encode()).hexdigest()[:32] for ids in token_ids]
    task = make_task("bench", [{"prompt": digest, "target": ""} for digest in digests])
    tokenized = TokenizedTask(token_ids=token_ids, parts=whole_prompts(token_ids), digests=digests, n_truncated=0)
    plan, depth = make_plan(tokenized.lengths, BATCH_TOKENS), model.config.num_hidden_layers
    own = Model(
        name="bench", identity=ModelIdentity(base_digest="0" * 64), base="random", revision=None, adapter=None,
        architecture="LlamaForCausalLM", n_layers=depth, width=model.config.hidden_size,
        norm_width=model.config.hidden_size, tokenizer_digest="1" * 64,
    )  # fmt: skip
    identity = EntryIdentity(
        model_digest=own.identity.digest, tokenizer_digest="1" * 64, task_digest=task.digest, rendering_digest="2" * 64,
        plan_digest=plan.digest, position="last", layers=tuple(range(depth + 1)), dtype=dtype,
    )  # fmt: skip
    spec = EntrySpec(
        model=own, task=task, rendering="raw", position="last", identity=identity, token_digests=digests,
        n_tokens=tokenized.lengths,
    )  # fmt: skip
    return spec, Job("last", task, "raw", tokenized, plan, identity)


def batches(job: Job) -> Iterator[list[list[int]]]:
    """Yield the tokens of every batch of the plan."""
    for superblock in job.plan.superblocks:
        for batch in superblock:
            yield [job.tokenized.token_ids[row] for row in batch.rows]


def finished(model: LlamaForCausalLM) -> None:
    """Wait for the device."""
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def bare(model: LlamaForCausalLM, job: Job) -> float:
    """Return the seconds of the forward passes alone."""
    finished(model)
    start = time.perf_counter()
    with torch.inference_mode():
        for token_ids in batches(job):
            model.base_model(**model_inputs(model, token_ids, CAUSAL))
    finished(model)
    return time.perf_counter() - start


def whole(model: LlamaForCausalLM, spec: EntrySpec, job: Job, root: Path) -> float:
    """Return the seconds of a pass of an ingest: forward, capture, copy, encode, write, commit."""
    writer, capture = create_store(root), Capture(model, spec.identity.layers)
    start = time.perf_counter()
    run_pass(writer, [spec], [job], capture, Progress(), lambda _timing, _sample: {}, {})
    seconds = time.perf_counter() - start
    unlock(root)
    shutil.rmtree(root)
    return seconds


def papers_procedure(model: LlamaForCausalLM, token_ids: list[list[int]], root: Path) -> float:
    """Return the seconds a token: batch size 1 with logits, eight more tokens generated, an .npy file for each layer."""
    start = time.perf_counter()
    with torch.inference_mode():
        for number, ids in enumerate(token_ids):
            prompt = torch.tensor([ids], device=model.device)
            states = model(input_ids=prompt, output_hidden_states=True).hidden_states
            model.generate(prompt, max_new_tokens=8, min_new_tokens=8, do_sample=False, pad_token_id=0)
            for layer, state in enumerate(states):
                np.save(root / f"{number}-{layer}.npy", state[0, -1].float().cpu().numpy())
    for layer in range(model.config.num_hidden_layers + 1):
        np.save(root / f"{layer}.npy", np.stack([np.load(root / f"{n}-{layer}.npy") for n in range(len(token_ids))]))
    return (time.perf_counter() - start) / sum(map(len, token_ids))


def padding_share() -> float:
    """Return the share of padding over a run of tasks of 500 to 5,000 prompts."""
    plans: list[tuple[Plan, int]] = []
    for seed, n in enumerate((500, 800, 1200, 2000, 3000, 5000)):
        lengths = [len(ids) for ids in random_tokens(n, None, seed)]
        plans.append((make_plan(lengths, BATCH_TOKENS), sum(lengths)))
    return 1 - sum(n_tokens for _, n_tokens in plans) / sum(plan.n_padded for plan, _ in plans)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=SHAPES, default="100m")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--tokens", type=int, help="tokens a prompt; lognormal of mean 120 by default")
    chosen = parser.parse_args()
    dtype = "float32" if chosen.device == "cpu" else "bfloat16"
    model = build_model(chosen.shape, chosen.device, getattr(torch, dtype))
    spec, job = job_of(random_tokens(chosen.prompts, chosen.tokens), model, dtype)
    small = dataclasses.replace(job, plan=make_plan(job.tokenized.lengths[:8], BATCH_TOKENS))
    bare(model, small)
    with scratch() as root:
        places = [root / f"{repeat}.act" for repeat in range(REPEATS)]
        times = [(bare(model, job), whole(model, spec, job, place)) for place in places]
        by_length = sorted(job.tokenized.token_ids, key=len)
        sample = by_length[len(by_length) // (2 * PAPER_PROMPTS) :: len(by_length) // PAPER_PROMPTS]
        each = papers_procedure(model, sample, root)
    write_page(chosen, dtype, model, job, np.median(times, axis=0).tolist(), each)


def write_page(
    chosen: argparse.Namespace, dtype: str, model: LlamaForCausalLM, job: Job, seconds: list[float], each: float
) -> None:
    """Write the figures with machine and command."""
    n_tokens, n_parameters = sum(job.tokenized.lengths), sum(p.numel() for p in model.base_model.parameters())
    forward, ingest = seconds
    where = machine() if chosen.device == "cpu" else f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    peak = next((rate for name, rate in PEAK.items() if where.startswith(name)), None)
    rows = [
        ("capture, copy, encode and commit, over the bare forward passes", f"{ingest / forward - 1:+.1%}",
         "at most 5 %" if chosen.device == "cpu" else "at most 3 %"),
        ("useful tokens a second", f"{n_tokens / ingest:,.0f} (bare: {n_tokens / forward:,.0f})",
         "" if chosen.device == "cpu" else "at least 45,000 (H200, 7b, 256 tokens)"),
        ("times the paper's procedure", f"{each / (ingest / n_tokens):.1f}", "at least 5"),
        ("padding over tasks of 500 to 5,000 prompts", f"{padding_share():.1%}", "at most 6 %"),
    ]  # fmt: skip
    if peak is not None:
        used = 2 * n_parameters * n_tokens / ingest / peak
        rows.append(("of the peak of the device's matrix products", f"{used:.0%}", "roofline: 100 %"))
    command = f"python -m tests.bench.ingest_throughput --device {chosen.device} --shape {chosen.shape}"
    text = f"""# Ingest

Measured by `{command}`
in one run on {where}; medians of {REPEATS}, the compared pieces in turn.

A Llama of {n_parameters / 1e6:,.0f} M parameters (random weights, {dtype}), {len(job.task)} prompts
{"of lognormal lengths" if chosen.tokens is None else f"of {chosen.tokens} tokens"}, {n_tokens:,} tokens, all
{model.config.num_hidden_layers + 1} layers and the final norm kept at the last token.

| what | measured | asked |
|---|---:|---|
"""
    text += "".join(f"| {what} | {measured} | {asked} |\n" for what, measured, asked in rows)
    text += f"""
The paper's procedure: batch size 1, the whole model with logits, then eight generated tokens, one .npy file for each example
and layer, then gathered; on {PAPER_PROMPTS} prompts spread over the lengths, counted by token.
"""
    (PAGES / f"ingest-{chosen.device.split(':')[0]}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
