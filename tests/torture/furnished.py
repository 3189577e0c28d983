"""A store in which everything stands that may stand in one."""

import dataclasses
from pathlib import Path

from actlas.store import CODEC, Entry, EntrySpec, Store, StoreWriter, create_store
from actlas.store.disk import Disk
from actlas.store.limit import write_limit
from actlas.store.withdraw import withdraw
from tests.store.tiny import many_chunks, tiny_model, tiny_spec, tiny_task, unlock, write_tiny

MODEL, TASK = "pythia", "rte"


def furnished(root: Path, codec: str = CODEC) -> Store:
    """One entry of several chunks, one that was withdrawn, labels and a limit; it may be damaged."""
    writer = create_store(root)
    with many_chunks():
        _write(writer, dataclasses.replace(tiny_spec(model=tiny_model(MODEL), task=tiny_task(300, TASK)), codec=codec))
    gone = _write(writer, tiny_spec(model=tiny_model("gone", base="0c"), task=tiny_task(3, "gone")))
    withdraw(writer, gone.path, why="torture")
    writer.label_task(TASK, {"licence": "CC0"})
    write_limit(Disk(), root, 1 << 40)
    unlock(root)
    return writer.reader


def _write(writer: StoreWriter, spec: EntrySpec) -> Entry:
    provenance = {"seconds": 1e-7, "host": "lab", "device": "cpu"}
    return write_tiny(writer, spec, provenance=provenance, labels={"trained_on": ["rte"]})
