"""What a person sees at a terminal, and what happens to errors that no command foresees."""

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from actlas.cli.display import bytes_text, seconds_text
from actlas.cli.main import run
from tests.cli.conftest import Act, flan, write_jsonl


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def at_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command with stderr a terminal of 120 columns, and return what it shows."""

    def call(*arguments: object) -> str:
        for name, value in {"TERM": "xterm", "COLUMNS": "120"}.items():
            monkeypatch.setenv(name, value)
        screen = Terminal()
        with monkeypatch.context() as patch:  # inside the test: pytest puts its own streams back before each phase
            patch.setattr(sys, "stderr", screen)
            assert run([str(argument) for argument in arguments]) == 0
        return screen.getvalue()

    return call


def test_an_ingest_shows_bars_with_speed_and_padding(
    at_terminal: Callable[..., str], checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = write_jsonl(tmp_path / "rte.jsonl", flan(20))
    shown = at_terminal("ingest", tmp_path / "lab.act", "--model", checkpoints / "base", "--tasks", path)
    for part in ("1 entries to compute", "base / rte / raw", "20/20", "tokens/s", "padding"):
        assert part in shown
    assert "\x1b" not in capsys.readouterr().out


def test_verify_shows_its_bar_beside_the_results(
    at_terminal: Callable[..., str], lab: Path, capsys: pytest.CaptureFixture[str]
):
    capsys.readouterr()
    assert "verify" in at_terminal("verify", lab)
    assert capsys.readouterr().out.startswith("9 entries")


def test_away_from_a_terminal_there_is_a_line_now_and_then(
    act: Act, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("actlas.cli.progress._LINE_SECONDS", 0.0)
    path = write_jsonl(tmp_path / "rte.jsonl", flan(20))
    result = act("ingest", tmp_path / "lab.act", "--model", checkpoints / "base", "--tasks", path)
    assert "  20 of 20 examples, " in result.err
    assert "0.0 s left" in result.err
    assert "\x1b" not in result.err


def fails_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("actlas.cli.catalogue.open_store", fail)


def test_ctrl_c_in_any_command_is_one_line(act: Act, monkeypatch: pytest.MonkeyPatch):
    fails_with(monkeypatch, KeyboardInterrupt())
    result = act("ls", "lab.act")
    assert (result.code, result.out) == (1, "")
    assert result.err.strip() == "Stopped. Nothing is half-written; the same command goes on where this one stopped."


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "Error: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "Error: a/b: Permission denied\n"),
        (OSError("the disk is on fire"), "Error: the disk is on fire\n"),
    ],
)
def test_what_the_system_refuses_is_one_line(act: Act, monkeypatch: pytest.MonkeyPatch, error: OSError, message: str):
    fails_with(monkeypatch, error)
    result = act("ls", "lab.act")
    assert (result.code, result.out, result.err) == (1, "", message)


def test_a_bug_keeps_its_traceback(act: Act, monkeypatch: pytest.MonkeyPatch):
    fails_with(monkeypatch, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        act("ls", "lab.act")


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (1 << 50, "1048576.0 GiB"),
    ],
)
def test_bytes_are_written_as_people_write_them(n_bytes: int, text: str):
    assert bytes_text(n_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (61, "1 min 1 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min")],
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str):
    assert seconds_text(seconds) == text
