"""act copy."""

from collections.abc import Iterable

import click

from actlas.cli.display import bytes_text, print_json
from actlas.store import Copied, copy_entries, open_store


@click.command()
@click.argument("source", type=click.Path())
@click.argument("destination", type=click.Path())
@click.option("--model", "models", multiple=True, help="Model or glob pattern; repeat; all by default.")
@click.option("--task", "tasks", multiple=True, help="Task or glob pattern; repeat; all by default.")
@click.option("--layers", help="Layers to copy, e.g. 0,8,16 or 0:33:2; all by default.")
@click.option("--allow-restricted", is_flag=True, help="Copy restricted tasks too; their terms must allow it.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def copy(
    source: str,
    destination: str,
    models: tuple[str, ...],
    tasks: tuple[str, ...],
    layers: str | None,
    allow_restricted: bool,
    as_json: bool,
) -> None:
    """Copy a part of the store SOURCE to DESTINATION, every file verified; the same command goes on after a failure.

    SOURCE is a directory, or an http(s):// or s3:// URL; DESTINATION a directory or an s3:// URL, and made when it does
    not exist. What is there already is not copied again.

    \b
    Example:
      act copy https://example.org/lab.act mine.act --model llama-2-7b --task 'anli_*' --layers 0,8,16
      act copy lab.act s3://bucket/lab.act
    """
    copied = copy_entries(
        open_store(source), destination, models=models, tasks=tasks, layers=layers, allow_restricted=allow_restricted
    )
    print_copied(copied, whole=layers is None, as_json=as_json)


def print_copied(copied: Iterable[Copied], *, whole: bool = True, as_json: bool) -> None:
    """Copy, say of each entry what became of it, and sum up; with their size where entries are copied whole."""
    done: list[Copied] = []
    for one in copied:
        done.append(one)
        click.echo(f"{one.outcome} {one.record.label}", err=True)
    if as_json:
        print_json([{"path": one.record.path, "id": one.id, "outcome": one.outcome} for one in done])
        return
    new = [one for one in done if one.outcome == "copied"]
    n_bytes = sum(one.record.n_bytes for one in new) if whole else None
    size = "" if n_bytes is None else f", {bytes_text(n_bytes)}"
    click.echo(f"{len(new)} entries copied{size}; {len(done) - len(new)} were there already")
