"""act ls, act info, act du: what a store holds, how it came about, and what takes its room."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import click
import numpy as np

from actlas.cli.display import bytes_text, print_json, print_table, print_tree
from actlas.store import Entry, NotFound, Record, open_store, usage

_MATRIX_COLUMNS = 12  # tasks beyond are summed up: a wider table is read by nobody


@click.command()
@click.argument("store", type=click.Path())
@click.option("--model", "models", multiple=True, help="Only models that fit this glob pattern; repeat.")
@click.option("--task", "tasks", multiple=True, help="Only tasks that fit this glob pattern; repeat.")
@click.option("--long", "is_long", is_flag=True, help="One row an entry.")
@click.option("--json", "as_json", is_flag=True, help="Print every entry as JSON.")
def ls(store: str, models: tuple[str, ...], tasks: tuple[str, ...], is_long: bool, as_json: bool) -> None:
    """List what STORE holds: models by tasks, with the number of examples, layers, dtype and size.

    STORE is a directory, or an http(s):// or s3:// URL. Damaged entries are named, and the exit code is then 1.

    \b
    Example:
      act ls lab.act
      act ls https://example.org/lab.act --model 'control-*' --long
    """
    listing = open_store(store).select(models, tasks)
    if as_json:
        print_json([_summary(record) for record in listing.records])
    elif is_long:
        _print_entries(listing.records)
    else:
        _print_matrix(listing.records)
    for tombstone in listing.withdrawn:
        click.echo(tombstone.text, err=True)
    for problem in listing.problems.values():
        click.echo(f"damaged: {problem}", err=True)
    if listing.problems:
        raise click.exceptions.Exit(1)


def _print_matrix(records: Sequence[Record]) -> None:
    models, tasks = (sorted({getattr(record, name) for record in records}) for name in ("model", "task"))
    shown = tasks if len(tasks) <= _MATRIX_COLUMNS else []
    rows = []
    for model in models:
        mine = [record for record in records if record.model == model]
        row = [model, _distinct(len(r.layers) for r in mine), _distinct(r.dtype for r in mine)]
        row += [bytes_text(sum(record.n_bytes for record in mine)), f"{len({r.task for r in mine})} of {len(tasks)}"]
        rows.append(row + [", ".join(str(r.n_examples) for r in mine if r.task == task) or "-" for task in shown])
    columns = ["model", "layers", "dtype", "size", "tasks", *shown]
    print_table(columns, rows, right=["layers", "size", "tasks", *shown])


def _distinct(values: Iterable[object]) -> str:
    return ", ".join(map(str, sorted({*values}, key=str)))


def _print_entries(records: Sequence[Record]) -> None:
    columns = ["model", "task", "rendering", "position", "n", "layers", "width", "dtype", "size", "id"]
    shown = [_summary(r) | {"size": bytes_text(r.n_bytes), "id": r.id[:12]} for r in records]
    print_table(columns, [[r[column] for column in columns] for r in shown], right=["n", "layers", "width", "size"])


def _summary(record: Record) -> dict[str, Any]:
    return {
        "model": record.model,
        "task": record.task,
        "rendering": record.rendering,
        "position": record.position,
        "n": record.n_examples,
        "layers": len(record.layers),
        "width": record.width,
        "dtype": record.dtype,
        "n_bytes": record.n_bytes,
        "id": record.id,
    }


@click.command()
@click.argument("store", type=click.Path())
@click.argument("what", metavar="MODEL[/TASK]")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(store: str, what: str, as_json: bool) -> None:
    """Show who a model is, or the identity, provenance and numerics of its entries on a task.

    \b
    Example:
      act info lab.act llama-2-7b
      act info lab.act llama-2-7b/rte
    """
    opened = open_store(store)
    model, _, task = what.partition("/")
    records = opened.records(model=model, task=task or None)
    if not records:
        raise NotFound(f"{opened.location}: model {model!r} has no entry on {task!r}{opened.withdrawn(model, task)}")
    if not task:
        found: object = dataclasses.asdict(opened.model(model)) | {
            "digest": opened.model(model).identity.digest,
            "labels": opened.labels(model),
            "entries": [_summary(record) for record in records],
        }
    else:
        labels = opened.task_labels(task)
        found = [_details(record, opened.open_entry(record), labels) for record in records]
    if as_json:
        print_json(found)
    else:
        print_tree(found)


def _details(record: Record, entry: Entry, task_labels: dict[str, Any]) -> dict[str, object]:
    return _summary(record) | {
        "key": entry.key,
        "layers": list(entry.layers),
        **({"rows, one a token": entry.n_rows} if entry.is_ragged else {}),
        **({"outputs": list(entry.outputs)} if entry.has_outputs else {}),
        "identity": entry.identity.as_json(),
        "task labels": task_labels,
        "provenance": dict(entry.provenance),
        "rows with non-finite values": int((entry.nonfinite > 0).any(axis=0).sum()),
        "non-finite values": _ledger(entry),
        "largest magnitude": float(entry.max_abs.max()),
    }


def _ledger(entry: Entry) -> list[dict[str, object]]:
    """For each layer that holds any: non-finite values, the rows that they are in, and the first of these by id."""
    ledger = []
    for layer, counts in zip(entry.layers, entry.nonfinite, strict=True):
        rows = np.flatnonzero(counts)
        if len(rows):
            first = entry.example_ids[entry.example_at(int(rows[0]))]
            ledger.append({"layer": layer, "values": int(counts.sum()), "rows": len(rows), "first example": first})
    return ledger


@click.command()
@click.argument("store", type=click.Path())
@click.option(
    "--by",
    type=click.Choice(["model", "task", "owner"]),
    default="model",
    show_default=True,
    help="What a row is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def du(store: str, by: Any, as_json: bool) -> None:
    """Show what takes the room of STORE, the largest first.

    An owner is the label owner of the model (act label), or else the owner of the files.

    \b
    Example:
      act du lab.act --by owner
    """
    uses = usage(open_store(store), by)
    if as_json:
        print_json([dataclasses.asdict(one) for one in uses])
        return
    total = sum(one.n_bytes for one in uses)
    rows = [(one.name, one.n_entries, bytes_text(one.n_bytes), f"{one.n_bytes / total:.0%}") for one in uses]
    rows.append(("all", sum(one.n_entries for one in uses), bytes_text(total), "100%" if uses else "-"))
    print_table([by, "entries", "size", "share"], rows, right=["entries", "size", "share"])
