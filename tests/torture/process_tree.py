"""Which processes a process started, as the kernel tells it."""

from pathlib import Path


def children_of(process: int) -> set[int]:
    """Return the numbers of the processes that a process started and that run."""
    found = {int(number) for path in Path(f"/proc/{process}/task").glob("*/children") for number in _words(path)}
    return {number for number in found if is_running(number)}


def is_running(process: int) -> bool:
    """Return whether a process is there and not only its exit code is."""
    return _words(Path(f"/proc/{process}/stat"))[2:3] not in ([], ["Z"])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
