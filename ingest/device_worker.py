"""The process of one device: it says how fast the device is, then does its share of an ingest.

Run as a module by `devices.Child`, with the number of the descriptor that it talks through.
"""

import os
import pickle
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from threading import Lock, Thread
from typing import Any

import torch

from actlas.ingest.devices import find_device
from actlas.ingest.forecast import speed_of
from actlas.ingest.progress import Progress
from actlas.ingest.residents import run_residents
from actlas.store import ActError


class _Relay(Progress):
    """Passes on what it is told."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._lock = Lock()  # a superblock is told by the thread that wrote it

    def send(self, kind: str, content: object) -> None:
        with self._lock:
            self._connection.send((kind, content))

    def note(self, message: str) -> None:
        self.send("note", (message,))

    def entry(self, label: str) -> None:
        self.send("entry", (label,))

    def advance(self, n_examples: int, n_tokens: int, n_padded: int) -> None:
        self.send("advance", (n_examples, n_tokens, n_padded))

    def skip(self, n_examples: int, n_padded: int) -> None:
        self.send("skip", (n_examples, n_padded))

    def wrote(self, n_bytes: int) -> None:
        self.send("wrote", (n_bytes,))

    def waiting(self, stage: str, seconds: float) -> None:
        self.send("waiting", (stage, seconds))


def main() -> None:
    """Serve the parent until the work is done, fails, is stopped by SIGTERM, or the parent is gone."""
    connection: Any = Connection(int(sys.argv[1]))
    outcome = _serve(connection)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left to be cleaned up
    if outcome is None:
        os.kill(os.getpid(), signal.SIGTERM)  # an interrupted library's clean-up at exit would only add a traceback
    with suppress(OSError):  # nobody may listen any more
        connection.send(outcome)


def _serve(connection: Any) -> tuple[str, Any] | None:
    """Do what the parent asks for, and return what is to be said last; None when it was stopped."""
    try:
        signal.signal(signal.SIGTERM, _stop)
        _work(connection)
    except KeyboardInterrupt:
        return None
    except Exception as error:
        return "failed", _portable(error)
    return "done", None


def _stop(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one interruption is enough: another would hit the cleaning up
    raise KeyboardInterrupt


def _work(connection: Any) -> None:
    device, n_threads, dtype = connection.recv()
    torch.set_num_threads(n_threads)
    connection.send(("ready", speed_of(find_device(device), dtype)))
    root, residents, options = connection.recv()
    Thread(target=_die_with_parent, args=(connection,), daemon=True).start()
    relay = _Relay(connection)
    for entry in run_residents(root, residents, device, options, relay):
        relay.send("committed", entry.path)


def _die_with_parent(connection: Any) -> None:
    with suppress(EOFError, OSError):
        connection.recv()  # nothing more is sent: it returns when the parent is gone, however it went
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """Return an error that can be sent; one that no user can mend keeps its traceback as a note."""
    if not isinstance(error, (ActError, OSError)):
        error.add_note(traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  our own
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


if __name__ == "__main__":
    main()
