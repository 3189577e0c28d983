"""The store's throughput: reading, verifying, committing, opening.

Run: make bench. Writes docs/benchmarks/store.md.
"""

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from actlas.store import CODEC, Entry, EntrySpec, Store, StoreWriter, create_store, open_store, verify
from actlas.store.catalog import rebuild_catalog
from actlas.store.codec import CRC_BYTES, decompress
from actlas.store.disk import Disk
from actlas.store.documents import seal, write_json
from actlas.store.encoder import Encoder
from actlas.store.manifest import write_manifest
from tests.bench.measure import (
    LAYERS,
    PAGES,
    REPEATS,
    Array,
    N,
    P,
    large_states,
    machine,
    scratch,
    seconds,
    side_by_side,
    write_entry,
)
from tests.servers.fault_proxy import fault_proxy
from tests.servers.nginx import nginx
from tests.store.tiny import REAL, tiny_model, tiny_spec, tiny_task, tiny_values, unlock


def decode_in_memory(entry: Entry) -> Callable[[], object]:
    """Return work that decodes the chunks of an entry, all in memory, into a new array with a thread a core."""
    array = entry.chunked("hidden_states")
    chunks = []
    for file in sorted(array.sizes):
        data = memoryview((Path(entry.location) / "hidden_states" / file).read_bytes())
        index = np.frombuffer(data[-array.metadata.index_bytes : -CRC_BYTES], "<u8").reshape(-1, 2)
        chunks += [data[start : start + length - CRC_BYTES] for start, length in index.tolist()]
    n_bytes = array.metadata.chunk_bytes

    def decode() -> Array:
        out = np.empty(len(chunks) * n_bytes, np.uint8)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(
                pool.map(
                    lambda i: decompress(chunks[i], memoryview(out[i * n_bytes : (i + 1) * n_bytes])),
                    range(len(chunks)),
                )
            )
        return out

    return decode


def reading(root: Path) -> dict[str, float]:
    """Compare reading a whole entry with its codec, with zarr-python, with np.load, and with verifying."""
    states = large_states("bfloat16")
    store = create_store(root / "reading.act")
    entry, writing, committing = write_entry(store, states, "bfloat16", CODEC)
    plain, _, _ = write_entry(store, states, "bfloat16", "none")
    np.save(root / "states.npy", states.view(np.uint16))
    zarr_array = zarr.open_array(f"{entry.location}/hidden_states", mode="r")
    reader = store.reader
    read, decode, zarr_python, verified, plainly, loaded = side_by_side(
        lambda: entry.hidden_states[...],
        decode_in_memory(entry),
        lambda: zarr_array[...],
        lambda: list(verify(reader, model=entry.model)),
        lambda: plain.hidden_states[...],
        lambda: np.load(root / "states.npy"),
    )
    overheads = [committing / writing]
    for _ in range(4):
        shutil.rmtree(root / "again.act", ignore_errors=True)
        _, writing, committing = write_entry(create_store(root / "again.act"), states, "bfloat16", CODEC)
        overheads.append(committing / writing)
        unlock(root / "again.act")
    return {
        "read": read, "decode": decode, "zarr": zarr_python, "verify": verified, "none": plainly, "np.load": loaded,
        "bytes": float(states.nbytes), "commit share": float(np.median(overheads)),
    }  # fmt: skip


def small_commit(root: Path) -> dict[str, float]:
    """Measure an entry of 50 examples and 33 layers against writing and flushing as many bytes in one file."""
    states = np.random.default_rng(0).integers(0, 1 << 16, (33, 50, P), dtype=np.uint16).view(REAL["bfloat16"])
    store = create_store(root / "small.act")
    overheads = []
    for number in range(REPEATS):
        spec = dataclasses.replace(
            tiny_spec(
                model=tiny_model(f"m{number}", width=P, norm_width=None, base=f"{number:02x}"),
                task=tiny_task(50, "small"),
                layers=tuple(range(33)),
            ),
            codec=CODEC,
        )
        start = time.perf_counter()
        with store.new_entry(spec) as writer:
            writer.write(states)
            entry = store.commit(writer, {})
        whole = time.perf_counter() - start
        coded = Path(entry.location, "hidden_states", "c.0.0.0").read_bytes()
        start = time.perf_counter()
        Disk().write(root / "bytes", coded)
        Disk().sync(root / "bytes")
        overheads.append(whole - (time.perf_counter() - start) - encoding_seconds(states, spec))
    names = [name for name in entry.manifest.files if "/c." in name]
    return {
        "overhead": float(np.median(overheads)),
        "state files": float(sum(name.startswith(("hidden_states", "final_norm")) for name in names)),
        "chunk files": float(len(names)),
    }


def encoding_seconds(states: Array, spec: EntrySpec) -> float:
    """Return how long Zarr takes to encode the states in memory."""
    encoder = Encoder(spec.arrays, spec.codec)
    whole = (slice(0, states.shape[0]), slice(0, states.shape[1]))
    return seconds(lambda: encoder.encode("hidden_states", whole, states.view(np.uint16)))


class _UnflushedDisk(Disk):
    def sync(self, path: Path) -> None:
        """Do nothing: a store that is made for one measurement need not survive a power loss."""


