"""Each operation on the disk fails once: the run after it completes, and between the two nothing wrong is to be seen."""

import errno
import itertools
import random
from collections import Counter

from actlas.store import ActError
from tests.torture.count import Count
from tests.torture.failing_disk import FailingDisk
from tests.torture.phases import PHASES, nothing


def run(
    phase: str,
    seed: int,
    *,
    rounds: int | None = None,
    code: int = errno.EIO,
    lasting: bool = False,
    disk_type: type[FailingDisk] = FailingDisk,
) -> Count:
    """Fail at the first point, the second, and so on until the job passes; or at some points, drawn at random."""
    job, seen, n_rounds = PHASES[phase], Counter[str](), 0
    with job.bases() as bases:
        for point in itertools.count(1) if rounds is None else _draw(phase, seed, rounds):
            base, disk = next(bases), disk_type(point, code, lasting=lasting)
            try:
                job.work(base, disk, nothing)
            except (OSError, ActError):
                assert disk.is_hit
            else:
                seen["done in spite of it"] += disk.is_hit
            if not disk.is_hit:
                break
            n_rounds += 1
            seen[job.check(base, set())] += 1
            job.finish(base, set())
    return Count(n_rounds, seen)


def _draw(phase: str, seed: int, rounds: int) -> list[int]:
    disk = FailingDisk(0)
    with PHASES[phase].bases() as bases:
        PHASES[phase].work(next(bases), disk, nothing)
    return random.Random(seed).sample(range(1, disk.n_points + 1), min(rounds, disk.n_points))
