"""act ingest."""

import dataclasses
from typing import Any

import click

from actlas.cli.checkpoints import checkpoint_options, checkpoints_from
from actlas.cli.display import print_json, print_table
from actlas.cli.progress import IngestDisplay
from actlas.cli.status import Repeatable, print_status
from actlas.ingest import RENDERINGS, Fields, Options, Report, ingest_status, load_tasks
from actlas.ingest import ingest as run_ingest
from actlas.store import CODEC, CODECS, Entry, writable_root


def _fields(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> Fields:
    names = dict(value.split("=", 1) for value in values if "=" in value)
    if len(names) != len(values) or not all(names.values()):
        raise click.BadParameter("expected NAME=FIELD, each name once, e.g. prompt=question")
    return Fields(names)


@click.command(cls=Repeatable)
@click.argument("store", type=click.Path())
@checkpoint_options
@click.option("--all-tasks", is_flag=True, help="Ingest a control on all tasks, not on its own alone.")
@click.option("--off-target", type=int, metavar="K", help="Ingest a control also on K drawn tasks of other clusters.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything that is drawn.")
@click.option("--tasks", "sources", multiple=True, required=True, help="Tasks: FILE, DIRECTORY or NAME=FILE; repeat.")
@click.option(
    "--field", "fields", multiple=True, callback=_fields, help="NAME=FIELD: which field is prompt, target, ..."
)
@click.option(
    "--render",
    "renderings",
    multiple=True,
    type=click.Choice(RENDERINGS),
    default=("raw",),
    show_default=True,
    help="How prompts become tokens: as they are, or as a chat turn.",
)
@click.option("--layers", help="Layers to keep, e.g. 0,8,16 or 0:33:2; all by default.")
@click.option(
    "--dtype", default="auto", show_default=True, help="bfloat16, float16, float32; auto is the checkpoint's."
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--codec",
    type=click.Choice(list(CODECS)),
    default=CODEC,
    show_default=True,
    help="How hidden states are compressed.",
)
@click.option("--allow-base-mismatch", is_flag=True, help="Take an adapter whose recorded base has another name.")
@click.option("--shard", metavar="I/N", help="Take the I-th of N shares of the entries; another process takes another.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
@click.option("--status", is_flag=True, help="Say which entries are done, running, interrupted or missing, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def ingest(
    store: str,
    sources: tuple[str, ...],
    fields: Fields,
    dry_run: bool,
    status: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a checkpoint, or adapters under it, over tasks and keep every layer's last prompt token in STORE.

    STORE is made when it does not exist. What is there already is not computed again. --models names many checkpoints in
    a CSV file with the columns name, base, revision, adapter, trained_on (tasks separated by ;), seed, step, family, owner
    and any others, which become labels; only base is required.

    Tasks are .jsonl or .parquet files with the fields inputs and targets (FLAN), instruction, input and output
    (Alpaca), prompt and target, or as --field says. The columns source_id (examples made from one source), template_id
    and label are kept, and any others.

    \b
    Example:
      act ingest lab.act --model ./llama-2-7b --tasks flan/rte.jsonl --tasks flan/sst2.jsonl
      act ingest lab.act --model ./llama-2-7b --adapter ./lora-rte --trained-on rte --tasks flan/
      act ingest lab.act --model ./llama-2-7b --adapters 'loras/*' --tasks flan/
      act ingest lab.act --model EleutherAI/pythia-70m --revisions step0,step512,step1000 --tasks flan/
      act ingest lab.act --models sweep.csv --off-target 2 --tasks flan/ --shard 1/8
      act ingest lab.act --models sweep.csv --off-target 2 --tasks flan/ --status
    """
    if status and dry_run:
        raise click.UsageError("--status and --dry-run exclude each other")
    writable_root(store)  # before anything is read
    checkpoints = checkpoints_from(options)
    if status:
        found = ingest_status(store, checkpoints, load_tasks(sources, fields), Options(**options))
        print_status(found, as_json)
        return
    display = IngestDisplay()
    with display.live():
        report = run_ingest(
            store,
            checkpoints,
            load_tasks(sources, fields),
            Options(**options),
            dry_run=dry_run,
            progress=display,
        )
    _print(report, as_json)


def _print(report: Report, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "forecast": dataclasses.asdict(report.forecast),
                "written": [_record(entry) for entry in report.written],
                "present": [_record(entry) for entry in report.present],
            }
        )
    elif report.written:
        rows = [(e.model, e.task, e.rendering, e.n_examples, len(e.layers), e.dtype, e.id[:12]) for e in report.written]
        print_table(["model", "task", "rendering", "n", "layers", "dtype", "id"], rows, right=["n", "layers"])


def _record(entry: Entry) -> dict[str, object]:
    return {**entry.manifest.names, "id": entry.id, "path": entry.location}