def many_entries(root: Path) -> StoreWriter:
    """Make a store of 62 models x 60 tasks: one model for real, the others by links with manifests of their own."""
    create_store(root)
    store = StoreWriter(root, disk=_UnflushedDisk())
    for number in range(60):
        spec = tiny_spec(model=tiny_model("model-00", base="00"), task=tiny_task(3, f"task-{number:02}"))
        with store.new_entry(spec) as writer:
            writer.write(*tiny_values(spec))
            store.commit(writer, {})
    first = list(store.reader.entries(model="model-00"))
    for number in range(1, 62):
        _link_model(store, first, tiny_model(f"model-{number:02}", base=f"{number:02x}"))
    rebuild_catalog(store.disk, root)
    return store


def _link_model(store: StoreWriter, entries: Sequence[Entry], model: Any) -> None:
    disk, root = store.disk, store.root
    for entry in entries:
        identity = dataclasses.replace(entry.identity, model_digest=model.identity.digest)
        manifest = dataclasses.replace(
            entry.manifest, names=entry.manifest.names | {"model": model.name}, identity=identity
        )
        target = root / "models" / model.name / entry.task / f"raw-last-{identity.key[:8]}"
        target.mkdir(parents=True)
        for name in manifest.files:
            (target / name).parent.mkdir(exist_ok=True)
            os.link(Path(entry.location) / name, target / name)
        write_manifest(disk, target, manifest)
    write_json(disk, root / "models" / model.name / "model.json", seal(dataclasses.asdict(model)))


def opening(root: Path) -> dict[str, float]:
    """Open a store of 62 x 60 entries locally and over HTTP, and commit one more entry to it."""
    store = many_entries(root / "many.act")
    place = root / "many.act"

    def look(where: str | Path) -> None:
        opened = open_store(where)
        assert (len(opened.models()), len(opened.tasks()), len(opened.records())) == (62, 60, 3720)

    [local] = side_by_side(lambda: look(place), repeats=5)
    with nginx(root) as url, fault_proxy(url) as proxy:
        remote = seconds(lambda: look(f"{proxy.url.rstrip('/')}/many.act"))
        requests = [request.path for request in proxy.requests]
    catalogue = seconds(lambda: rebuild_catalog(Disk(), place, changed={"models/model-00"}))
    assert isinstance(store.reader, Store)
    return {"local": local, "remote": remote, "requests": float(len(requests)), "catalogue": catalogue,
            "catalogue bytes": float((place / "catalog.json").stat().st_size)}  # fmt: skip


def main() -> None:
    """Measure and write the page."""
    with scratch() as root:
        results = reading(root)
        small = small_commit(root)
    with scratch() as root:
        opened = opening(root)
    write_page(results, small, opened)


def write_page(
    results: dict[str, float],
    small: dict[str, float],
    opened: dict[str, float],
) -> None:
    """Write the figures with machine and command."""
    rate = {
        name: results["bytes"] / results[name] / 1e9 for name in ("read", "decode", "zarr", "verify", "none", "np.load")
    }
    figures = [
        ("read with the default codec, over the codec's own rate", f"{rate['read'] / rate['decode']:.0%}", "at least 70 %"),
        ("read with the default codec, over zarr-python", f"{rate['read'] / rate['zarr']:.1f} times", "at least 1"),
        ("read with codec `none`, over `np.load`", f"{rate['none'] / rate['np.load']:.2f} times", "at least 1"),
        ("full verify, over reading", f"{rate['verify'] / rate['read']:.1f} times", "at least 1.5"),
        ("commit, over writing", f"{results['commit share']:.1%}", "at most 10 %"),
        ("commit of 50 examples x 33 layers, beyond its bytes", f"{small['overhead'] * 1000:.0f} ms", "at most 50 ms"),
        ("its files of hidden states; all its chunk files",
         f"{small['state files']:.0f}; {small['chunk files']:.0f}", "at most 6"),
        ("open and list 62 models x 60 tasks, local", f"{opened['local']:.2f} s", "under 1 s"),
        (f"the same over HTTP ({opened['catalogue bytes'] / 1e6:.1f} MB of catalogue)",
         f"{opened['remote']:.2f} s, {opened['requests']:.0f} requests", "1 for the catalogue"),
        ("catalogue brought up to date, at 3,720 entries", f"{opened['catalogue']:.2f} s", ""),
    ]  # fmt: skip
    text = f"""# The store: reading, committing, opening

Measured by `make bench` in one run on {machine()}; medians, warm page cache, the
compared pieces of work in turn.

An entry of {LAYERS} layers x {N:,} examples x {P:,} features in bfloat16 ({results["bytes"] / 1e6:.0f} MB) is read at
{rate["read"]:.1f} GB/s with the default codec (its chunks decoded in memory: {rate["decode"]:.1f}; zarr-python on the same
files: {rate["zarr"]:.1f}), and at {rate["none"]:.1f} GB/s with codec `none` (`np.load`: {rate["np.load"]:.1f}).

| what | measured | asked |
|---|---:|---|
"""
    text += "".join(f"| {what} | {measured} | {asked} |\n" for what, measured, asked in figures)
    text += """
The root's metadata and the catalogue are the two requests. Reading does not go through zarrs: it is fast, but returns wrong
values for damaged chunks (see [durability](../explanation/durability.md)).
"""
    (PAGES / "store.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
