"""The whole torture: every fault, as often as the promise is worth."""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from actlas.store import CODECS
from tests.servers import nginx
from tests.torture import (
    bit_flips,
    damaged_files,
    failed_operations,
    full_disks,
    hostile_stores,
    kills,
    model_kills,
    power_losses,
    races,
    system_calls,
    zarrs_flips,
)
from tests.torture.count import Count
from tests.torture.forgeries import CASES
from tests.torture.phases import PHASES

N_KILLS = 50  # of each of six jobs
N_MODEL_KILLS = 100  # of a model's ingest, in one process and in two
N_POWER_LOSSES = 100
N_SYSTEM_CALLS = 6
N_FLIPS = 1000
N_FULL_DISKS = 60
N_RACES = 50


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes
    ----------
    fault, how : str
        What is done, and to what.
    run : callable
        Does it; importable, for a process of its own does it.
    missing : str or None
        Why it cannot be done here.
    """

    fault: str
    how: str
    run: Callable[[], Count]
    missing: str | None = None


def rows(seed: int) -> list[Row]:
    """Return all that is to be done, in the order of the table."""
    return [*_interruptions(seed), *_damage(seed), *_others(seed)]


def _interruptions(seed: int) -> Iterator[Row]:
    for phase in PHASES:
        yield Row("kill -9", phase, partial(kills.run, phase, seed, rounds=N_KILLS))
    for number, how in enumerate(("one process", "two devices"), start=1):
        killed = partial(model_kills.run, ("cpu",) * number, seed, rounds=N_MODEL_KILLS)
        yield Row("kill -9 of a model's ingest", how, killed)
    for phase in PHASES:
        yield Row("one operation fails with EIO", phase, partial(failed_operations.run, phase, seed))
    for phase in PHASES:
        full = partial(failed_operations.run, phase, seed, code=errno.ENOSPC, lasting=True)
        yield Row("from one operation on, the disk is full", phase, full)
    for phase in PHASES:
        calls = partial(system_calls.run, phase, seed, rounds=N_SYSTEM_CALLS)
        yield Row("one system call fails with EIO", phase, calls, system_calls.missing())
    orders = {"all": "kept whole", "journal": "names kept in order", "any": "names kept in any order"}
    for order, what in orders.items():
        for phase in PHASES:
            lost = partial(power_losses.run, phase, seed, rounds=N_POWER_LOSSES, order=order)
            yield Row(f"power loss, what was not flushed {what}", phase, lost)


def _damage(seed: int) -> Iterator[Row]:
    for pipeline, what in {"local": "actlas", "http": "actlas over HTTP", "zarr": "zarr-python"}.items():
        missing = nginx.missing() if pipeline == "http" else None
        for codec in CODECS:
            flips = partial(bit_flips.run, codec, pipeline, seed, rounds=N_FLIPS)
            yield Row(f"bit flip, read by {what}", codec, flips, missing)
    for codec in CODECS:
        yield Row("file deleted, cut or swapped", codec, partial(damaged_files.run, codec, "float32"))


def _others(seed: int) -> Iterator[Row]:
    yield Row("disk of 6 MiB full", "ingest", partial(full_disks.run, seed, rounds=N_FULL_DISKS), full_disks.missing())
    yield Row("race of 2 to 8 processes", "same entry", partial(races.run_one_entry, seed, rounds=N_RACES))
    yield Row("race of 2 to 8 processes", "same new store", partial(races.run_one_store, seed, rounds=N_RACES))
    yield Row("race of 8 processes", "catalogue", partial(races.run_many_entries, seed, rounds=N_RACES))
    yield Row("race of readers", "commit, rm and gc", partial(races.run_readers, seed, rounds=4 * N_RACES))
    for kind in CASES:
        yield Row("hostile store", kind, partial(hostile_stores.run, kind))
    for pipeline, what in {"zarr": "zarr-python", "zarrs": "zarrs (not used here)"}.items():
        flips = partial(zarrs_flips.run, pipeline, seed, rounds=400)
        yield Row(f"bit flip in half-read chunks, read by {what}", "none", flips, zarrs_flips.missing())
