"""act ingest."""

import dataclasses
from typing import Any

import click

from actlas.cli.checkpoints import checkpoint_options, checkpoints_from
from actlas.cli.display import print_json, print_table
from actlas.cli.progress import IngestDisplay
from actlas.cli.status import Repeatable, print_status
from actlas.ingest import (
    POSITIONS,
    RENDERINGS,
    Fields,
    Options,
    Report,
    ingest_status,
    load_clusters,
    load_rendering,
    load_tasks,
    sample_task,
)
from actlas.ingest import ingest as run_ingest
from actlas.store import CODEC, CODECS, Entry, writable_root


def _fields(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> Fields:
    names = dict(value.split("=", 1) for value in values if "=" in value)
    if len(names) != len(values) or not all(names.values()):
        raise click.BadParameter("expected NAME=FIELD, each name once, e.g. prompt=question")
    return Fields(names)


def _clusters(_context: click.Context, _parameter: click.Parameter, path: str | None) -> dict[str, str]:
    return {} if path is None else load_clusters(path)


def _renderings(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value not in RENDERINGS and not value.endswith(".jinja"):
            raise click.BadParameter(f"expected {', '.join(RENDERINGS)} or the path of a .jinja file, got {value!r}")
    return values


def _devices(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(name.strip() for name in value.split(","))


@click.command(cls=Repeatable)
@click.argument("store", type=click.Path())
@checkpoint_options
@click.option("--all-tasks", is_flag=True, help="Ingest a control on all tasks, not on its own alone.")
@click.option("--off-target", type=int, metavar="K", help="Ingest a control also on K drawn tasks of other clusters.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything that is drawn.")
@click.option("--tasks", "sources", multiple=True, required=True, help="Tasks: FILE, DIRECTORY or NAME=FILE; repeat.")
@click.option("--split", help="Which split to take of directories that hold several, e.g. train.")
@click.option(
    "--field", "fields", multiple=True, callback=_fields, help="NAME=FIELD: which field is prompt, target, ..."
)
@click.option("--max-examples", type=click.IntRange(min=1), help="Take this many examples of tasks that have more.")
@click.option(
    "--clusters", callback=_clusters, help="File of two columns, task and cluster; FLAN's own are known without it."
)
@click.option(
    "--render",
    "renderings",
    multiple=True,
    callback=_renderings,
    default=("raw",),
    show_default=True,
    help="How examples become tokens: raw (the prompt), chat (a turn of the user's), or FILE.jinja; repeat.",
)
@click.option("--system", help="Text of a system turn before the user's; for --render chat.")
@click.option(
    "--position",
    "positions",
    multiple=True,
    type=click.Choice(POSITIONS),
    default=("last",),
    show_default=True,
    help="What to keep of each prompt: its last or first token, the mean of its tokens (content-mean: of those that are not "
    "the template's), the last of the target's tokens or their mean (target-last, target-mean), or all tokens; repeat for "
    "several in one pass.",
)
@click.option("--with-target", is_flag=True, help="Let the target follow the prompt; renderings then end in -target.")
@click.option(
    "--outputs",
    is_flag=True,
    help="Keep the largest logits, entropy and likelihood of the target beside the position last; other entries.",
)
@click.option("--layers", help="Layers to keep, e.g. 0,8,16 or 0:33:2; all by default.")
@click.option(
    "--dtype", default="auto", show_default=True, help="bfloat16, float16, float32; auto is the checkpoint's."
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--devices",
    metavar="D1,D2,...",
    callback=_devices,
    help="Several devices of this machine, e.g. cuda:0,cuda:1; each takes a share of the entries, in a process of its own.",
)
@click.option(
    "--codec",
    type=click.Choice(list(CODECS)),
    default=CODEC,
    show_default=True,
    help="How hidden states are compressed.",
)
@click.option("--batch-tokens", type=int, help="Padded tokens in a batch, in place of the store's own; other entries.")
@click.option("--allow-base-mismatch", is_flag=True, help="Take an adapter whose recorded base has another name.")
@click.option("--shard", metavar="I/N", help="Take the I-th of N shares of the entries; another process takes another.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
@click.option("--status", is_flag=True, help="Say which entries are done, running, interrupted or missing, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def ingest(
    store: str,
    sources: tuple[str, ...],
    split: str | None,
    fields: Fields,
    max_examples: int | None,
    seed: int,
    renderings: tuple[str, ...],
    system: str | None,
    with_target: bool,
    dry_run: bool,
    status: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a checkpoint, or adapters under it, over tasks and keep every layer's hidden states in STORE.

    STORE is made when it does not exist. What is there already is not computed again. --models names many checkpoints in
    a CSV file with the columns name, base, revision, adapter, trained_on (tasks separated by ;), seed, step, family, owner
    and any others, which become labels; only base is required.

    Tasks are .jsonl, .parquet or .csv files, directories of such, FLAN's layout (SPLIT/TASK_10templates_SPLIT.jsonl) or
    datasets that save_to_disk wrote, with the fields inputs and targets (FLAN), instruction, input and output (Alpaca),
    prompt and target, or as --field says. The columns source_id (examples made from one source), template_id and label
    are kept, and any others.

    \b
    Example:
      act ingest lab.act --model ./llama-2-7b --tasks flan/rte.jsonl --tasks flan/sst2.jsonl
      act ingest lab.act --model ./llama-2-7b --adapter ./lora-rte --trained-on rte --tasks flan/
      act ingest lab.act --model ./llama-2-7b --adapters 'loras/*' --tasks flan/
      act ingest lab.act --model EleutherAI/pythia-70m --revisions step0,step512,step1000 --tasks flan/
      act ingest lab.act --models sweep.csv --tasks flan/ --devices cuda:0,cuda:1,cuda:2,cuda:3
      act ingest lab.act --models sweep.csv --off-target 2 --tasks flan/ --shard 1/8
      act ingest lab.act --models sweep.csv --off-target 2 --tasks flan/ --status
    """
    if status and dry_run:
        raise click.UsageError("--status and --dry-run exclude each other")
    if options["devices"] is not None and options["device"] != "auto":
        raise click.UsageError("--device and --devices exclude each other")
    writable_root(store)  # before anything is read
    chosen = tuple(load_rendering(rendering, system, with_target=with_target) for rendering in renderings)
    checkpoints = checkpoints_from(options)
    settings = Options(renderings=chosen, seed=seed, **options)
    tasks = load_tasks(sources, fields, split=split)
    if max_examples is not None:
        tasks = [sample_task(task, max_examples, seed) for task in tasks]
    if status:
        print_status(ingest_status(store, checkpoints, tasks, settings), as_json)
        return
    display = IngestDisplay()
    with display.live():
        report = run_ingest(store, checkpoints, tasks, settings, dry_run=dry_run, progress=display)
    display.summary()
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
        rows = [
            (e.model, e.task, e.rendering, e.position, e.n_examples, len(e.layers), e.dtype, e.id[:12])
            for e in report.written
        ]
        print_table(
            ["model", "task", "rendering", "position", "n", "layers", "dtype", "id"], rows, right=["n", "layers"]
        )


def _record(entry: Entry) -> dict[str, object]:
    return {**entry.manifest.names, "id": entry.id, "path": entry.location}
