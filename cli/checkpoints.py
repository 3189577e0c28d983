"""The options of act ingest that say which checkpoints: one, some adapters or revisions of one, or a sweep."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import click

from actlas.ingest import Checkpoint, find_adapters, read_sweep, revisions_of
from actlas.store import InvalidInput

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--model", help="Base checkpoint: a directory, or a hub name in the local cache."),
    click.option("--revision", help="Revision of a hub name."),
    click.option("--revisions", metavar="R1,R2,...", help="Several revisions, each a model called NAME-REVISION."),
    click.option(
        "--adapter", "adapters", multiple=True, help="LoRA adapter to put under the base; repeat for several."
    ),
    click.option("--adapters", "patterns", multiple=True, help="All adapters that a pattern such as 'loras/*' names."),
    click.option(
        "--random-init",
        type=int,
        metavar="SEED",
        help="Random weights from this seed in place of the checkpoint's own: the baseline NAME-random-SEED.",
    ),
    click.option(
        "--stack",
        type=click.Choice(["decoder"]),
        help="Of an encoder-decoder (T5), the decoder: the model NAME-decoder.",
    ),
    click.option("--name", "names", multiple=True, help="Name in the store; once for each checkpoint, in order."),
    click.option("--trained-on", multiple=True, help="Task that the checkpoint was tuned on; one makes it a control."),
    click.option("--models", "sweep", metavar="SWEEP.csv", help="Many checkpoints, one a row; instead of the above."),
)
_FLAGS = {
    "adapters": "--adapter",
    "patterns": "--adapters",
    "random_init": "--random-init",
    "names": "--name",
    "trained_on": "--trained-on",
}


def checkpoint_options(command: Command) -> Command:
    """Give a command the options from which `checkpoints_from` makes checkpoints."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def checkpoints_from(options: dict[str, Any]) -> list[Checkpoint]:
    """Take the options of `checkpoint_options` out of all options, and return the checkpoints that they name.

    Raises
    ------
    UsageError
        When options are given that exclude each other.
    ActError
        When a sweep, a pattern or a name cannot be used.
    """
    names = ("model", "revision", "revisions", "adapters", "patterns", "random_init", "stack", "names", "trained_on")
    sweep, said = options.pop("sweep"), {name: options.pop(name) for name in names}
    given = [_FLAGS.get(name, f"--{name}") for name, value in said.items() if value not in (None, ())]
    if sweep is not None:
        if given:
            raise click.UsageError(f"--models says all of a checkpoint; leave {', '.join(given)} out")
        return read_sweep(sweep)
    if said["model"] is None:
        raise click.UsageError("Missing option '--model', or '--models' for a sweep.")
    checkpoints = _revisions(said, given) if said["revisions"] is not None else _adapters(**said)
    for checkpoint in checkpoints:
        try:
            checkpoint.slug  # noqa: B018  a name that cannot be used is found out before any file is read
        except InvalidInput as error:
            raise InvalidInput(f"{error}; choose one with --name, or in a sweep (--models)") from error
    return checkpoints


def _revisions(said: dict[str, Any], given: list[str]) -> list[Checkpoint]:
    if others := sorted({*given} - {"--model", "--revisions", "--name"}):
        raise click.UsageError(f"--revisions and {', '.join(others)} exclude each other; a sweep (--models) has both")
    revisions, names = [one.strip() for one in said["revisions"].split(",")], said["names"]
    if len(names) == len(revisions):
        checkpoints = revisions_of(said["model"], revisions)
        return [replace(checkpoint, name=name) for checkpoint, name in zip(checkpoints, names, strict=True)]
    if len(names) > 1:
        raise InvalidInput(
            f"--name: expected one for each of {len(revisions)} revisions, or one that goes before each, got {len(names)}"
        )
    return revisions_of(said["model"], revisions, names[0] if names else None)


def _adapters(
    model: str,
    revision: str | None,
    adapters: tuple[str, ...],
    patterns: tuple[str, ...],
    random_init: int | None,
    stack: str | None,
    names: tuple[str, ...],
    trained_on: tuple[str, ...],
    **_: object,
) -> list[Checkpoint]:
    places: tuple[str | None, ...] = (*adapters, *find_adapters(patterns)) or (None,)
    if names and len(names) != len(places):
        raise InvalidInput(f"--name: expected one for each of {len(places)} checkpoints, got {len(names)}")
    if trained_on and len(places) > 1:
        raise InvalidInput(
            "--trained-on speaks of one checkpoint; adapters that were tuned on different tasks are said in a sweep (--models)"
        )
    return [
        Checkpoint(
            base=model,
            revision=revision,
            adapter=adapter,
            random_init=random_init,
            stack=stack,
            name=name,
            trained_on=trained_on,
        )
        for adapter, name in zip(places, names or (None,) * len(places), strict=True)
    ]
