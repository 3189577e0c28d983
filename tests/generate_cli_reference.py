"""Write docs/reference/cli.md from the commands' own --help; run as `python -m tests.generate_cli_reference`."""

from pathlib import Path

import click

from actlas.cli.main import COMMANDS, act

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"
WIDTH = 100

HEAD = """\
# The command `act`

Made from `--help` by `make docs`; a test fails when it is out of date.

Results go to stdout, progress and messages to stderr; with `--json`, stdout is one JSON document. The exit code is 0 when
all is well, 1 with one message for what you can mend, and 2 for wrong usage. STORE is the top directory of a store.
"""


def help_text(name: str | None = None) -> str:
    """Return the help of a command, or of `act` itself, as it is printed on a terminal of 100 columns."""
    top = click.Context(act, info_name="act", terminal_width=WIDTH, **act.context_settings)
    if name is None:
        return act.get_help(top)
    command = act.get_command(top, name)
    assert command is not None
    return command.get_help(click.Context(command, info_name=name, parent=top))


def page() -> str:
    """Return the whole page."""
    sections = [("act", help_text()), *((f"act {name}", help_text(name)) for name in sorted(COMMANDS))]
    return HEAD + "".join(f"\n## {title}\n\n```text\n{text.rstrip()}\n```\n" for title, text in sections)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
