"""A sweep of adapters over one base: where its time goes; and the host memory of an ingest, in a process of its own.

Run: make bench (CPU, Linux). Writes docs/benchmarks/ingest-sweep.md.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from actlas.ingest import Checkpoint, Options, ingest, run
from actlas.ingest.capture import Capture
from actlas.ingest.positions import ALL
from actlas.ingest.swaps import Swaps
from actlas.store import Task, make_task
from actlas.store.digest import LEAF_ROWS
from actlas.store.spec import superblock_rows
from tests.bench.measure import PAGES, machine, scratch
from tests.ingest.checkpoints import byte_tokenizer, prompts

MB = 1_000_000
CONTEXT = 512
SWEEP = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
WIDE = {
    "hidden_size": 1024, "intermediate_size": 128, "num_hidden_layers": 24, "num_attention_heads": 8,
    "num_key_value_heads": 1, "head_dim": 16,
}  # fmt: skip
MEMORY = {"last": (LEAF_ROWS, 8), ALL: (512, 16)}  # position: prompts, longest text
FORWARD, PASS, REST = "forward passes", "writing and commit, beside the forward passes", "the rest"


class Clock:
    """Gives every moment to the innermost stage that runs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._stages, self._since = [REST], time.perf_counter()

    def turn(self) -> None:
        """Give the time since the last turn to the stage that runs."""
        now = time.perf_counter()
        self.seconds[self._stages[-1]] += now - self._since
        self._since = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Run a stage."""
        self.turn()
        self._stages.append(name)
        self.calls[name] += 1
        yield
        self.turn()
        self._stages.pop()

    def timed(self, name: str, work: Callable[..., Any], *, within: str | None = None) -> Callable[..., Any]:
        """Return a function whose calls, or those within a stage, are a stage."""

        def call(*args: Any, **settings: Any) -> Any:
            if within is not None and self._stages[-1] != within:
                return work(*args, **settings)
            with self.stage(name):
                return work(*args, **settings)

        return call

    def swapped(self, under: Callable[..., AbstractContextManager[Any]]) -> Callable[..., AbstractContextManager[Any]]:
        """Return `Swaps.under` with both of its halves as a stage."""

        @contextmanager
        def call(*args: Any) -> Iterator[Any]:
            with ExitStack() as stack:
                with self.stage("swapping, and its proof"):
                    swap = stack.enter_context(under(*args))
                yield swap
                with self.stage("swapping, and its proof"):
                    stack.close()

        return call


def save_base(directory: Path, shape: dict[str, int]) -> Path:
    """Save a random Llama that reads bytes."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=259, max_position_embeddings=CONTEXT, tie_word_embeddings=True, **shape)
    LlamaForCausalLM(config).save_pretrained(directory)
    byte_tokenizer(context=CONTEXT).save_pretrained(directory)
    return directory


def save_adapters(directory: Path, base: Path, n_adapters: int) -> list[Checkpoint]:
    """Save random LoRA adapters of rank 8 for the attention of a base; return their checkpoints."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LlamaForCausalLM.from_pretrained(base)
        tuned = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
        weights = [value for name, value in tuned.named_parameters() if "lora_" in name]
        for number in range(n_adapters):
            with torch.no_grad():
                for weight in weights:
                    weight.normal_(std=0.05)
            tuned.save_pretrained(directory / f"lora-{number}")
    return [
        Checkpoint(base=str(base), adapter=str(directory / f"lora-{n}"), name=f"lora-{n}") for n in range(n_adapters)
    ]


def task_of(n_prompts: int, longest: int) -> Task:
    """Return a task of distinct prompts of mixed lengths."""
    return make_task("bench", [{"prompt": text, "target": ""} for text in prompts(n_prompts, longest=longest)])


def timed_sweep(root: Path, checkpoints: Sequence[Checkpoint], task: Task) -> tuple[Clock, int]:
    """Ingest a sweep; return where its time went, and its tokens."""
    clock = Clock()
    stages = {
        "planned": "planning", "_take_present": "planning", "forecast_of": "planning", "load_base": "loading the base",
        "check_conformance": "conformance", "noise_floor": "noise floor", "run_pass": PASS,
    }  # fmt: skip
    with ExitStack() as stack:
        for name, stage in stages.items():
            stack.enter_context(patch.object(run, name, clock.timed(stage, getattr(run, name))))
        stack.enter_context(patch.object(Swaps, "under", clock.swapped(Swaps.under)))
        forward = clock.timed(FORWARD, Capture.__call__, within=PASS)
        stack.enter_context(patch.object(Capture, "__call__", lambda *args: forward(*args)))
        clock.turn()
        clock.seconds.clear()
        report = ingest(root, checkpoints, [task], Options(device="cpu"))
        clock.turn()
    return clock, report.forecast.n_tokens


def status(name: str) -> int:
    """Return a figure of this process in bytes: ``VmRSS``, ``VmHWM`` (the most that it ever was)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def measure_child(base: str, root: str, position: str) -> None:
    """Ingest in this process; print what its memory grew by and the bytes of a superblock."""
    before = status("VmRSS")
    options = Options(device="cpu", positions=(position,))
    (entry,) = ingest(root, [Checkpoint(base=base, name="wide")], [task_of(*MEMORY[position])], options).written
    row_bytes = (len(entry.layers) + 1) * WIDE["hidden_size"] * 4  # the final norm's row too
    n_rows = superblock_rows(row_bytes, is_ragged=position == ALL)
    print(json.dumps({"grew": status("VmHWM") - before, "superblock": n_rows * row_bytes}))


