"""act demo: train, ingest, compare, draw."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pandas as pd
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from actlas.analyze import check_output, compare_table, curves, plot_curves, write_table
from actlas.cli.demo.corpus import TASKS, base_lines, examples, task_words, write_tasks
from actlas.cli.demo.training import (
    ADAPTER_STEPS,
    BASE_STEPS,
    MULTITASK_STEPS,
    Step,
    train_adapter,
    train_base,
)
from actlas.cli.display import print_table
from actlas.cli.progress import IngestDisplay
from actlas.ingest import Checkpoint, load_tasks
from actlas.ingest import ingest as run_ingest
from actlas.ingest.checkpoint import quiet_transformers
from actlas.store import InvalidInput, open_store

N_TRAINING_SOURCES = 1000


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, help="Of the generated text and the training.")
def demo(directory: Path, seed: int) -> None:
    """Do the main job in miniature, in DIRECTORY, in under four minutes on two cores.

    Trains a small Llama on text, a LoRA adapter on four tasks at once and one on each task alone (the controls); ingests
    all six checkpoints into DIRECTORY/lab.act; compares base and multi-task model with the controls; prints CKA by layer
    and draws DIRECTORY/cka.png. A second run reuses what is there.

    \b
    Example:
      act demo demo
    """
    _claim(directory, seed)
    write_tasks(directory / "tasks", seed)
    with quiet_transformers():
        checkpoints = _train_all(directory / "checkpoints", seed)
    _ingest(directory, checkpoints)
    table = _compare(directory)
    write_table(table, directory / "comparison.parquet")
    label = table["model_a"] + " and the controls"
    title = f"How close are base and multi-task model to single-task controls? ({len(TASKS)} tasks)"
    plot_curves(table, directory / "cka.png", label=label, title=title)
    _print(table, label, directory)


def _claim(directory: Path, seed: int) -> None:
    settings, path = {"seed": seed}, directory / "demo.json"
    if directory.exists() and not path.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InvalidInput(f"{directory}: expected a new directory or an earlier demo; choose another path")
    if path.exists() and (found := json.loads(path.read_text())) != settings:
        raise InvalidInput(f"{directory}: holds a demo with {found}, asked for {settings}; choose another directory")
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"{directory}: cannot be made ({error.strerror}); choose another path") from error
    check_output(directory / "cka.png", (".png",))
    path.write_text(json.dumps(settings))


def _train_all(directory: Path, seed: int) -> list[Checkpoint]:
    """Train what is not there, and return all checkpoints."""
    base = directory / "base"
    training = {task: list(examples(task, seed + 1, N_TRAINING_SOURCES)) for task in TASKS}
    everything = [example for rows in training.values() for example in rows]
    columns = (TextColumn("{task.description:<28}"), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def train(name: str, n_steps: int, work: Callable[[Path, Step], None]) -> None:
            if (directory / name).exists():
                return
            partial = directory / f".{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            bar = bars.add_task(f"train {name}", total=n_steps)
            work(partial, lambda: bars.advance(bar))
            partial.rename(directory / name)

        def adapter(rows: Sequence[dict[str, str]], n_steps: int) -> Callable[[Path, Step], None]:
            return lambda path, step: train_adapter(path, base, rows, n_steps, seed, step)

        train("base", BASE_STEPS, lambda path, step: train_base(path, base_lines(seed), task_words(), seed, step))
        train("multitask", MULTITASK_STEPS, adapter(everything, MULTITASK_STEPS))
        for task, rows in training.items():
            train(f"control-{task}", ADAPTER_STEPS, adapter(rows, ADAPTER_STEPS))
    return [
        Checkpoint(base=str(base)),
        Checkpoint(base=str(base), adapter=str(directory / "multitask"), trained_on=tuple(TASKS)),
        *(Checkpoint(base=str(base), adapter=str(directory / f"control-{task}"), trained_on=(task,)) for task in TASKS),
    ]


def _ingest(directory: Path, checkpoints: Sequence[Checkpoint]) -> None:
    display = IngestDisplay()
    with display.live():
        run_ingest(directory / "lab.act", checkpoints, load_tasks([str(directory / "tasks")]), progress=display)


def _compare(directory: Path) -> pd.DataFrame:
    """Compare base and multi-task model with the control of each task, on that task."""
    store = open_store(directory / "lab.act")
    tables = [compare_table(store, ["base", "multitask", f"control-{task}"], tasks=task) for task in TASKS]
    table = pd.concat(tables, ignore_index=True)
    return table[table["model_b"].str.startswith("control-")].reset_index(drop=True)


def _print(table: pd.DataFrame, label: "pd.Series[str]", directory: Path) -> None:
    medians = curves(table, label)["median"].unstack("label")
    rows = [
        (layer, *(f"{value:.3f}" for value in row))
        for layer, row in zip(medians.index, medians.to_numpy(), strict=True)
    ]
    print_table(["layer", *medians.columns], rows, right=["layer"])
    names = {"store": "lab.act", "table": "comparison.parquet", "picture": "cka.png"}
    for what, name in names.items():
        click.echo(f"{what}: {directory / name}")
