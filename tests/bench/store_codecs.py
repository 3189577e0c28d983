"""The codecs on activations of trained models: size, speed, and how near the limit they come.

Run: make bench. Writes docs/benchmarks/codecs.md.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from actlas.store import CODEC, CODECS, create_store, open_store
from tests.bench.activations import demo_states, encoder_states, entropy_limit
from tests.bench.measure import (
    LAYERS,
    PAGES,
    N,
    P,
    large_states,
    machine,
    scratch,
    side_by_side,
    stored_bytes,
    write_entry,
)
from tests.servers.nginx import nginx

SizeRow = tuple[str, str, str, float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecRow:
    """What was measured of one codec on one dtype; seconds, and bytes before over bytes after."""

    dtype: str
    codec: str
    ratio: float
    write: float
    read: float
    layer: float
    rows: float
    http: float


def codec_rows(dtype: str, root: Path) -> Iterator[CodecRow]:
    """Measure every codec on trained states in one dtype."""
    states = large_states(dtype)
    store = create_store(root / f"{dtype}.act")
    some = np.sort(np.random.default_rng(0).choice(N, 64, replace=False))
    with nginx(root) as url:
        for codec in CODECS:
            entry, writing, _ = write_entry(store, states, dtype, codec)
            remote = open_store(f"{url.rstrip('/')}/{dtype}.act").entry(model=entry.model, task="bench")
            read, layer, rows, http = side_by_side(
                lambda entry=entry: entry.hidden_states[...],
                lambda entry=entry: entry.read(3),
                lambda entry=entry: entry.read(3, some),
                lambda remote=remote: remote.hidden_states[...],
                repeats=5,
            )
            yield CodecRow(
                dtype=dtype, codec=codec, ratio=states.nbytes / stored_bytes(entry), write=writing, read=read, layer=layer,
                rows=rows, http=http,
            )  # fmt: skip


def size_rows() -> Iterator[SizeRow]:
    """For trained models and dtypes the ratio of the default codec, and the limit of the exponents' entropy."""
    for model, states_of in (
        ("sentence encoder, 6 blocks", encoder_states),
        ("the demo's Llama, 8 blocks", demo_states),
    ):
        for dtype in ("bfloat16", "float16", "float32"):
            states = states_of(dtype)
            for what, part in (("all layers", states), ("without layer 0", states[1:])):
                with scratch() as root:
                    entry, _, _ = write_entry(create_store(root / "size.act"), np.ascontiguousarray(part), dtype, CODEC)
                    ratio = part.nbytes / stored_bytes(entry)
                yield model, dtype, what, ratio, entropy_limit(part, dtype)


def main() -> None:
    """Measure and write the page."""
    with scratch() as root:
        codecs = [row for dtype in ("bfloat16", "float16", "float32") for row in codec_rows(dtype, root)]
    write_page(codecs, list(size_rows()))


def write_page(codecs: Sequence[CodecRow], shrunk: Sequence[SizeRow]) -> None:
    """Write the figures with machine and command."""
    text = f"""# Codecs

Measured by `make bench` in one run on {machine()}; medians, warm page cache.

Activations of a trained sentence encoder (all-MiniLM-L6-v2; eleven tokens side by side make {P:,} features), {LAYERS} x {N:,} x
{P:,}. Sizes before over after; GB/s of decoded bytes; milliseconds for one layer and for 64 random rows of it; HTTP from nginx on
the same machine.

| dtype | codec | ratio | write GB/s | read GB/s | one layer ms | 64 rows ms | HTTP GB/s |
|---|---|---:|---:|---:|---:|---:|---:|
"""
    for row in codecs:
        n_bytes = LAYERS * N * P * (4 if row.dtype == "float32" else 2)
        gb = n_bytes / 1e9
        text += (
            f"| {row.dtype} | {row.codec}{' (default)' if row.codec == CODEC else ''} | {row.ratio:.2f} | {gb / row.write:.2f} "
            f"| {gb / row.read:.2f} | {row.layer * 1000:.1f} | {row.rows * 1000:.1f} | {gb / row.http:.2f} |\n"
        )
    text += """
Writing includes statistics, digests and flushing to this machine's disk. The default shrinks nearly as far as the entropy of
the exponents allows, and reads several times as fast as a disk or a network gives; `blosc-bit-zstd` is larger and slower.

## How close to the limit

The limit codes exponents at their entropy (all values of the array in one histogram) and counts sign and mantissa raw. A codec
can go beyond it where rows repeat: at layer 0 all prompts that end in the same token have the same state.

| model | dtype | layers | ratio | limit | size over limit |
|---|---|---|---:|---:|---:|
"""
    for model, dtype, what, ratio, limit in shrunk:
        text += f"| {model} | {dtype} | {what} | {ratio:.3f} | {limit:.3f} | {limit / ratio - 1:+.1%} |\n"
    (PAGES / "codecs.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
