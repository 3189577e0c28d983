"""kill -9 at a random moment of a job that a process of its own does, again and again, until it is let go on."""

import contextlib
import multiprocessing
import random
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

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
        seconds = max(_seconds(phase, next(bases)) for _ in range(2))
        n_killed = 0
        while n_killed < rounds:
            base = next(bases)
            while n_killed < rounds:
                was_killed = _killed(phase, base, seeded.uniform(0, 1.1 * seconds))
                count.seen["too late"] += not was_killed
                if not was_killed:
                    break
                n_killed += 1
                count.seen[job.check(base, set())] += 1
                if seeded.random() < 0.5:
                    break
            job.finish(base, set())
    return count


def _seconds(phase: str, base: Path) -> float:
    """Return how long the job takes in a fresh process."""
    here, there = multiprocessing.Pipe()
    process = processes().Process(target=child_works, args=(phase, str(base), there))
    process.start()
    _answer(here)
    start = time.monotonic()
    _answer(here)
    elapsed = time.monotonic() - start
    process.join()
    assert process.exitcode == 0
    return elapsed


def _killed(phase: str, base: Path, moment: float) -> bool:
    here, there = multiprocessing.Pipe()
    process = processes().Process(target=child_works, args=(phase, str(base), there))
    process.start()
    _answer(here)
    time.sleep(moment)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"the child failed with {process.exitcode}"
    return process.exitcode != 0


def _answer(connection: Connection) -> object:
    if not connection.poll(_ANSWER_SECONDS):
        raise TimeoutError("the child does not answer")
    return connection.recv()


def child_works(phase: str, base: str, parent: Connection) -> None:
    """Do a job: what a child process runs."""
    long_spec()  # takes longer than many a job
    parent.send("begin")
    PHASES[phase].work(Path(base), Disk(), nothing)
    with contextlib.suppress(BrokenPipeError):
        parent.send("end")
