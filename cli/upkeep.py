"""act verify, doctor, label, limit, rm, gc: keeping a store sound, described and small."""

import dataclasses
import json
import sys
from typing import Any

import click
from rich.console import Console
from rich.progress import track

from actlas.cli.display import bytes_text, print_json, print_table, seconds_text
from actlas.cli.quantities import bytes_of, seconds_of
from actlas.store import (
    SAMPLE,
    InvalidInput,
    collect,
    entry_paths,
    examine,
    find_withdrawable,
    open_store,
    open_writer,
    read_limit,
    withdraw,
    write_limit,
)
from actlas.store import verify as verify_store


@click.command()
@click.argument("store", type=click.Path())
@click.option("--model", help="Only this model's entries.")
@click.option("--task", help="Only the entries on this task.")
@click.option(
    "--sample", is_flag=True, help=f"Read {SAMPLE:.0%} of each entry's hidden states, drawn by file, and sizes of all."
)
@click.option("--seed", default=0, show_default=True, help="Of the draw.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def verify(store: str, model: str | None, task: str | None, sample: bool, seed: int, as_json: bool) -> None:
    """Re-read every byte of STORE and say which files are not those that were written; exit 1 if there are any.

    STORE is a directory, or an http(s):// or s3:// URL.

    \b
    Example:
      act verify lab.act
      act verify https://example.org/lab.act --model llama-2-7b --sample
    """
    opened = open_store(store)
    found = verify_store(opened, model=model, task=task, share=SAMPLE if sample else 1.0, seed=seed)
    if sys.stderr.isatty() and not as_json:
        console, n_entries = Console(stderr=True), len(entry_paths(opened, model, task))
        found = iter(track(found, description="verify", total=n_entries, transient=True, console=console))
    results = list(found)
    problems = [problem for result in results for problem in result.problems]
    if as_json:
        print_json([dataclasses.asdict(result) for result in results])
    else:
        for problem in problems:
            click.echo(problem)
        n_bytes = sum(result.n_bytes for result in results)
        n_entries = sum(bool(result.path) for result in results)
        damaged = sum(bool(result.problems) for result in results)
        click.echo(f"{n_entries} entries, {bytes_text(n_bytes)} read: {damaged or 'none'} damaged")
    if problems:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("store", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def doctor(store: str, as_json: bool) -> None:
    """Say what is wrong with STORE, or will be, and what to type; exit 1 if anything is wrong.

    Hidden states are not read; act verify does that.

    \b
    Example:
      act doctor lab.act
    """
    findings = examine(open_store(store))
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{finding.severity}: {finding.where}: {finding.what}\n  -> {finding.remedy}")
        if not findings:
            click.echo("nothing found; act verify reads every byte")
    if any(finding.severity == "error" for finding in findings):
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("store", type=click.Path())
@click.argument("model", required=False)
@click.argument("labels", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--task", help="Label this task instead of a model.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def label(store: str, model: str | None, labels: tuple[str, ...], task: str | None, as_json: bool) -> None:
    """Show or change what is said of MODEL, or of a task; labels stand outside every identity.

    NAME=VALUE sets a label, NAME= takes it away. A value is taken as JSON where it is JSON, else as text. Of a model,
    trained_on (a list of tasks), seed, step, family and owner have a meaning; of a task, restricted (true: not copied or
    exported without --allow-restricted), licence and source.

    \b
    Example:
      act label lab.act llama-2-7b family=llama owner=ada
      act label lab.act control-rte 'trained_on=["rte"]' seed=1
      act label lab.act --task rte restricted=true licence=LDC
    """
    if task is not None and model is not None:
        labels, model = (model, *labels), None
    if task is None and (model is None or "=" in model):
        raise click.UsageError("name a MODEL, or a task with --task")
    changes = _labels(labels, is_model=task is None)
    if not changes:
        opened = open_store(store)
        known = opened.labels(str(model)) if task is None else opened.task_labels(task)
    else:
        writer = open_writer(store)
        known = writer.label(str(model), changes) if task is None else writer.label_task(task, changes)
    if as_json:
        print_json(known)
    else:
        for name, value in sorted(known.items()):
            click.echo(f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")


def _labels(texts: tuple[str, ...], *, is_model: bool) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise InvalidInput(f"label {text!r}: expected NAME=VALUE, e.g. family=llama")
        try:
            changes[name] = json.loads(value) if value else None
        except ValueError:
            changes[name] = value
    trained_on = changes.get("trained_on")
    if trained_on is not None and not (
        isinstance(trained_on, list) and all(isinstance(one, str) for one in trained_on)
    ):
        raise InvalidInput(f"label trained_on: expected a list of tasks such as '[\"rte\"]', got {trained_on!r}")
    if "restricted" in changes and is_model:
        raise InvalidInput("restricted is a label of tasks: act label STORE --task TASK restricted=true")
    if "restricted" in changes and changes["restricted"] not in (True, False, None):
        raise InvalidInput(f"label restricted: expected true or false, got {changes['restricted']!r}")
    return changes


@click.command()
@click.argument("store", type=click.Path())
@click.argument("size", required=False)
def limit(store: str, size: str | None) -> None:
    """Show or set the most bytes that the entries of STORE may hold together; SIZE none takes the limit away.

    \b
    Example:
      act limit lab.act 2TiB
      act limit lab.act none
    """
    if size is not None:
        writer = open_writer(store)
        write_limit(writer.disk, writer.root, None if size == "none" else bytes_of(size, "SIZE"))
    max_bytes = read_limit(open_store(store).storage)
    click.echo("none" if max_bytes is None else f"{max_bytes} bytes ({bytes_text(max_bytes)})")


@click.command()
@click.argument("store", type=click.Path())
@click.argument("what", metavar="MODEL[/TASK]|PATH")
@click.option("--key", default="", help="Only the entries whose key begins so.")
@click.option("--why", default="", help="The reason; readers will see it.")
@click.option("--dry-run", is_flag=True, help="Say what would be withdrawn, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def rm(store: str, what: str, key: str, why: str, dry_run: bool, as_json: bool) -> None:
    """Withdraw entries from STORE: they go to its trash, readers are told when and why, act gc deletes them.

    To take one back before that, move its directory out of STORE/.trash to its path in STORE, which act ls tells, and say
    act gc.

    \b
    Example:
      act rm lab.act llama-2-7b/rte --why 'wrong template'
    """
    writer = open_writer(store)
    paths = find_withdrawable(writer, what, key=key)
    withdrawn = [] if dry_run else [withdraw(writer, path, why=why) for path in paths]
    if as_json:
        print_json(paths if dry_run else [dataclasses.asdict(tombstone) for tombstone in withdrawn])
    else:
        for path in paths:
            click.echo(path)


@click.command()
@click.argument("store", type=click.Path())
@click.option("--older-than", default="7d", show_default=True, help="Leave alone what changed within this time.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def gc(store: str, older_than: str, dry_run: bool, as_json: bool) -> None:
    """Delete what dead writers left in STORE and what lies in its trash; make the catalogue anew. Never an entry.

    What a living process works on is left alone, however old it is.

    \b
    Example:
      act gc lab.act --dry-run
      act gc lab.act --older-than 30d
    """
    removed = collect(open_writer(store), older_than=seconds_of(older_than, "--older-than"), dry_run=dry_run)
    if as_json:
        print_json([dataclasses.asdict(leftover) | {"path": str(leftover.path)} for leftover in removed])
        return
    if not removed:
        click.echo("nothing to delete; act doctor lists what is younger", err=True)
        return
    rows = [(one.path, one.what, bytes_text(one.n_bytes), seconds_text(one.age)) for one in removed]
    print_table(["path", "what", "size", "age"], rows, right=["size", "age"])
    total = bytes_text(sum(one.n_bytes for one in removed))
    click.echo(f"{'would free' if dry_run else 'freed'} {total}", err=True)
