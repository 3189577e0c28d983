"""act ls, act info, act verify: what a store holds and whether it is whole."""

import dataclasses
import sys
from typing import Any

import click
from rich.console import Console
from rich.progress import track

from actlas.cli.display import bytes_text, print_json, print_table
from actlas.store import Entry, open_store
from actlas.store import verify as verify_store


@click.command()
@click.argument("store", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def ls(store: str, as_json: bool) -> None:
    """List the entries of STORE: models, tasks, examples, layers, dtype and size.

    \b
    Example:
      act ls lab.act
    """
    records = [_summary(entry) for entry in open_store(store).entries()]
    if as_json:
        print_json(records)
        return
    columns = ["model", "task", "rendering", "position", "n", "layers", "width", "dtype", "size", "id"]
    shown = [r | {"size": bytes_text(r["n_bytes"]), "id": r["id"][:12]} for r in records]
    print_table(columns, [[r[column] for column in columns] for r in shown], right=["n", "layers", "width", "size"])


def _summary(entry: Entry) -> dict[str, Any]:
    return {
        **entry.manifest.names,
        "n": entry.n_examples,
        "layers": len(entry.layers),
        "width": entry.width,
        "dtype": entry.identity.dtype,
        "n_bytes": entry.manifest.n_bytes,
        "id": entry.id,
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
    entries = opened.entries(model=model, task=task or None)
    if not task:
        record: object = dataclasses.asdict(opened.model(model)) | {
            "digest": opened.model(model).identity.digest,
            "labels": opened.labels(model),
            "entries": [_summary(entry) for entry in entries],
        }
    else:
        record = [_details(entry) for entry in entries]
    if as_json:
        print_json(record)
    else:
        _print_tree(record)


def _details(entry: Entry) -> dict[str, object]:
    bad_rows = (entry.nonfinite > 0).any(axis=0)
    return _summary(entry) | {
        "key": entry.key,
        "layers": list(entry.layers),
        "identity": entry.identity.as_json(),
        "provenance": dict(entry.provenance),
        "rows with non-finite values": int(bad_rows.sum()),
        "largest magnitude": float(entry.max_abs.max()),
    }


def _print_tree(value: object, indent: int = 0) -> None:
    pad = "  " * indent
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, (dict, list)) and item and not _is_flat(item):
                click.echo(f"{pad}{name}:")
                _print_tree(item, indent + 1)
            else:
                click.echo(f"{pad}{name}: {_flat(item)}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            if number and isinstance(item, dict):
                click.echo()
            _print_tree(item, indent)
    else:
        click.echo(f"{pad}{value}")


def _is_flat(value: object) -> bool:
    return isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value)


def _flat(value: object) -> str:
    if isinstance(value, (list, dict)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


@click.command()
@click.argument("store", type=click.Path())
@click.option("--model", help="Only this model's entries.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def verify(store: str, model: str | None, as_json: bool) -> None:
    """Re-read every byte of STORE and say which files are not those that were written; exit 1 if there are any.

    \b
    Example:
      act verify lab.act
    """
    opened = open_store(store)
    if model is not None:
        opened.model(model)
    found = verify_store(opened, model=model)
    if sys.stderr.isatty() and not as_json:
        console, n_entries = Console(stderr=True), len(opened.entries(model=model))
        found = iter(track(found, description="verify", total=n_entries, transient=True, console=console))
    results = list(found)
    problems = [problem for result in results for problem in result.problems]
    if as_json:
        print_json([dataclasses.asdict(result) for result in results])
    for problem in problems if not as_json else []:
        click.echo(problem)
    if not as_json:
        n_bytes = sum(result.n_bytes for result in results)
        damaged = sum(bool(result.problems) for result in results)
        click.echo(f"{len(results)} entries, {bytes_text(n_bytes)}: {damaged or 'none'} damaged")
    if problems:
        raise click.exceptions.Exit(1)
