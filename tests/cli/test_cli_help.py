"""What `act` says about itself, and what it loads to say it."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from actlas.cli.extras import EXTRAS
from actlas.cli.main import COMMANDS, act, run
from tests.cli.conftest import ACT, Act, Result

ROOT = Path(__file__).parents[2]


def command_named(name: str) -> click.Command:
    command = act.get_command(click.Context(act), name)
    assert command is not None
    return command


def examples(text: str) -> list[list[str]]:
    """The command lines of the last paragraph of a help text."""
    paragraphs = text.rstrip().split("\n\n")
    first, *lines = paragraphs[-1].splitlines()
    assert first.strip() == "Example:", f"the help ends with {paragraphs[-1]!r}"
    return [shlex.split(line) for line in lines]


def check_words(words: list[str]) -> None:
    """Every option of a command line exists, and its arguments parse."""
    assert words[0] == "act"
    command = command_named(words[1])
    command.make_context(words[1], words[2:])


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_ends_with_examples_that_parse(act: Act, arguments: list[str]):
    result = act(*arguments)
    assert (result.code, result.err) == (0, "")
    for words in examples(result.out):
        check_words(words)
    assert all(f"\n  {name} " in result.out for name in COMMANDS)


def test_no_command_at_all_shows_the_same_page(act: Act):
    result = act()
    assert result.code == 2
    assert result.err == act("--help").out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_every_command_ends_with_examples_that_parse(act: Act, name: str):
    result = act(name, "--help")
    assert (result.code, result.err) == (0, "")
    shown = examples(result.out)
    assert shown
    for words in shown:
        assert words[1] == name
        check_words(words)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_of_every_command_says_what_it_does(name: str):
    options = [parameter for parameter in command_named(name).params if isinstance(parameter, click.Option)]
    assert all(option.help and option.help.endswith(".") for option in options)


def test_the_version_is_the_packages(act: Act):
    assert re.fullmatch(r"act, version \d+\.\d+\.\d+\n", act("--version").out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["ls"], "Missing argument 'STORE'"),
        (["ls", "a", "b"], "unexpected extra argument"),
        (["ls", "--nonsense", "lab.act"], "No such option"),
        (["compare", "lab.act"], "Missing argument"),
        (["compare", "lab.act", "a", "b", "--match-n", "some"], "'some' is not a valid integer"),
        (["ingest", "lab.act", "--model", "m"], "Missing option '--tasks'"),
        (["ingest", "lab.act", "--model", "m", "--tasks", "t", "--field", "prompt"], "expected NAME=FIELD"),
        (
            ["ingest", "lab.act", "--model", "m", "--tasks", "t", "--render", "html"],
            "expected raw, chat or the path of",
        ),
    ],
)
def test_wrong_usage_exits_2_and_says_where_help_is(act: Act, arguments: list[str], message: str):
    result = act(*arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert "Try 'act" in result.err


def child(program: str, *arguments: object) -> Result:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    return Result(done.returncode, done.stdout, done.stderr)


HEAVY = ("torch", "transformers", "peft", "dask", "xarray", "matplotlib")


def test_the_catalogue_commands_load_neither_models_nor_schedulers(lab: Path):
    program = f"""
import sys
from actlas.cli.main import run
for words in (["--help"], ["ls", {str(lab)!r}], ["info", {str(lab)!r}, "base/rte"], ["verify", {str(lab)!r}], ["ls", "-h"]):
    assert run(words) == 0, words
    loaded = [name for name in {HEAVY} if name in sys.modules]
    assert not loaded, (words, loaded)
"""
    result = child(program)
    assert (result.code, result.err) == (0, "")


# A finder that hides one package, as if it had not been installed.
HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
from actlas.cli.main import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize("missing", ["torch", "huggingface_hub"])
def test_a_missing_extra_gives_one_line_with_the_pip_command(missing: str):
    result = child(HIDE, missing, "ingest", "--help")
    assert (result.code, result.out) == (1, "")
    assert result.err == f"Error: act ingest needs {missing}; install it with: pip install 'actlas[ingest]'\n"


def test_a_halted_import_of_torch_reads_the_same():
    program = "import sys; sys.modules['torch'] = None; from actlas.cli.main import main; main(['ingest', '--help'])"
    result = child(program)
    assert result.code == 1
    wanted = "Error: act ingest needs torch; install it with: pip install 'actlas[ingest]'"
    assert result.err.splitlines()[-1] == wanted  # transformers has a word before it
    assert "Traceback" not in result.err


def test_every_package_of_the_extra_is_known_by_its_import_name():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {re.split(r"[^a-z0-9_-]", requirement)[0] for requirement in extras["ingest"]}
    assert names <= EXTRAS.keys()


def test_a_broken_install_is_no_missing_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(COMMANDS, "ls", ("actlas.cli.nowhere", "Nothing."))
    with pytest.raises(ModuleNotFoundError, match=r"actlas\.cli\.nowhere"):
        run(["ls", "x"])


def test_a_closed_pipe_gives_no_traceback(lab: Path):
    for command in (["ls", str(lab)], ["info", str(lab), "base", "--json"], ["--help"]):
        process = subprocess.Popen([*ACT, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.close()  # the reader is gone before the first line
        errors = process.stderr.read()
        process.stderr.close()
        assert errors == b"", command
        assert process.wait(60) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_gives_one_line(lab: Path):
    for command in (["ls", str(lab)], ["ls", str(lab), "--json"], ["ls", "--help"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run([*ACT, *command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (1, "Error: No space left on device\n"), command
