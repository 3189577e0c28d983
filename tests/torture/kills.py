"""kill -9 at a random moment of a job that a process of its own does, again and again, until it is let go on."""

import multiprocessing
import random
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from actlas.store.disk import Disk
from tests.torture.count import Count
from tests.torture.exact import long_spec
from tests.torture.phases import PHASES, nothing

_ANSWER_SECONDS = 60.0


def processes() -> ForkServerContext:
    """Where child processes come from: forked from a server that has imported the store and started no thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["actlas.store", "tests.store.tiny"])
    return context


def run(phase: str, seed: int, *, rounds: int) -> Count:
    """Kill the job `rounds` times; every second time, on average, kill the run that follows too."""
    job, seeded, count = PHASES[phase], random.Random(seed), Count(rounds)
    with job.bases() as bases:
        seconds = _seconds_of(phase, next(bases))
        n_killed = 0
        while n_killed < rounds:
            base, go_on = next(bases), True
            while go_on and n_killed < rounds:
                moment = 1 - seeded.random() ** 2  # more of them late, where the rename is
                finished_after = _seconds_of(phase, base, kill_after=moment * seconds)
                if finished_after is None:
                    n_killed += 1
                    count.seen[job.check(base, set())] += 1
                    go_on = seeded.random() < 0.5
                else:
                    count.seen["too late"] += 1
                    seconds, go_on = finished_after, False  # as fast as the machine is now
            job.finish(base, set())
    return count


def _seconds_of(phase: str, base: Path, *, kill_after: float | None = None) -> float | None:
    """Return how long the job took in a process of its own; None where it was killed."""
    here, there = multiprocessing.Pipe()
    process = processes().Process(target=child_works, args=(phase, str(base), there))
    process.start()
    there.close()
    _answer(here)
    if kill_after is not None:
        time.sleep(kill_after)
        process.kill()
    try:
        seconds = float(_answer(here))
    except EOFError:
        seconds = None
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"the child failed with {process.exitcode}"
    return seconds


def _answer(connection: Connection) -> Any:
    if not connection.poll(_ANSWER_SECONDS):
        raise TimeoutError("the child does not answer")
    return connection.recv()


def child_works(phase: str, base: str, parent: Connection) -> None:
    """Do a job: what a child process runs."""
    long_spec()  # takes longer than many a job
    parent.send("begin")
    start = time.monotonic()
    PHASES[phase].work(Path(base), Disk(), nothing)
    parent.send(time.monotonic() - start)