def measure_memory(base: Path, root: Path, position: str) -> dict[str, int]:
    """Ingest in a child process; return what it needed and what it was allowed, in bytes."""
    command = [
        sys.executable,
        "-m",
        "tests.bench.ingest_sweep",
        "--child",
        str(base),
        str(root / f"{position}.act"),
        position,
    ]
    found: dict[str, int] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    weights = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    return found | {"weights": weights, "allowed": weights + 2 * found["superblock"] + 500 * MB}


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=60)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--longest", type=int, default=120, help="bytes of the longest prompt")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        measure_child(*chosen.child)
        return
    with scratch() as root:
        base = save_base(root / "base", SWEEP)
        checkpoints = save_adapters(root, base, chosen.adapters)
        clock, n_tokens = timed_sweep(root / "sweep.act", checkpoints, task_of(chosen.prompts, chosen.longest))
        wide = save_base(root / "wide", WIDE)
        memory = {position: measure_memory(wide, root, position) for position in MEMORY}
    text = page(chosen, clock, n_tokens, memory)
    (PAGES / "ingest-sweep.md").write_text(text)
    print(text)


def n_parameters(shape: dict[str, int]) -> int:
    """Return the parameters of a shape in millions."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=259, tie_word_embeddings=True, **shape))
    return round(sum(p.numel() for p in model.parameters()) / 1e6)


def verdict(holds: bool) -> str:
    """Return what a row says of a demand."""
    return "holds" if holds else "**falls short**"


def page(chosen: argparse.Namespace, clock: Clock, n_tokens: int, memory: dict[str, dict[str, int]]) -> str:
    """Return the page."""
    whole = sum(clock.seconds.values())
    forward, loads = clock.seconds[FORWARD] / whole, clock.calls["loading the base"]
    text = f"""# A sweep of adapters

Measured by `python -m tests.bench.ingest_sweep --adapters {chosen.adapters} --prompts {chosen.prompts} --longest \
{chosen.longest}`
on {machine()}, {torch.get_num_threads()} threads of torch, {datetime.now(UTC):%Y-%m-%d}; one run.

## Time

{chosen.adapters} LoRA adapters (60 are asked for; rank 8, q and v) over one Llama of {n_parameters(SWEEP)} M parameters
(random weights, float32), one task of {chosen.prompts} prompts, {n_tokens:,} tokens in all, every layer at the last
token: {whole:.0f} s.

| what | measured | asked | |
|---|---:|---:|---|
| times the base was loaded | {loads} | 1 | {verdict(loads == 1)} |
| forward passes of the whole time | {forward:.1%} | at least 90 % | {verdict(forward >= 0.9)} |

| stage | seconds | share |
|---|---:|---:|
"""
    ranked = sorted(clock.seconds.items(), key=lambda item: -item[1])
    text += "".join(f"| {name} | {seconds:.2f} | {seconds / whole:.1%} |\n" for name, seconds in ranked)
    text += f"""
Forward passes are those over the task's prompts, with the capture of their states; those of the other stages are counted
there. The noise floor runs 8 prompts of every checkpoint alone, twice; conformance runs 4 prompts three ways. That is a cost
for each adapter which does not grow with the task: its share falls with more prompts. Both are stored for each checkpoint, and
measuring them once for each base would store another model's figures, so they stay.

## Host memory

What a process that ingests one Llama of {n_parameters(WIDE)} M parameters ({WIDE["num_hidden_layers"]} layers, width \
{WIDE["hidden_size"]}) grows by, at its peak, over what it
holds after its imports. Under `all` the states of every token of a batch are in memory beside the superblocks.

| position | prompts | weights | superblock | grew by | asked: weights + 2 superblocks + 500 MB | |
|---|---:|---:|---:|---:|---:|---|
"""
    for position, found in memory.items():
        sizes = " | ".join(f"{found[name] / MB:,.0f} MB" for name in ("weights", "superblock", "grew", "allowed"))
        text += f"| {position} | {MEMORY[position][0]:,} | {sizes} | {verdict(found['grew'] <= found['allowed'])} |\n"
    return text


if __name__ == "__main__":
    main()
