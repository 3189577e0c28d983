"""Processes race: for one entry, for the catalogue, and readers against writers."""

import contextlib
import os
import queue
import random
import time
import traceback
from collections import Counter
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from actlas.store import ActError, AlreadyExists, EntrySpec, Store, create_store, open_store, open_writer, verify
from actlas.store.catalog import read_catalog
from actlas.store.collect import collect
from actlas.store.storage import LocalStorage
from actlas.store.withdraw import withdraw
from tests.servers import nginx
from tests.store.tiny import everything, problems_of, tiny_model, tiny_spec, tiny_task, write_tiny
from tests.torture.count import Count
from tests.torture.exact import assert_complete, long_entry, long_spec, scratch, short_entry, short_spec, uninterrupted
from tests.torture.kills import processes

_ANSWER_SECONDS = 120.0
_HOUR = 3600.0
_PAUSE = 0.03  # so that readers find something to read


def run_one_entry(seed: int, *, rounds: int) -> Count:
    """2 to 8 processes write the same entry; each is told the id that one of them, whichever, committed."""
    seeded, count = random.Random(seed), Count(rounds)
    for _ in range(rounds):
        n_processes = seeded.randint(2, 8)
        with scratch() as directory:
            create_store(directory / "lab.act")
            answers = _race(child_writes_long, [(str(directory / "lab.act"),)] * n_processes)
            assert answers == [long_entry().id] * n_processes
            assert_complete(directory / "lab.act", long_entry())
            assert list((directory / "lab.act" / ".staging").iterdir()) == []
        count.seen["processes"] += n_processes
    count.seen["entries"] = rounds
    return count


def run_one_store(seed: int, *, rounds: int) -> Count:
    """2 to 8 processes make the same store: it is there, and who was too late is told so."""
    seeded, count = random.Random(seed), Count(rounds)
    for _ in range(rounds):
        with scratch() as directory:
            root = directory / "lab.act"
            answers = _race(child_creates, [(str(root),)] * seeded.randint(2, 8))
            assert "made" in answers
            count.seen.update(answers)
            assert problems_of(open_store(root)) == ""
            write_tiny(open_writer(root), short_spec())
            assert_complete(root, short_entry())
    return count


def run_many_entries(seed: int, *, rounds: int, n_processes: int = 8) -> Count:
    """Processes commit entries of their own, each by a rename and a new catalogue: in the end it lists them all."""
    count = Count(rounds)
    exact = [uninterrupted(_numbered(number)) for number in range(n_processes)]
    for _ in range(rounds):
        with scratch() as directory:
            root = directory / "lab.act"
            create_store(root)
            answers = _race(child_writes_numbered, [(str(root), number) for number in range(n_processes)])
            assert sorted(answers) == sorted(one.id for one in exact)
            assert_complete(root, *exact)
    count.seen["entries"] = rounds * n_processes
    return count


def run_readers(seed: int, *, rounds: int, n_writers: int = 2, n_readers: int = 2) -> Count:
    """Readers loop while writers commit, withdraw and collect: what they read is exact, or an error that names it.

    One entry stays: it is read exactly at any time, and nobody finds fault with it.
    """
    with scratch() as directory, contextlib.ExitStack() as servers:
        root = directory / "lab.act"
        write_tiny(create_store(root), long_spec())
        places = [str(root)] * n_readers
        if nginx.missing() is None:
            places.append(servers.enter_context(nginx.nginx(root)))
        context, stop = processes(), processes().Event()
        from_writers, from_readers = context.Queue(), context.Queue()
        jobs = [(child_churns, (str(root), number, rounds), from_writers) for number in range(n_writers)]
        jobs += [(child_reads, (place, n_writers, stop), from_readers) for place in places]
        running = [context.Process(target=_at_work, args=job) for job in jobs]
        for process in running:
            process.start()
        try:
            seen = _gather(from_writers, n_writers)
        finally:
            stop.set()
            seen_by_readers = _gather(from_readers, len(places))
            for process in running:
                process.join()
        assert_complete(root, long_entry())
        collect(open_writer(root), older_than=0)
        assert list((root / ".trash").iterdir()) == list((root / ".staging").iterdir()) == []
    return Count(rounds * n_writers, seen + seen_by_readers)


