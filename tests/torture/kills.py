"""kill -9 at a random moment of a job that a process of its own does, again and again, until it is let go on."""

import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

from actlas.store.disk import Disk
from tests.torture.count import Count
from tests.torture.exact import long_spec
from tests.torture.phases import PHASES, nothing

_ANSWER_SECONDS = 60.0


def processes() -> ForkServerContext:
    """Where child processes come from: forked from a server that has imported what they need and runs no thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["actlas.store", "tests.store.tiny", "tests.ingest.checkpoints"])
    return context


def run(phase: str, seed: int, *, rounds: int) -> Count:
    """Kill the job `rounds` times; every second time, on average, kill the run that follows too.

    Half of the kills of a job that renames a directory come after that: the rest of the job is short, and counts.
    """
    job, seeded, count = PHASES[phase], random.Random(seed), Count(rounds)
    with job.bases() as bases:
        pace = _run_child(phase, next(bases))
        n_killed = 0
        while n_killed < rounds:
            base, go_on = next(bases), True
            while go_on and n_killed < rounds:
                since = seeded.choice([name for name in pace if name != "end"])
                seen = _run_child(phase, base, since, seeded.uniform(0, 1.2 * (pace["end"] - pace[since])))
                if "end" in seen:
                    count.seen["too late"] += 1
                    go_on = False
                    if seen.keys() == pace.keys():
                        pace = seen  # as fast as the machine is now
                else:
                    n_killed += 1
                    count.seen[job.check(base, set())] += 1
                    go_on = seeded.random() < 0.5
            job.finish(base, set())
    return count


def _run_child(phase: str, base: Path, since: str | None = None, kill_after: float = 0.0) -> dict[str, float]:
    """Do the job in a process that is killed some seconds after it said `since`; return what it said, and when."""
    here, there = multiprocessing.Pipe()
    process = processes().Process(target=child_works, args=(phase, str(base), there))
    process.start()
    there.close()
    seen: dict[str, float] = {}
    try:
        while "end" not in seen and here.poll(_ANSWER_SECONDS):
            name, seconds = here.recv()
            is_new = name not in seen
            seen.setdefault(name, seconds)
            if is_new and name == since:
                time.sleep(kill_after)
                process.kill()
    except EOFError:
        pass
    else:
        assert "end" in seen, "the child does not answer"
    finally:
        if "end" not in seen:
            process.kill()
        process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"the child failed with {process.exitcode}"
    return seen


class TellingDisk(Disk):
    """A disk that says when it renames a directory."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def rename(self, source: Path, target: Path) -> None:
        if source.is_dir():
            self._say("rename")
        super().rename(source, target)


def child_works(phase: str, base: str, parent: Connection) -> None:
    """Do a job: what a child process runs."""
    long_spec()  # takes longer than many a job
    start = time.monotonic()

    def say(name: str) -> None:
        parent.send((name, time.monotonic() - start))

    say("begin")
    PHASES[phase].work(Path(base), TellingDisk(say), nothing)
    say("end")
