"""The command `act`: its commands, and what happens to errors."""

import contextlib
import importlib
import inspect
import os
import signal
import sys
from keyword import iskeyword
from typing import Any

import click

from actlas.cli.extras import needing_extras
from actlas.store import ActError

# Where each command is and what it does. It is imported when it is asked for: `act ls` needs no torch.
COMMANDS = {
    "copy": ("actlas.cli.copying", "Copy a part of a store to another one, verified."),
    "compare": ("actlas.cli.compare", "Compare models layer by layer: CKA with error bars."),
    "demo": ("actlas.cli.demo.command", "Train small models, ingest and compare them; ends in a picture."),
    "doctor": ("actlas.cli.upkeep", "Say what is wrong with a store, and what to type."),
    "du": ("actlas.cli.catalogue", "Show what takes the room of a store, by model, task or owner."),
    "export": ("actlas.cli.exchange", "Write entries as .npy, safetensors or plain Zarr, for other programs."),
    "gc": ("actlas.cli.upkeep", "Delete what dead writers left, and what lies in the trash."),
    "import": ("actlas.cli.exchange", "Keep hidden states that other programs computed."),
    "info": ("actlas.cli.catalogue", "Show who a model is, or its entries on a task."),
    "ingest": ("actlas.cli.ingest", "Run checkpoints over tasks and keep their hidden states."),
    "label": ("actlas.cli.upkeep", "Show or change what is said of a model or a task."),
    "limit": ("actlas.cli.upkeep", "Show or set the most bytes that a store may hold."),
    "ls": ("actlas.cli.catalogue", "List what a store holds."),
    "replay": ("actlas.cli.replay", "Compute a result again, and say whether its numbers come out."),
    "rm": ("actlas.cli.upkeep", "Withdraw entries: into the trash, with a reason for readers."),
    "tasks": ("actlas.cli.tasks", "List the tasks of a store, with their clusters."),
    "verify": ("actlas.cli.upkeep", "Re-read every byte of a store and say what is damaged."),
}

_EXAMPLE = "\b\nExample:"


class LazyGroup(click.Group):
    """A group whose commands are imported on first use."""

    # ruff: noqa: ARG002  click gives every method a context

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or None when there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        with needing_extras(f"act {cmd_name}"):
            module = importlib.import_module(COMMANDS[cmd_name][0])
        return with_example_last(getattr(module, f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(COMMANDS.items())])


def with_example_last(command: click.Command) -> click.Command:
    """Move the example of a command's docstring below its options: the last lines of a page are those that are read."""
    text, example, lines = inspect.cleandoc(command.help or "").partition(_EXAMPLE)
    if example:
        command.help, command.epilog = text.rstrip(), example + lines
    return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="actlas")
def act() -> None:
    """Hidden states of language models: ingested once, compared out of core.

    \b
    Example:
      act ingest lab.act --model ./llama --tasks flan/rte.jsonl
      act ingest lab.act --model ./llama --adapter ./tuned --tasks flan/rte.jsonl
      act compare lab.act llama tuned --plot cka.png
    """


with_example_last(act)


class _Terminated(KeyboardInterrupt):
    """SIGTERM came: whatever is cleaned up after Ctrl-C is cleaned up now."""


def _terminate(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # schedulers repeat it, and would interrupt the cleaning up
    raise _Terminated


def main(arguments: list[str] | None = None) -> None:
    """Run `act`: exit 0 when all is well, 1 with one message for what a user can mend, 2 for wrong usage.

    Ctrl-C and a scheduler's SIGTERM end it alike, but for the exit code, which for SIGTERM is a shell's.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        code = _call(arguments)
    except click.Abort as stopped:
        _say_stopped()
        sys.stderr.flush()
        terminated = isinstance(stopped.__cause__, _Terminated)
        # an interrupted library's own clean-up at exit would only add a traceback
        os._exit(128 + signal.SIGTERM if terminated else 1)
    sys.exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Run `act` and return its exit code."""
    try:
        return _call(arguments)
    except click.Abort:
        _say_stopped()
        return 1


def _say_stopped() -> None:
    click.echo("Stopped. Nothing is half-written; the same command goes on where this one stopped.", err=True)


def _call(arguments: list[str] | None) -> int:
    try:
        result: Any = act.main(arguments, prog_name="act", standalone_mode=False)
        sys.stdout.flush()  # a full disk or a closed pipe may show only now
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ActError as error:
        click.echo(f"Error: {error}{_notes(error)}", err=True)
        return 1
    except OSError as error:
        _discard_output()
        if not isinstance(error, BrokenPipeError):  # who closed the pipe has read enough
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"Error: {where}{error.strerror or error}{_notes(error)}", err=True)
        return 1
    return result if isinstance(result, int) else 0


def _notes(error: BaseException) -> str:
    return "".join(f" ({note})" for note in getattr(error, "__notes__", ()))


def _discard_output() -> None:
    """Let what is still to be printed go nowhere, or Python would try again as it ends, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError):  # an output without a descriptor, as in tests, has nothing to be closed
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
