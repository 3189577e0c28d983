"""act tasks: the tasks of a store."""

import dataclasses

import click

from actlas.cli.display import print_json, print_table
from actlas.store import open_store, summarise_tasks


@click.command()
@click.argument("store", type=click.Path())
@click.option("--task", "patterns", multiple=True, help="Only tasks that fit this glob pattern; repeat.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def tasks(store: str, patterns: tuple[str, ...], as_json: bool) -> None:
    """List the tasks of STORE: their clusters, examples, models, renderings and positions, and what is restricted.

    STORE is a directory, or an http(s):// or s3:// URL. Damaged entries are named, and the exit code is then 1. A task is
    put into a cluster by act ingest, or by act label STORE --task TASK cluster=NAME.

    \b
    Example:
      act tasks lab.act
      act tasks https://example.org/lab.act --task 'anli_*'
    """
    opened = open_store(store)
    listing = opened.select(tasks=patterns)
    found = summarise_tasks(opened, listing.records)
    if as_json:
        print_json([dataclasses.asdict(one) for one in found])
    else:
        columns = ["task", "cluster", "n", "models", "renderings", "positions", "restricted"]
        rows = [
            (
                one.task,
                one.cluster or "-",
                ", ".join(map(str, one.n_examples)),
                one.n_models,
                ", ".join(one.renderings),
                ", ".join(one.positions),
                "yes" if one.restricted else "-",
            )
            for one in found
        ]
        print_table(columns, rows, right=["n", "models"])
    for problem in listing.problems.values():
        click.echo(f"damaged: {problem}", err=True)
    if listing.problems:
        raise click.exceptions.Exit(1)
