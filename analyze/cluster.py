"""Work on a Dask cluster: each task's blocks are computed whole by one worker, which reads the store by itself."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

from actlas.analyze.rows import Row
from actlas.analyze.work import Work, compute, prepare
from actlas.store import InvalidInput, Store, Unreachable, open_store

RETRIES = 3  # of work whose worker died
_TIMEOUT = 30  # seconds until a scheduler that does not answer is given up


def on_cluster(
    store: Store, works: Sequence[Work], address: str, announce: Callable[[str], None] | None = None
) -> Iterator[tuple[Work, list[list[Row]]]]:
    """Yield each work with its rows, in the order in which workers finish.

    Parameters
    ----------
    store : Store
        Every worker opens it under the same location.
    works : sequence of Work
        What is computed.
    address : str
        ``tcp://HOST:PORT`` of a scheduler, or the path of a scheduler file.
    announce : callable, optional
        Called with the address of the dashboard.

    Raises
    ------
    InvalidInput
        For an address that is none.
    Unreachable
        When no scheduler answers, it goes away, or the workers that took some work all died.
    ActError
        As computing here would.
    """
    from distributed import Client, as_completed
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker

    place = _address(address)
    try:
        client = Client(place, timeout=_TIMEOUT, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise Unreachable(
            f"no Dask scheduler answers at {address} ({error}); start one, or leave --scheduler out"
        ) from error
    with client:
        if announce is not None:
            announce(client.dashboard_link)
        location = store.location if "://" in store.location else str(Path(store.location).resolve())
        # The entries were verified here already, as far as was asked.
        verified = [replace(work, depth="size") for work in works]
        futures = {client.submit(_run, location, work, pure=False, retries=RETRIES): work for work in verified}
        try:
            for future in as_completed(futures, loop=client.loop):
                yield futures[future], future.result()
        except KilledWorker as error:
            raise Unreachable(
                f"the workers that took task {_task_of(error, futures)!r} died, {RETRIES + 1} in turn; give each more memory, "
                "or a smaller --memory"
            ) from error
        except (CancelledError, FutureCancelledError, CommClosedError) as error:
            raise Unreachable(f"the Dask scheduler at {address} is gone; finished tasks are kept, ask again") from error


def _address(text: str) -> str:
    if "://" in text:
        return text
    try:
        found = json.loads(Path(text).read_bytes())["address"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"--scheduler {text}: expected an address such as tcp://host:8786, or the file that a scheduler writes "
            f"({type(error).__name__}: {error})"
        ) from error
    return str(found)


def _task_of(error: Any, futures: dict[Any, Work]) -> str:
    return next((work.task for future, work in futures.items() if future.key == error.task), "?")


def _run(location: str, work: Work) -> list[list[Row]]:
    store = open_store(location)
    return compute(work, prepare(store, work))
