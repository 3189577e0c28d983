"""A store made by an enemy: refused with an error that says so, before anything is allocated or run.

The forgeries are read by a child process, which tells what happened and by how much its memory grew.
"""

import contextlib
import itertools
import multiprocessing
import resource
import shutil
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from actlas.store import ActError, Entry, open_store, open_writer
from actlas.store.catalog import read_catalog
from actlas.store.limit import read_limit
from actlas.store.storage import LocalStorage
from tests.store.tiny import everything, problems_of, write_tiny
from tests.torture.count import Count
from tests.torture.exact import scratch
from tests.torture.forgeries import CASES, PICKLED, beside
from tests.torture.furnished import MODEL, TASK, furnished
from tests.torture.kills import processes

MOST_BYTES = 200_000_000
_MOST_SECONDS = 30.0
_ADDRESS_BYTES = 3 << 30  # above what the child has mapped: a bomb goes off there and not in the machine


def run(kind: str, *, step: int = 1) -> Count:
    """Read every forgery of a kind, or every third, say."""
    count = Count(0)
    with scratch() as directory:
        furnished(directory / "good.act")
        forged = []
        for number, (what, forge) in enumerate(itertools.islice(CASES[kind](), 0, None, step)):
            shutil.copytree(directory / "good.act", directory / f"{number}.act")
            forge(directory / f"{number}.act")
            forged.append((what, str(directory / f"{number}.act")))
        here, there = multiprocessing.Pipe()
        process = processes().Process(target=child_reads, args=(str(directory / "good.act"), forged, there))
        process.start()
        there.close()
        try:
            for what, _ in forged:
                seen = _answer(here, what)
                count.seen[seen["fate"]] += 1
                expected = {"ignored"} if kind in ("twins", "journals") else {"refused", "named by verify"}
                assert seen["fate"] in expected, f"{what}: {seen['fate']}\n{seen['text']}"
                assert seen["n_bytes"] < MOST_BYTES, f"{what}: {seen['n_bytes']:,} bytes"
        finally:
            process.kill()
            process.join()
    return Count(len(forged), count.seen)


def _answer(connection: Connection, what: str) -> dict[str, Any]:
    assert connection.poll(_MOST_SECONDS), f"{what}: no answer"
    try:
        return connection.recv()
    except EOFError:
        raise AssertionError(f"{what}: the process that read it is gone") from None


def child_reads(good: str, forged: list[tuple[str, str]], parent: Connection) -> None:
    """Read stores and say what happened: what a child process runs."""
    exact = _everything(Path(good))
    assert _fate(Path(good), exact) == ("ignored", "")
    shutil.rmtree(PICKLED, ignore_errors=True)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + _ADDRESS_BYTES,) * 2)
    before = _peak_bytes()
    for _, root in forged:
        fate, text = _fate(Path(root), exact)
        if PICKLED.exists():
            fate, text = "crashed", "a pickle was run"
        parent.send({"fate": fate, "text": text, "n_bytes": _peak_bytes() - before})


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _everything(root: Path) -> dict[str, bytes]:
    return everything(open_store(root).entry(model=MODEL, task=TASK))


def _fate(root: Path, exact: dict[str, bytes]) -> tuple[str, str]:
    """Read all there is in every way, and return how it ended."""
    refused, named = [], ""
    try:
        for read in (_read_entries, _read_around, _read_catalog, _write_beside):
            try:
                read(root)
            except ActError as error:
                refused.append(f"{read.__name__}: {error}")
        with contextlib.suppress(ActError):
            named = problems_of(open_store(root))
        if not refused and not named:
            assert _everything(root) == exact
    except BaseException:
        return "crashed", traceback.format_exc()
    if refused:
        return "refused", "\n".join(refused)
    return ("named by verify", named) if named else ("ignored", "")


def _read_entries(root: Path) -> None:
    store = open_store(root)
    for path in store.listing().paths:
        everything(Entry(store.storage, path))
        Entry(store.storage, path).to_xarray()
    store.entries()


def _read_around(root: Path) -> None:
    store = open_store(root)
    for model in store.models():
        store.model(model), store.labels(model)
    for task in store.tasks():
        store.task_labels(task)
    read_limit(LocalStorage(root))


def _read_catalog(root: Path) -> None:
    for record in read_catalog(LocalStorage(root)).records:
        everything(Entry(LocalStorage(root), record.path))


def _write_beside(root: Path) -> None:
    """Commit an entry beside the forgery; the catalogue that is then written can be read."""
    try:
        write_tiny(open_writer(root), beside())
    except OSError as error:
        assert error.filename  # noqa: PT017
    else:
        read_catalog(LocalStorage(root))
