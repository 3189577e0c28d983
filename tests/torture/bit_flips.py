"""One bit of a store is flipped: it is read as it was written or refused, and `verify` names the file."""

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import zarr

from actlas.store import ActError, Store, open_store
from tests.servers.nginx import nginx
from tests.store.tiny import everything, flipped, folder, problems_of, replaced_in_place
from tests.torture.count import Count
from tests.torture.exact import scratch
from tests.torture.furnished import MODEL, TASK, furnished

Pipeline = Literal["local", "http", "zarr"]

# What each file is, and how many in a hundred flips are to hit it.
WEIGHTS = {
    "data": 20,
    "index": 12,
    "consolidated metadata": 10,
    "metadata": 6,
    "manifest": 12,
    "small arrays": 8,
    "provenance": 3,
    "task table": 5,
    "model.json": 4,
    "labels": 4,
    "catalogue": 5,
    "root": 4,
    "groups": 3,
    "limit": 2,
    "tombstone": 2,
}
_UNSERVED = {"limit", "tombstone"}  # nobody asks for them over HTTP
_ARRAYS = {"data", "index", "small arrays"}  # what plain Zarr checks


@dataclass(frozen=True)
class Span:
    """Bytes of a file."""

    path: Path
    start: int
    stop: int


def run(codec: str, pipeline: Pipeline, seed: int, *, rounds: int) -> Count:
    """Flip `rounds` bits, one at a time, and read and verify the store each time."""
    seeded, count = random.Random(f"{seed} {codec} {pipeline}"), Count(rounds)
    with scratch() as directory:
        store = furnished(directory / "lab.act", codec)
        spans = _spans(store)
        with _reader(pipeline, store) as (read, verify):
            exact = read()
            assert verify() == ""
            wanted = [what for what in spans if _is_in_reach(what, pipeline)]
            for what in seeded.choices(wanted, [WEIGHTS[what] for what in wanted], k=rounds):
                span = seeded.choice(spans[what])
                data = span.path.read_bytes()
                damaged = flipped(data, seeded.randrange(span.start, span.stop), seeded.randrange(8))
                with replaced_in_place(span.path, damaged):
                    count.seen[_outcome(read, exact, span.path)] += 1
                    if pipeline != "zarr":
                        assert _names(verify(), span.path), f"{what}: verify does not name the flip"
                        count.seen["named by verify"] += 1
            assert read() == exact
    return count


def _spans(store: Store) -> dict[str, list[Span]]:
    entry, root = store.entry(model=MODEL, task=TASK), Path(store.location)
    names = [folder(entry) / name for name in entry.manifest.files]
    shards = {folder(entry) / name / file: array.metadata.index_bytes for name in ("hidden_states", "final_norm")
              for array in [entry.chunked(name)] for file in array.sizes}  # fmt: skip
    whole = {
        "consolidated metadata": [folder(entry) / "zarr.json"],
        "metadata": [path for path in names if path.name == "zarr.json" and path.parent != folder(entry)],
        "manifest": [folder(entry) / "manifest.json"],
        "small arrays": [path for path in names if path.name.startswith("c.") and path not in shards],
        "provenance": [folder(entry) / "provenance.json"],
        "task table": [*(root / "tasks" / TASK).glob("*.parquet*")],
        "model.json": [root / "models" / MODEL / "model.json"],
        "labels": [root / "models" / MODEL / "labels.json", root / "tasks" / TASK / "labels.json"],
        "catalogue": [root / "catalog.json"],
        "root": [root / "zarr.json"],
        "groups": [root / "models" / place / "zarr.json" for place in ("", MODEL, f"{MODEL}/{TASK}")],
        "limit": [root / "limit.json"],
        "tombstone": [*root.glob("models/*/*/*.withdrawn.json")],
    }
    spans = {what: [Span(path, 0, path.stat().st_size) for path in paths] for what, paths in whole.items()}
    ends = {path: path.stat().st_size for path in shards}
    spans["data"] = [Span(path, 0, ends[path] - index) for path, index in shards.items()]
    spans["index"] = [Span(path, ends[path] - index, ends[path]) for path, index in shards.items()]
    assert spans.keys() == WEIGHTS.keys()
    assert all(spans.values())
    return spans


def _is_in_reach(what: str, pipeline: Pipeline) -> bool:
    return what in _ARRAYS if pipeline == "zarr" else not (pipeline == "http" and what in _UNSERVED)


@contextlib.contextmanager
def _reader(pipeline: Pipeline, store: Store) -> Iterator[tuple[Callable[[], object], Callable[[], str]]]:
    """How the store is read and verified; places are always called by their local path."""
    if pipeline == "zarr":
        place = folder(store.entry(model=MODEL, task=TASK))
        yield lambda: _read_with_zarr(place), lambda: ""
    elif pipeline == "local":
        yield lambda: _read(open_store(store.location)), lambda: _verify(store.location)
    else:
        with nginx(Path(store.location)) as url:
            yield (
                lambda: _translated(lambda: _read(open_store(url)), url, store.location),
                lambda: _verify(url).replace(url, store.location),
            )


def _translated(read: Callable[[], object], url: str, location: str) -> object:
    try:
        return read()
    except ActError as error:
        raise type(error)(str(error).replace(url, location)) from error


def _read(store: Store) -> object:
    """All that a reader can learn: every value, some of them again by a part of a chunk, and everything around them."""
    entry = store.entry(model=MODEL, task=TASK)
    part = entry.hidden_states[1, 5:290:3, 2:5].tobytes()
    around = store.model(MODEL), store.labels(MODEL), store.task_labels(TASK), store.records(model=MODEL)
    return part, everything(entry), around


def _read_with_zarr(place: Path) -> object:
    group = zarr.open_group(place, mode="r")
    part = np.asarray(group["hidden_states"][1, 5:290:3, 2:5]).tobytes()
    return part, {name: np.asarray(array[...]).tobytes() for name, array in group.arrays()}


def _verify(place: str) -> str:
    try:
        return problems_of(open_store(place))
    except ActError as error:
        return str(error)


def _outcome(read: Callable[[], object], exact: object, path: Path) -> str:
    try:
        found = read()
    except ActError as error:
        return _refused(error, path)
    except Exception as error:
        if not _comes_from_zarr(error):
            raise
        return "refused on read"
    assert found == exact, f"{path}: wrong values"
    return "read exactly"


def _refused(error: ActError, path: Path) -> str:
    assert _names(str(error), path), f"the error does not name {path}: {error}"
    return "refused on read"


def _comes_from_zarr(error: Exception) -> bool:
    """Whether a codec of plain Zarr refused; ours raise nothing but `ActError`."""
    trace = error.__traceback__
    files = []
    while trace is not None:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    return isinstance(error, (ValueError, RuntimeError)) and not any("/store/" in name for name in files)


def _names(text: str, path: Path) -> bool:
    return str(path.parent) in text and path.name in text
