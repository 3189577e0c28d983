"""Devices: a process for each, all on this machine, and the parent that gives them work, listens, and stops them.

Processes are started as scripts are, not by multiprocessing: a caller's own script needs no guard against being run
again in each of them. The parent runs no model, so that it takes no memory on any device.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any

import torch

from actlas.ingest.progress import Progress
from actlas.store import ActError, InvalidInput

WORKER = "actlas.ingest.device_worker"


def find_device(device: str) -> str:
    """Return the device that ``auto`` is here, or `device` itself after it was tried.

    Raises
    ------
    InvalidInput
        When it cannot be used.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidInput(f"device {device!r} cannot be used ({error}); expected auto, cpu or cuda") from error
    return device


def chosen_devices(device: str, devices: Sequence[str] | None) -> tuple[str, ...]:
    """Return the devices that `Options` names; one alone is tried, several are left to their processes.

    Raises
    ------
    InvalidInput
        When both fields are given, a name is none of torch's, one device other than the CPU is named twice, or the only
        one cannot be used.
    """
    if devices is None:
        return (find_device(device),)
    if device != "auto":
        raise InvalidInput("--device and --devices exclude each other")
    if not devices:
        raise InvalidInput("--devices: expected at least one, such as cuda:0,cuda:1")
    places = [_place(name) for name in devices]
    twice = [name for name, place in zip(devices, places, strict=True) if place[0] != "cpu" and places.count(place) > 1]
    if twice:
        raise InvalidInput(f"--devices: {', '.join(twice)} are one device; only cpu may be named more than once")
    return tuple(devices) if len(devices) > 1 else (find_device(devices[0]),)


def _place(name: str) -> tuple[str, int]:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInput(f"--devices: {name!r} is no device; expected names such as cuda:0,cuda:1 or cpu") from error
    return device.type, device.index or 0


class Child:
    """A process that runs checkpoints on one device.

    Parameters
    ----------
    device : str
        Which.
    n_threads : int
        Threads that it may compute with on the CPU.
    dtype : str
        What the speed of the device is measured in.
    """

    def __init__(self, device: str, n_threads: int, dtype: str) -> None:
        self.device = device
        self.connection, there = Pipe()
        with there:
            self.process = subprocess.Popen(  # noqa: S603  our own module
                [sys.executable, "-P", "-m", WORKER, str(there.fileno())],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # stdout is for results
                process_group=0,  # Ctrl-C on the terminal reaches the parent alone, which then stops it
            )
        self.send((device, n_threads, dtype))

    def send(self, content: object) -> None:
        """Hand something to the process.

        Raises
        ------
        ActError
            When it is gone.
        """
        try:
            self.connection.send(content)
        except OSError as error:
            raise self._gone() from error

    def receive(self) -> tuple[str, Any]:
        """Wait for what the process says next, and return its kind and content.

        Raises
        ------
        ActError
            When the process is gone.
        Exception
            What ended its work, with a note of the device.
        """
        try:
            kind, content = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if kind == "failed":
            content.add_note(f"on {self.device}")
            raise content
        return kind, content

    def _gone(self) -> ActError:
        code = self.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hint = ", as it happens when memory runs out" if code == -signal.SIGKILL else ""
        return ActError(
            f"the process on {self.device} {how}{hint}; the others were stopped and nothing is half-written: the same "
            "command goes on where this one stopped"
        )


@contextmanager
def start_children(devices: Sequence[str], n_threads: int, dtype: str) -> Iterator[list[Child]]:
    """Start a process for each device; whatever happens, none is left when the context ends.

    Parameters
    ----------
    devices : sequence of str
        The devices.
    n_threads, dtype : int, str
        For each; see `Child`.
    """
    children: list[Child] = []
    try:
        # one by one: when one cannot be started, those before it are in the list, and are stopped
        children.extend(Child(device, n_threads, dtype) for device in devices)
        yield children
    finally:
        for child in children:
            child.process.terminate()
        for child in children:
            child.process.wait()
            child.connection.close()


def run_children(children: Sequence[Child], work: Sequence[object], progress: Progress) -> Iterator[str]:
    """Give each process its work, and yield the paths of the entries as they are committed.

    Parameters
    ----------
    children : sequence of Child
        Processes that said that they are ready.
    work : sequence
        What the worker takes, one for each.
    progress : Progress
        Told what all of them tell.

    Raises
    ------
    Exception
        The first error of a process, as `Child.receive` raises it.
    """
    for child, one in zip(children, work, strict=True):
        child.send(one)
    busy = {child.connection: child for child in children}
    while busy:
        for connection in wait(list(busy)):
            child = busy[connection]  # type: ignore[index]
            kind, content = child.receive()
            if kind == "committed":
                yield content
            elif kind == "done":
                child.process.wait()
                del busy[child.connection]
            else:
                _tell(progress, child.device, len(children), kind, content)


def _tell(progress: Progress, device: str, n_devices: int, kind: str, content: tuple[Any, ...]) -> None:
    match kind, content:
        case "note", (message,):
            progress.note(f"{device}: {message}")
        case "entry", (label,):
            progress.entry(f"{label} on {device}")
        case "waiting", (stage, seconds):
            progress.waiting(stage, seconds / n_devices)
        case _:
            getattr(progress, kind)(*content)
