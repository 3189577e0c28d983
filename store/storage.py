"""Where the bytes of a store come from when it is read: a directory, or (in `remote`) a web server or S3."""

import os
import re
from pathlib import Path
from typing import Protocol

from actlas.store.errors import Corrupt, Incomplete, InvalidInput


class Storage(Protocol):
    """Read-only files, named by their path relative to the top of the store, with ``/``.

    Attributes
    ----------
    location : str
        The path or URL of the top, for messages.
    request_bytes : int
        Neighbouring chunks are read together up to this many bytes.
    n_requests : int
        How many requests pay off at the same time.
    """

    location: str
    request_bytes: int
    n_requests: int

    def where(self, name: str) -> str:
        """Return the path or URL of a file, for messages."""

    def read(self, name: str, *, limit: int) -> bytes:
        """Return a whole file.

        Raises
        ------
        Incomplete
            When it is missing or cannot be read.
        Corrupt
            When it is larger than `limit` bytes.
        Unreachable
            When a server cannot be reached or fails.
        """

    def read_into(self, name: str, start: int, buffers: list[memoryview], *, size: int) -> None:
        """Fill writable buffers of bytes, one after the other, from byte `start` of a file that has `size` bytes.

        Raises
        ------
        Incomplete
            When the file is missing, cannot be read, or has another size.
        Unreachable
            When a server cannot be reached or fails.
        """

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, or None where there is none."""


class LocalStorage:
    """A store in a directory."""

    request_bytes = 0
    n_requests = len(os.sched_getaffinity(0))

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)

    def where(self, name: str) -> str:
        """Return the path of a file."""
        return str(self.root / name)

    def read(self, name: str, *, limit: int) -> bytes:
        """Return a whole file; see `Storage`."""
        try:
            with open(self.root / name, "rb", opener=_without_waiting) as file:
                size = os.fstat(file.fileno()).st_size
                if size > limit:
                    raise too_large(self.where(name), size, limit)
                return file.read(size)  # no more: a device or a pipe says 0 and has no end
        except OSError as error:
            raise unreadable(self.where(name), error) from error

    def read_into(self, name: str, start: int, buffers: list[memoryview], *, size: int) -> None:
        """Fill buffers from a file; see `Storage`."""
        try:
            handle = _without_waiting(self.root / name, os.O_RDONLY)
            try:
                found, wanted = os.fstat(handle).st_size, sum(len(buffer) for buffer in buffers)
                n_read = os.preadv(handle, buffers, start) if found == size else 0
                # A signal or a network file system may cut a read short.
                while 0 < n_read < wanted and (more := os.preadv(handle, rest(buffers, n_read), start + n_read)):
                    n_read += more
            finally:
                os.close(handle)
        except OSError as error:
            raise unreadable(self.where(name), error) from error
        if n_read < wanted:
            raise wrong_size(self.where(name), size, found)

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        return (self.root / name).exists()

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, or None where there is none."""
        try:
            return (self.root / name).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(self.where(name), error) from error


def _without_waiting(path: str | Path, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # or opening a pipe would wait for a writer


def rest(buffers: list[memoryview], n_filled: int) -> list[memoryview]:
    """Return what remains of buffers of which the first bytes are filled."""
    remaining = []
    for buffer in buffers:
        if n_filled < len(buffer):
            remaining.append(buffer[n_filled:])
        n_filled = max(0, n_filled - len(buffer))
    return remaining


def unreadable(where: str, error: OSError) -> Incomplete:
    """Return the error for a file that the file system does not give."""
    return Incomplete(f"{where}: cannot be read ({error.strerror}); run `act verify` on the store")


def wrong_size(where: str, expected: int, found: int) -> Incomplete:
    """Return the error for a file of another size than was written."""
    return Incomplete(f"{where}: expected {expected} bytes, got {found}; run `act verify` on the store")


def too_large(where: str, size: int, limit: int) -> Corrupt:
    """Return the error for a file that is too large to be what it should be."""
    return Corrupt(f"{where}: expected a file of at most {limit} bytes, got {size}")


def open_storage(place: "str | Path | Storage") -> Storage:
    """Return the storage at a path, an ``http(s)://`` or an ``s3://`` URL.

    Raises
    ------
    InvalidInput
        For any other URL.
    """
    if not isinstance(place, (str, Path)):
        return place
    scheme, separator, _ = str(place).partition("://")
    if not separator:
        return LocalStorage(Path(place))
    if scheme not in ("http", "https", "s3"):
        shown = re.sub("//.*@", "//", str(place))  # no message shows a password
        raise InvalidInput(f"{shown}: expected a path, or a URL that begins with http://, https:// or s3://")
    from actlas.store.remote import RemoteStorage  # a local store needs no network library

    return RemoteStorage(str(place))
