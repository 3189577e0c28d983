"""act replay."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from actlas.analyze import MEMORY, Lock, Means, Replay, read_lock, write_locked
from actlas.analyze import replay as replay_lock
from actlas.analyze.lock import paths_of
from actlas.analyze.replaying import TOLERANCE
from actlas.cli.compare import check_result
from actlas.cli.display import print_json, print_table
from actlas.cli.quantities import bytes_of
from actlas.store import InvalidInput, NotFound, Store, open_store


@click.command()
@click.argument("lock", type=click.Path(path_type=Path))
@click.argument("store", type=click.Path(), required=False)
@click.option("--memory", help=f"Memory that the computation may use; {MEMORY >> 30}GiB by default.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write what came out as act compare --out does, with a lock of its own.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def replay(lock: Path, store: str | None, memory: str | None, out: Path | None, as_json: bool) -> None:
    """Compute a result again from the entries that LOCK names, and say whether its numbers come out.

    LOCK is the FILE.lock.json that act compare --out FILE writes. STORE is any store that holds the entries, a directory or
    a URL; without it, the one that the lock was made from. Nothing is taken from the cache, and what else is in the store
    changes nothing.

    Exit 0 when the numbers are the same, or within 1e-6 (of numbers over 1: of their size), as on another processor; 1 when
    they are not.

    \b
    Example:
      act replay cka.parquet.lock.json
      act replay cka.parquet.lock.json published.act --out again.parquet
    """
    locked = read_lock(lock)
    opened = _open(store, locked)
    if out is not None:
        _check_out(opened, locked, lock, out)
    budget = MEMORY if memory is None else bytes_of(memory, "--memory")
    with Console(stderr=True).status("replay") as status:
        means = Means(
            memory=budget,
            progress=lambda done, total, task: status.update(f"replay: task {done + 1} of {total}, {task}"),
        )
        found = replay_lock(opened, locked, means)
    if out is not None:
        write_locked(found.comparison, opened, out)
    if as_json:
        print_json(_record(found))
    else:
        print_replay(found)
    if not found.is_within:
        raise click.exceptions.Exit(1)


def _open(store: str | None, lock: Lock) -> Store:
    try:
        return open_store(lock.store if store is None else store)
    except NotFound as error:
        if store is None:
            error.add_note("where the store was when the lock was made; say where it is: act replay LOCK STORE")
        raise


def _check_out(store: Store, locked: Lock, lock: Path, out: Path) -> None:
    check_result(store, locked.question, out)
    if lock.resolve() in (path.resolve() for path, _ in paths_of(out, locked.question)):
        raise InvalidInput(
            f"{out}: its lock is the one that is replayed; choose another name, and both can be compared"
        )


def print_replay(found: Replay) -> None:
    """Print the columns that differ, and the verdict."""
    n_rows = len(found.comparison.table) + len(found.comparison.differences)
    if found.is_identical:
        click.echo(f"{n_rows} rows: the same numbers, bit for bit")
        return
    for name, (was, here) in found.other_versions.items():
        click.echo(f"{name}: the lock was made with {was[:12]}, this is {here[:12]}", err=True)
    rows = [
        (
            one.column if one.table == "comparisons" else f"{one.table}: {one.column}",
            f"{one.difference:.1e}",
            one.where,
            one.locked,
            one.recomputed,
        )
        for one in found.deviations
    ]
    print_table(["column", "largest difference", "where", "in the lock", "now"], rows, right=["largest difference"])
    click.echo(f"{n_rows} rows: other numbers, {'within' if found.is_within else 'beyond'} {TOLERANCE:.0e}")


def _record(found: Replay) -> dict[str, Any]:
    return {
        "identical": found.is_identical,
        "within": found.is_within,
        "tolerance": TOLERANCE,
        "deviations": [{name: _finite(value) for name, value in asdict(one).items()} for one in found.deviations],
        "versions": {name: list(both) for name, both in found.other_versions.items()},
    }


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
