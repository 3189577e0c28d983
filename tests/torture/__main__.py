"""Run the whole torture and write the counts into docs/explanation/durability.md: `make torture`, about half an hour."""

import argparse
import itertools
import os
import platform
import re
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.torture.count import Count, total
from tests.torture.kills import processes
from tests.torture.schedule import Row, rows

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "durability.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="what chance decides depends on it")
    parser.add_argument("--only", default="", help="only rows of which this is a part; the page is not written")
    chosen = parser.parse_args()
    # A child that is killed does not give its semaphores back, of which Python would complain in the end.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")
    start = time.monotonic()
    wanted = [row for row in rows(chosen.seed) if chosen.only in f"{row.fault}, {row.how}"]
    counts = _run(wanted)
    failed = [row for row, count in zip(wanted, counts, strict=True) if isinstance(count, BaseException)]
    print(f"{len(wanted) - len(failed)} of {len(wanted)} passed in {(time.monotonic() - start) / 60:.0f} minutes")
    if failed or chosen.only:
        return bool(failed)
    _write(chosen.seed, time.monotonic() - start, list(zip(wanted, counts, strict=True)))
    return 0


def _run(wanted: list[Row]) -> list[Count | BaseException | None]:
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=processes()) as pool:
        futures: list[Future[Count] | None] = [None if row.missing else pool.submit(row.run) for row in wanted]
        return [_result(row, future) for row, future in zip(wanted, futures, strict=True)]


def _result(row: Row, future: Future[Count] | None) -> Count | BaseException | None:
    found = None if future is None else future.exception() or future.result()
    print(f"{row.fault}, {row.how}: {_cell(row, found)}", flush=True)
    return found


def _cell(row: Row, found: Count | BaseException | None) -> str:
    if isinstance(found, Count):
        return f"{found.rounds:,}: {found}"
    return f"FAILED: {found!r}" if found else f"not done: {row.missing}"


def _line(done: list[tuple[Row, Count | None]]) -> str:
    """Return the line of a table that tells of the rows of one fault."""
    whole = total([count for _, count in done if count is not None])
    missing = "".join(f"; not done: {row.missing}" for row, count in done[:1] if count is None)
    return f"| {done[0][0].fault} | {', '.join(row.how for row, _ in done)} | {whole.rounds:,} | {whole}{missing} |"


def _write(seed: int, seconds: float, counted: list[tuple[Row, Count | None]]) -> None:
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {len(os.sched_getaffinity(0))} {platform.machine()} cores, Linux "
        f"{platform.release()}, Python {platform.python_version()}, zarr {version('zarr')}, numcodecs "
        f"{version('numcodecs')}, seed {seed}, {seconds / 60:.0f} minutes: `make torture`",
        "",
        "| fault | done to | times | what came of it |",
        "|---|---|---:|---|",
    ]
    lines += [_line(list(group)) for _, group in itertools.groupby(counted, lambda pair: pair[0].fault)]
    text = PAGE.read_text("utf-8")
    table = "\n".join(["<!-- counts -->", *lines, "<!-- /counts -->"])
    PAGE.write_text(re.sub("<!-- counts -->.*<!-- /counts -->", lambda _: table, text, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
