"""kill -9 at a random moment of a real model's ingest, in one process or in several, again and again."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from actlas.ingest import Checkpoint, Forecast, Options, Progress, ingest
from actlas.store import ActError, Task, create_store, open_store, verify
from tests.ingest.checkpoints import save_adapter, save_base, tiny_task
from tests.torture.count import Count
from tests.torture.exact import remove, scratch
from tests.torture.kills import processes
from tests.torture.process_tree import children_of, is_running

_SECONDS = 120.0  # what is to happen must happen by then
_BATCH_TOKENS = 400  # small batches, so that there are many moments

Ids = dict[tuple[str, str], str]


def run(devices: tuple[str, ...], seed: int, *, rounds: int) -> Count:
    """Kill an ingest `rounds` times; every second time, on average, kill the run that follows too.

    Of several processes, chance says which: the parent, or one of those on the devices. What is visible after each kill
    must be exact, and the run that is left alone, on all devices or on one, must end with the ids of a run that nothing
    interrupted.
    """
    seeded, count = random.Random(seed), Count(rounds)
    with scratch() as directory:
        checkpoints = _checkpoints(directory)
        expected = _ids(_uninterrupted(directory / "whole.act", checkpoints))
        root, seconds, n_killed = directory / "lab.act", 0.0, 0
        while n_killed < rounds:
            create_store(root, batch_tokens=_BATCH_TOKENS)
            seconds, go_on = seconds or _let_run(root, checkpoints, devices), True
            while go_on and n_killed < rounds:
                killed = _kill(root, checkpoints, devices, seeded, seeded.uniform(0, seconds))
                seconds *= 1.1 if killed else 0.8  # however fast the machine is, one in three comes too late
                count.seen[f"{killed} killed" if killed else "too late"] += 1
                n_killed += bool(killed)
                is_there = _check(root, expected)
                count.seen["entries exact"] += is_there
                count.seen["entries absent"] += len(expected) - is_there
                go_on = bool(killed) and seeded.random() < 0.5
            _let_run(root, checkpoints, seeded.choice([devices, devices[:1]]))
            assert _check(root, expected) == len(expected), "the run that was left alone did not end"
            remove(root)
    return count


def tasks() -> list[Task]:
    """Return the tasks: one of two superblocks, so that something is resumed, and a short one."""
    return [tiny_task(2100, "long", longest=20), tiny_task(40, "short", seed=1)]


def _checkpoints(directory: Path) -> list[Checkpoint]:
    base = save_base(directory / "base")
    adapter = save_adapter(directory / "adapter", base)
    return [Checkpoint(base=str(base), name="base"), Checkpoint(base=str(base), adapter=str(adapter), name="tuned")]


def _uninterrupted(root: Path, checkpoints: Sequence[Checkpoint]) -> Path:
    create_store(root, batch_tokens=_BATCH_TOKENS)
    _let_run(root, checkpoints, ("cpu",))
    return root


def _ids(root: Path) -> Ids:
    return {(entry.model, entry.task): entry.id for entry in open_store(root).entries()}


def _check(root: Path, expected: Ids) -> int:
    """Assert that each entry that can be seen is whole and exact; return how many there are."""
    found = _ids(root)
    assert found.items() <= expected.items(), "another id than an uninterrupted run gives"
    assert not any(one.problems for one in verify(open_store(root)))
    return len(found)


def _let_run(root: Path, checkpoints: Sequence[Checkpoint], devices: tuple[str, ...]) -> float:
    """Ingest with nothing in the way; return the seconds from the moment when all processes were ready."""
    ingesting = _Ingesting(root, checkpoints, devices)
    started = ingesting.expect("start")
    return ingesting.expect("end") - started


def _kill(
    root: Path, checkpoints: Sequence[Checkpoint], devices: tuple[str, ...], seeded: random.Random, seconds: float
) -> str | None:
    """Kill one process of an ingest some seconds after it began; return which, None when all was done."""
    ingesting = _Ingesting(root, checkpoints, devices)
    parent = ingesting.process.pid
    ingesting.expect("start")
    children = sorted(children_of(parent))
    victim = seeded.choice([parent, *children])
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    said, content = ingesting.last()
    _wait_for_the_end_of(children)
    if said == "end":
        return None
    if victim == parent:
        return "parent" if len(devices) > 1 else "process"
    assert said == "failed"
    assert "the process on cpu was killed by SIGKILL" in content, content
    return "child"


def _wait_for_the_end_of(children: Sequence[int]) -> None:
    until = time.monotonic() + _SECONDS
    while any(map(is_running, children)):
        assert time.monotonic() < until, "a process is left"
        time.sleep(0.02)


class _Ingesting:
    """An ingest in a process of its own, and what that says."""

    def __init__(self, root: Path, checkpoints: Sequence[Checkpoint], devices: tuple[str, ...]) -> None:
        self.said, there = Pipe()
        self.process: Any = processes().Process(
            target=child_ingests, args=(str(root), list(checkpoints), devices, there)
        )
        self.process.start()
        there.close()

    def expect(self, kind: str) -> float:
        """Wait for the message of a kind, and return when it came; after the last, for the end of the process."""
        assert self.said.poll(_SECONDS), "the process does not answer"
        found, content = self.said.recv()
        assert found == kind, content
        if kind == "end":
            self._join()
        return time.monotonic()

    def last(self) -> tuple[str | None, str]:
        """Wait until the process ended or was killed; return its last message, (None, "") when there was none."""
        assert self.said.poll(_SECONDS), "the process neither ends nor answers"
        try:
            found: tuple[str, str] = self.said.recv()
        except EOFError:
            return None, ""
        finally:
            self._join()
        return found

    def _join(self) -> None:
        self.process.join(_SECONDS)
        assert self.process.exitcode in (0, -signal.SIGKILL)


def child_ingests(root: str, checkpoints: list[Checkpoint], devices: tuple[str, ...], parent: Connection) -> None:
    """Ingest; say when the work begins, and how it ended: what a child process runs."""
    torch.set_num_threads(1)

    class Beginning(Progress):
        def start(self, forecast: Forecast) -> None:
            parent.send(("start", ""))

    try:
        ingest(root, checkpoints, tasks(), Options(devices=devices), progress=Beginning())
    except ActError as error:
        parent.send(("failed", str(error)))
    else:
        parent.send(("end", ""))
