"""Tables and numbers for people."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

_PIPED_WIDTH = 240  # wide enough that no cell is cut when nobody looks


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()) -> None:
    """Print a table on stdout; columns named in `right` are aligned right."""
    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    table, aligned = Table(box=box.SIMPLE_HEAD, pad_edge=False), set(right)
    for column in columns:
        table.add_column(column, justify="right" if column in aligned else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    Console(file=sys.stdout, width=width, highlight=False).print(table)


def print_json(value: Any) -> None:
    """Print a JSON document on stdout."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def bytes_text(n_bytes: float) -> str:
    """Return a number of bytes as people write it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024 or unit == "GiB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    raise AssertionError


def seconds_text(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def print_tree(value: object, indent: int = 0) -> None:
    """Print a JSON value on stdout as an indented tree for people."""
    pad = "  " * indent
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, (dict, list)) and item and not _is_flat(item):
                click.echo(f"{pad}{name}:")
                print_tree(item, indent + 1)
            else:
                click.echo(f"{pad}{name}: {_flat(item)}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            if number and isinstance(item, dict):
                click.echo()
            print_tree(item, indent)
    else:
        click.echo(f"{pad}{value}")


def _is_flat(value: object) -> bool:
    return isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value)


def _flat(value: object) -> str:
    if isinstance(value, (list, dict)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
