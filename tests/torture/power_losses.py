"""The power goes at a random moment of a job: what was promised is there, and what is there is exact."""

import random
from pathlib import Path

from tests.torture.count import Count
from tests.torture.exact import remove
from tests.torture.phases import PHASES
from tests.torture.volatile_disk import Order, VolatileDisk


def run(phase: str, seed: int, *, rounds: int, order: Order, disk_type: type[VolatileDisk] = VolatileDisk) -> Count:
    """Do the job once on a disk that keeps a log, and make, look at and repair the state after `rounds` power losses."""
    job, seeded, count = PHASES[phase], random.Random(seed), Count(rounds)
    with job.bases() as bases:
        base = next(bases)
        disk = disk_type(base)
        n_before = len(disk.log)
        job.work(base, disk, disk.mark)
        for _ in range(rounds):
            image = base.with_name("image")
            promised = disk.lose_power(seeded.randint(n_before, len(disk.log)), order, seeded, image)
            _leave_locks(image, seeded)
            count.seen[job.check(image, promised)] += 1
            job.finish(image, promised)
            remove(image)
    return count


def _leave_locks(image: Path, seeded: random.Random) -> None:
    """Lock files are not written through the disk: nobody holds those that are left."""
    for staging in image.glob("*/.staging"):
        for name in ("catalog", *(path.name for path in staging.iterdir() if path.is_dir())):
            if seeded.random() < 0.5:
                (staging / f"{name}.lock").touch()
