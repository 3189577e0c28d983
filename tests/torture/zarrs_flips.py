"""Why zarrs does not read here: of a chunk that it decodes in part it does not check the checksum.

Run it where zarrs is installed; actlas does not need it.
"""

import importlib.util
import random
from pathlib import Path
from typing import Literal

import numpy as np
import zarr

from tests.store.tiny import flipped, folder, replaced_in_place
from tests.torture.count import Count
from tests.torture.exact import scratch
from tests.torture.furnished import MODEL, TASK, furnished

Pipeline = Literal["zarr", "zarrs"]

_PATHS = {
    "zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}


def missing() -> str | None:
    """Return why this cannot run, or None where it can."""
    return None if importlib.util.find_spec("zarrs") else "needs zarrs"


def run(pipeline: Pipeline, seed: int, *, rounds: int) -> Count:
    """Flip bits in chunks at the edge of an array, of which a part lies outside, and count what is read."""
    seeded, count = random.Random(seed), Count(rounds)
    with scratch() as directory, zarr.config.set({"codec_pipeline.path": _PATHS[pipeline]}):
        store = furnished(directory / "lab.act", "none")
        place = folder(store.entry(model=MODEL, task=TASK))
        [shard] = (place / "hidden_states").glob("c.*")
        exact, data = _read(place), shard.read_bytes()
        spans = _edge_chunks(data, store.entry(model=MODEL, task=TASK).chunked("hidden_states").metadata.index_bytes)
        for _ in range(rounds):
            start, length = seeded.choice(spans)
            with replaced_in_place(shard, flipped(data, seeded.randrange(start, start + length), seeded.randrange(8))):
                count.seen[_outcome(place, exact)] += 1
    return count


def _edge_chunks(data: bytes, index_bytes: int) -> list[tuple[int, int]]:
    """Return where the second chunk of each layer stands: 44 of its 256 rows are examples."""
    index = np.frombuffer(data[-index_bytes:-4], "<u8").reshape(-1, 2).tolist()
    return [(start, 44 * 8 * 2) for start, _ in index[1::2]]


def _read(place: Path) -> np.ndarray:
    return np.asarray(zarr.open_group(place, mode="r")["hidden_states"][...])


def _outcome(place: Path, exact: np.ndarray) -> str:
    try:
        found = _read(place)
    except (ValueError, RuntimeError):
        return "refused"
    return "exact" if found.tobytes() == exact.tobytes() else "wrong values"
