"""Each operation on the disk fails once: the run after it completes, and between the two nothing wrong is to be seen."""

import errno
import random

from actlas.store import ActError
from tests.torture.count import Count
from tests.torture.failing_disk import FailingDisk
from tests.torture.phases import PHASES, nothing


def run(phase: str, seed: int, *, rounds: int | None = None, code: int = errno.EIO, lasting: bool = False) -> Count:
    """Fail at the first point, the second, and so on until the job passes; or at some points, drawn at random."""
    job, count = PHASES[phase], Count(0)
    with job.bases() as bases:
        points = range(1, 1 << 30) if rounds is None else _draw(phase, seed, rounds)
        n_rounds = 0
        for point in points:
            base, disk = next(bases), FailingDisk(point, code, lasting=lasting)
            try:
                job.work(base, disk, nothing)
            except (OSError, ActError):
                assert disk.is_hit
            else:
                count.seen["done in spite of it"] += disk.is_hit
            if not disk.is_hit:
                break
            n_rounds += 1
            count.seen[job.check(base, set())] += 1
            job.finish(base, set())
    return Count(n_rounds, count.seen)


def _draw(phase: str, seed: int, rounds: int) -> list[int]:
    job, disk = PHASES[phase], FailingDisk(0)
    with job.bases() as bases:
        job.work(next(bases), disk, nothing)
    return random.Random(seed).sample(range(1, disk.n_points + 1), min(rounds, disk.n_points))
