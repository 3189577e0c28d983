"""What act ingest --status prints, and the command line that goes on."""

import dataclasses
import shlex
from collections.abc import Sequence

import click

from actlas.cli.display import print_json, print_table
from actlas.ingest import EntryStatus

_STATES = ("done", "running", "interrupted", "missing")
_ARGUMENTS = "actlas.arguments"


class Repeatable(click.Command):
    """A command that remembers its command line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments, and keep them as they were typed."""
        ctx.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)


def command_line(without: Sequence[str]) -> str:
    """Return the command line of the command that runs, as a shell takes it, but for some flags."""
    context = click.get_current_context()
    kept = [argument for argument in context.meta[_ARGUMENTS] if argument not in without]
    return shlex.join(["act", str(context.info_name), *kept])


def print_status(entries: Sequence[EntryStatus], as_json: bool) -> None:
    """Print the state of every entry, how many there are of each, and how to go on where some are not done."""
    counts = {state: sum(entry.state == state for entry in entries) for state in _STATES}
    retry = command_line(without=("--status", "--json")) if counts["done"] < len(entries) else None
    if as_json:
        print_json({"counts": counts, "entries": [dataclasses.asdict(entry) for entry in entries], "retry": retry})
        return
    rows = [(e.model, e.task, e.rendering, e.position, e.state, f"{e.n_written} of {e.n_examples}") for e in entries]
    print_table(["model", "task", "rendering", "position", "state", "examples"], rows, right=["examples"])
    click.echo(f"{len(entries)} entries: " + ", ".join(f"{number} {state}" for state, number in counts.items()))
    if retry:
        click.echo(f"go on with: {retry}")
