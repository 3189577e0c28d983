"""The pipeline: forward | copy to the host | encode and write, each in a thread of its own, with bounded queues between.

The caller's thread runs the model. What it computed goes through a ring of host buffers (pinned, on a stream of their own,
where the model is on a GPU) into a superblock, and whole superblocks go to disk. The first error stops everything.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]

_SLOTS = 3  # batches on their way to the host
_SUPERBLOCKS = 2  # one is filled while one is written

Waiting = Callable[[str, float], None]


class Lane:
    """What fills superblocks of one kind, one after the other; made by `Pipeline.lane`."""

    def __init__(self, pipeline: "Pipeline") -> None:
        self._pipeline = pipeline
        self._room = threading.Semaphore(_SUPERBLOCKS)
        self._copies: list[Future[None]] = []

    def begin(self) -> None:
        """Wait until there is room for one more superblock in memory."""
        self._pipeline.acquire(self._room, "writing")
        self._copies = []

    def copy(self, tensors: Sequence[torch.Tensor], put: Callable[[list[Array]], None]) -> None:
        """Bring tensors to the host and hand them to `put`, which must copy what it keeps."""
        self._copies.append(self._pipeline.copy(tensors, put))

    def settle(self) -> None:
        """Wait until all that is copied into the superblock that was begun has arrived."""
        wait(self._copies)

    def write(self, work: Callable[[], None]) -> None:
        """Write the superblock that was begun, once all that was copied into it has arrived."""
        self._pipeline.write(work, self._copies, self._room)


class Pipeline:
    """Two stages after the forward pass; leave the context to wait for both.

    Parameters
    ----------
    device : torch.device
        Where the model is.
    waiting : callable
        Told each time the forward pass had to wait: for which stage, and for how many seconds.

    Raises
    ------
    Exception
        The first error of a stage, noted with the stage's name, from any method or at the end.
    """

    def __init__(self, device: torch.device, waiting: Waiting) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._waiting = waiting
        self._slots = threading.Semaphore(_SLOTS)
        self._pinned: list[torch.Tensor] = []
        self._copying, self._writing = (ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("copy", "write"))
        self._error: BaseException | None = None

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, _kind: Any, error: BaseException | None, _traceback: Any) -> None:
        self._error = self._error or error  # what is queued then does nothing
        self._copying.shutdown()
        self._writing.shutdown()
        if error is None:
            self._raise()

    def lane(self) -> Lane:
        """Return a new lane; superblocks of several lanes may be filled at the same time."""
        return Lane(self)

    def copy(self, tensors: Sequence[torch.Tensor], put: Callable[[list[Array]], None]) -> Future[None]:
        """Bring tensors to the host and hand them to `put`; use a lane's `copy`."""
        self.acquire(self._slots, "copying")
        host, give_back = self._start(tensors)

        def work() -> None:
            arrays = [to_numpy(tensor) for tensor in host()]
            put(arrays)
            give_back()

        return self._copying.submit(self._guarded, "copying to the host", work, self._slots)

    def write(self, work: Callable[[], None], copies: Sequence[Future[None]], room: threading.Semaphore) -> None:
        """Write a superblock once its copies have arrived; use a lane's `write`."""

        def whole() -> None:
            wait(copies)
            if self._error is None:
                work()

        self._writing.submit(self._guarded, "encoding and writing", whole, room)

    def _start(
        self, tensors: Sequence[torch.Tensor]
    ) -> tuple[Callable[[], Sequence[torch.Tensor]], Callable[[], None]]:
        """Begin to copy; return what waits for the copies, and what gives their memory back."""
        if self._stream is None:
            return lambda: tensors, lambda: None
        self._stream.wait_stream(torch.cuda.current_stream(tensors[0].device))
        buffers = [self._take_pinned(tensor.numel() * tensor.element_size()) for tensor in tensors]
        views = []
        with torch.cuda.stream(self._stream):
            for tensor, buffer in zip(tensors, buffers, strict=True):
                n_bytes = tensor.numel() * tensor.element_size()
                views.append(buffer[:n_bytes].view(tensor.dtype).view(tensor.shape))
                views[-1].copy_(tensor, non_blocking=True)
                tensor.record_stream(self._stream)  # or its memory is used again before it was read
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._stream)

        def host() -> Sequence[torch.Tensor]:
            arrived.synchronize()
            return views

        return host, lambda: self._pinned.extend(buffers)

    def _take_pinned(self, n_bytes: int) -> torch.Tensor:
        """Return a pinned buffer of at least so many bytes, one that was used before where there is one."""
        found = next((one for one in self._pinned if one.numel() >= n_bytes), None)
        if found is None:
            return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True)
        self._pinned.remove(found)
        return found

    def acquire(self, room: threading.Semaphore, stage: str) -> None:
        """Wait for room, and hear of errors."""
        self._raise()
        if not room.acquire(blocking=False):
            start = time.perf_counter()
            room.acquire()
            self._waiting(stage, time.perf_counter() - start)
            self._raise()

    def _guarded(self, stage: str, work: Callable[[], None], room: threading.Semaphore) -> None:
        try:
            if self._error is None:
                work()
        except BaseException as error:
            error.add_note(f"while {stage}")
            self._error = self._error or error
        finally:
            room.release()  # after an error too: the forward pass may be waiting, and must hear of it

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


def to_numpy(tensor: torch.Tensor) -> Array:
    """Return a tensor on the host as an array that shares its memory; bfloat16 as its bits."""
    if tensor.dtype == torch.bfloat16:  # NumPy has no bfloat16: the bits go through int16
        return tensor.view(torch.int16).numpy()
    return np.asarray(tensor.numpy())
