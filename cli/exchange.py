"""act import, act export: hidden states from and for other programs."""

from collections.abc import Mapping
from pathlib import Path

import click
from click.core import ParameterSource

from actlas.cli.copying import print_copied
from actlas.cli.display import print_json
from actlas.cli.extras import needing_extras
from actlas.store import (
    FORMS,
    Entry,
    NotFound,
    Store,
    Task,
    copy_records,
    export_entry,
    import_entries,
    open_store,
    writable_root,
)
from actlas.store.dtype import LOGICAL
from actlas.store.exporting import export_path
from actlas.store.layers import parse_layers
from actlas.store.pattern import PATTERN
from actlas.store.restricted import check_not_restricted

_OF_FILES = ("form", "layers", "rendering", "position", "key")  # options of export that speak of files, not of a store


def _fields(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    names = dict(value.split("=", 1) for value in values if "=" in value)
    if len(names) != len(values) or not all(names.values()):
        raise click.BadParameter("expected NAME=FIELD, each name once, e.g. prompt=question")
    return names


@click.command(name="import")
@click.argument("store", type=click.Path())
@click.argument("source", type=click.Path())
@click.option("--model", required=True, help="Name of the model in the store.")
@click.option(
    "--pattern", default=PATTERN, show_default=True, help="Where the array of a task and layer stands in SOURCE."
)
@click.option("--task", help="Name of the task, where the pattern has none; or the only task to import.")
@click.option("--tasks", "sources", multiple=True, help="Examples in row order: FILE, DIRECTORY or NAME=FILE; repeat.")
@click.option(
    "--field", "fields", multiple=True, callback=_fields, help="NAME=FIELD: which field is prompt, target, ..."
)
@click.option("--row-ids", is_flag=True, help="Make example ids from row numbers; the task is labelled so.")
@click.option("--rendering", default="raw", show_default=True, help="How the prompts became tokens, by name.")
@click.option("--position", default="last", show_default=True, help="Which token, or which mean of them, by name.")
@click.option("--dtype", type=click.Choice(list(LOGICAL)), help="What to round to, or what nameless .npy bytes are.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def import_(
    store: str,
    source: str,
    model: str,
    pattern: str,
    task: str | None,
    sources: tuple[str, ...],
    fields: Mapping[str, str],
    row_ids: bool,
    rendering: str,
    position: str,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Keep the hidden states in the .npy, .npz or .safetensors files of the directory SOURCE as entries of STORE.

    STORE is made when it does not exist. There is one array (examples, features) for each task and layer. The pattern
    says where: for .npz and .safetensors the array's name stands behind a colon, as in
    '{task}.safetensors:layers.{layer}' or 'layer{layer}/{task}.npz:states'. bfloat16, float16 and float32 are kept as they
    are; nothing is rounded unless --dtype says to what.

    What the rows are must be said: with --tasks, whose files are those of act ingest, or with --row-ids.

    \b
    Example:
      act import lab.act ./hidden --model llama-2-7b --tasks flan/
      act import lab.act ./states --model mine --task rte --pattern 'layer{layer}.npy' --row-ids
    """
    writable_root(store)  # before anything is read
    tasks = _load_tasks(sources, fields) if sources else None
    if row_ids:
        click.echo("example ids are made from row numbers: row 0 of a task is the same example everywhere", err=True)
    imported = import_entries(
        store,
        source,
        model=model,
        pattern=pattern,
        task=task,
        tasks=tasks,
        row_ids=row_ids,
        rendering=rendering,
        position=position,
        dtype=dtype,
        progress=_say_progress,
    )
    for one in imported:
        click.echo(f"{one.outcome} {one.entry.label}", err=True)
    if as_json:
        print_json([{**_record(one.entry), "outcome": one.outcome, "path": one.entry.location} for one in imported])
        return
    n_new = sum(one.outcome == "imported" for one in imported)
    click.echo(f"{n_new} entries imported; {len(imported) - n_new} were there already")


def _say_progress(task: str, n_done: int, n_examples: int) -> None:
    if n_done < n_examples:
        click.echo(f"{task}: {n_done} of {n_examples} examples", err=True)


def _load_tasks(sources: tuple[str, ...], fields: Mapping[str, str]) -> list[Task]:
    with needing_extras("act import --tasks"):
        from actlas.ingest import Fields, load_tasks  # the package loads torch
    return load_tasks(sources, Fields(fields))


def _record(entry: Entry) -> dict[str, object]:
    return {**entry.manifest.names, "id": entry.id}


@click.command()
@click.argument("store", type=click.Path())
@click.argument("what", nargs=-1, metavar="[MODEL[/TASK]]")
@click.argument("directory", type=click.Path())
@click.option(
    "--for",
    "lock",
    type=click.Path(path_type=Path),
    metavar="LOCK",
    help="Export the store, and nothing more, that act replay LOCK needs.",
)
@click.option(
    "--format", "form", type=click.Choice(list(FORMS)), default="npy", show_default=True, help="What to write."
)
@click.option("--layers", help="Layers to export, e.g. 0,8,16 or 0:33:2; all by default.")
@click.option("--rendering", default="raw", show_default=True, help="Rendering of the entries.")
@click.option("--position", default="last", show_default=True, help="Position of the entries.")
@click.option("--key", default="", help="First digits of the key, where several entries fit.")
@click.option("--allow-restricted", is_flag=True, help="Export restricted tasks too; their terms must allow it.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def export(
    context: click.Context,
    store: str,
    what: tuple[str, ...],
    directory: str,
    lock: Path | None,
    form: str,
    layers: str | None,
    rendering: str,
    position: str,
    key: str,
    allow_restricted: bool,
    as_json: bool,
) -> None:
    """Write entries of STORE below DIRECTORY, as MODEL/TASK in a form that needs no actlas to be read.

    npy is one .npy file a layer, named as in the paper, and a table of the examples; safetensors is one file a task, with
    bfloat16 as it is (the others hold it as float32); zarr is a plain group for xarray. STORE may be a URL. A task that is
    labelled restricted is exported with --allow-restricted only.

    --for LOCK makes of DIRECTORY a store that holds the entries of a result, whole, as FILE.lock.json of act compare --out
    FILE names them.

    \b
    Example:
      act export lab.act llama-2-7b/rte ./hidden
      act export lab.act llama-2-7b ./tensors --format safetensors --layers 0,16,32
      act export lab.act --for cka.parquet.lock.json published.act
    """
    if lock is not None:
        _check_alone(context, what)
        _export_for(store, lock, directory, allow_restricted=allow_restricted, as_json=as_json)
        return
    if len(what) != 1:
        raise click.UsageError("expected STORE MODEL[/TASK] DIRECTORY, or STORE --for LOCK DIRECTORY")
    opened = open_store(store)
    entries = _entries(opened, what[0], rendering, position, key)
    for entry in entries:  # all are checked before one is written
        check_not_restricted(opened, entry.task, allow=allow_restricted)
        export_path(opened, entry, directory, form)
    chosen = [parse_layers(layers, max(entry.layers), known=entry.layers) for entry in entries]
    written = []
    for entry, wanted in zip(entries, chosen, strict=True):
        path = export_entry(opened, entry, directory, form=form, layers=wanted, allow_restricted=allow_restricted)
        click.echo(f"exported {entry.label}", err=True)
        written.append({**_record(entry), "path": str(path)})
    if as_json:
        print_json(written)
        return
    for record in written:
        click.echo(record["path"])


def _check_alone(context: click.Context, what: tuple[str, ...]) -> None:
    """Refuse what has no meaning beside a lock, which names whole entries."""
    options = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in _OF_FILES and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if given := [*what, *options]:
        raise click.UsageError(f"--for exports the entries that the lock names, whole; leave out {', '.join(given)}")


def _export_for(store: str, lock: Path, directory: str, *, allow_restricted: bool, as_json: bool) -> None:
    from actlas.analyze import locked_records, read_lock  # pandas takes a while to load

    opened = open_store(store)
    records = locked_records(opened, read_lock(lock))
    print_copied(copy_records(opened, directory, records, allow_restricted=allow_restricted), as_json=as_json)


def _entries(store: Store, what: str, rendering: str, position: str, key: str) -> list[Entry]:
    model, _, task = what.partition("/")
    records = store.records(model=model, task=task or None)
    named = {task} if task else {r.task for r in records if (r.rendering, r.position) == (rendering, position)}
    if not named:
        there = "\n  ".join(record.label for record in records)
        raise NotFound(
            f"{store.location}: model {model!r} has no entry with rendering {rendering!r} and position {position!r}; "
            f"there is:\n  {there}"
        )
    return [
        store.entry(model=model, task=name, rendering=rendering, position=position, key=key) for name in sorted(named)
    ]
