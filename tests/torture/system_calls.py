"""One system call of a job fails, for strace answers in place of the kernel: locks and reads fail too, and for real."""

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from actlas.store import ActError
from actlas.store.disk import Disk
from tests.torture.count import Count
from tests.torture.exact import scratch
from tests.torture.phases import PHASES, nothing

# With a question mark: not every processor has every one.
CALLS = (
    "fsync",
    "?rename,?renameat",
    "?mkdir,?mkdirat",
    "?link,?linkat",
    "?chmod,?fchmodat",
    "flock",
    "?preadv,?preadv2",
)
_FAILED = 3
_SECONDS = 120.0


def missing() -> str | None:
    """Return why this cannot run here, or None where it can."""
    if shutil.which("strace") is None:
        return "needs strace"
    done = subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, text=True)
    return None if done.returncode == 0 else f"strace may not trace: {done.stderr.strip()}"


def run(phase: str, seed: int, *, rounds: int) -> Count:
    """Let calls fail that are drawn at random among those that the job makes."""
    job, seeded, count = PHASES[phase], random.Random(seed), Count(rounds)
    with job.bases() as bases, scratch() as directory:
        log = directory / "calls"
        calls = _calls(phase, next(bases), log)
        n_failed = 0
        while n_failed < rounds:
            base, name = next(bases), seeded.choice([name for name in CALLS if calls[name]])
            options = ["-e", f"trace={name}", "-e", f"inject={name}:error=EIO:when={seeded.randint(1, calls[name])}"]
            done = _traced(phase, base, *options, log=log)
            assert done.returncode in (0, _FAILED), f"{options}: {done.stderr}"
            assert done.returncode == 0 or str(base) in done.stdout, f"{options}: no file in {done.stdout!r}"
            if "(INJECTED)" not in log.read_text():
                continue
            n_failed += 1
            count.seen["done in spite of it"] += done.returncode == 0
            count.seen[job.check(base, set())] += 1
            job.finish(base, set())
    return count


def _calls(phase: str, base: Path, log: Path) -> Counter[str]:
    """Return how often an uninterrupted run makes each call in the thread that makes it most often: so strace counts."""
    done = _traced(phase, base, "-e", "trace=" + ",".join(CALLS), log=log)
    assert done.returncode == 0, done.stderr
    made: Counter[tuple[str, str]] = Counter()
    for line in log.read_text().splitlines():
        thread, call = line.split(maxsplit=1)
        made[thread, call.partition("(")[0]] += 1
    threads = {thread for thread, _ in made}
    return Counter(
        {
            names: max(sum(made[thread, name.lstrip("?")] for name in names.split(",")) for thread in threads)
            for names in CALLS
        }
    )


def _traced(phase: str, base: Path, *options: str, log: Path) -> subprocess.CompletedProcess[str]:
    command = ["strace", "-f", "-qq", "-o", str(log), *options, sys.executable, "-B", "-m", __name__, phase, str(base)]
    top = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, cwd=top, timeout=_SECONDS, check=False)


def main(phase: str, base: str) -> int:
    try:
        PHASES[phase].work(Path(base), Disk(), nothing)
    except (ActError, OSError) as error:
        print(error)
        return _FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