def _gather(answers: Any, n_answers: int) -> Counter[str]:
    found = [answers.get(timeout=_ANSWER_SECONDS) for _ in range(n_answers)]
    failed = [answer for answer in found if isinstance(answer, str)]
    assert not failed, "\n".join(failed)
    return sum(found, Counter())


def _at_work(work: Any, args: tuple[Any, ...], answers: Any) -> None:
    try:
        answers.put(work(*args))
    except BaseException:
        answers.put(traceback.format_exc())


def _race(work: Any, arguments: list[tuple[Any, ...]]) -> list[Any]:
    """Run processes that begin at the same moment; return what they answer."""
    context: ForkServerContext = processes()
    barrier, answers = context.Barrier(len(arguments)), context.Queue()
    racers = [context.Process(target=_at_once, args=(work, args, barrier, answers)) for args in arguments]
    for process in racers:
        process.start()
    try:
        found = [answers.get(timeout=_ANSWER_SECONDS) for _ in racers]
    except queue.Empty:
        raise AssertionError(f"a process is stuck: {[process.exitcode for process in racers]}") from None
    for process in racers:
        process.join()
    return found


def _at_once(work: Any, args: tuple[Any, ...], barrier: Any, answers: Any) -> None:
    long_spec()
    barrier.wait()
    try:
        answers.put(work(*args))
    except Exception as error:
        answers.put(f"failed: {error!r}")


def child_writes_long(root: str) -> str:
    return write_tiny(open_writer(root), long_spec()).id


def child_creates(root: str) -> str:
    try:
        create_store(root)
    except AlreadyExists:
        return "too late"
    return "made"


def _numbered(number: int) -> EntrySpec:
    return tiny_spec(model=tiny_model(f"model-{number % 3}", base=f"{number % 3:02}"), task=tiny_task(5, f"t{number}"))


def child_writes_numbered(root: str, number: int) -> str:
    return write_tiny(open_writer(root), _numbered(number)).id


def child_churns(root: str, number: int, rounds: int) -> Counter[str]:
    """Commit an entry, withdraw it, and empty the trash, again and again."""
    writer, spec, trash = open_writer(root), _numbered(number), Path(root) / ".trash"
    for _ in range(rounds):
        entry = write_tiny(writer, spec)
        time.sleep(_PAUSE)
        withdraw(writer, entry.path, why="torture")
        long_ago = time.time() - 2 * _HOUR
        for trashed in trash.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.utime(trashed, (long_ago, long_ago))
        collect(writer, older_than=_HOUR)
    return Counter({"commits": rounds, "withdrawals": rounds})


def child_reads(place: str, n_writers: int, stop: Any) -> Counter[str]:
    """Read everything until told to stop; return what happened."""
    seen: Counter[str] = Counter()
    exact = {one.id: one.content for one in (long_entry(), *(uninterrupted(_numbered(n)) for n in range(n_writers)))}
    while not stop.is_set():
        store = open_store(place)
        seen["listings"] += 1
        _read_what_stays(store, exact)
        for path in store.listing().paths:
            seen[_read_one(store, path, exact)] += 1
        for found in verify(store):
            assert not found.problems or _may_go(found.path), found.problems
            seen["verified while it went"] += bool(found.problems)
    return seen


def _read_what_stays(store: Store, exact: dict[str, dict[str, bytes]]) -> None:
    [entry] = store.entries(model="pythia")
    assert everything(entry) == exact[entry.id] == exact[long_entry().id]
    if isinstance(store.storage, LocalStorage):
        assert entry.path in [record.path for record in read_catalog(store.storage).records]


def _read_one(store: Store, path: str, exact: dict[str, dict[str, bytes]]) -> str:
    _, model, task, _ = path.split("/")
    try:
        for entry in store.entries(model=model, task=task):
            assert everything(entry) == exact[entry.id]
    except ActError as error:
        return _gone(path, task, error)
    return "read exactly"


def _gone(path: str, task: str, error: ActError) -> str:
    assert _may_go(path), error
    assert task in str(error)
    return "gone while it was read"


def _may_go(path: str) -> bool:
    return not path.startswith("models/pythia/")
