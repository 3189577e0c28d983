"""A store on a web server or in S3, read and published through obstore."""

import base64
import contextlib
import os
import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import unquote, urlsplit, urlunsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import ObjectStore, from_url

if TYPE_CHECKING:
    from obstore.store import ClientConfig

from actlas.store.errors import Incomplete, InvalidInput, Unreachable
from actlas.store.storage import too_large, wrong_size

T = TypeVar("T")

ATTEMPTS = 5
TIMEOUT_SECONDS = 30.0
_FIRST_PAUSE_SECONDS = 0.2


class RemoteStorage:
    """A store at an ``http(s)://`` or ``s3://`` URL; credentials come from the environment, as for any S3 client.

    Parameters
    ----------
    url : str
        The top of the store.
    attempts : int
        How often a request is tried before `Unreachable` is raised; the pauses between double and are jittered.
    timeout : float
        Seconds that one request may take, its answer included.
    """

    request_bytes = 8 << 20
    n_requests = 16

    def __init__(self, url: str, *, attempts: int = ATTEMPTS, timeout: float = TIMEOUT_SECONDS) -> None:
        self.location, options = _split_credentials(url.rstrip("/"))
        self._attempts = attempts
        limit = timedelta(seconds=timeout)
        # obstore does not look at AWS_ALLOW_HTTP any more where it is given options.
        if url.startswith("http://") or os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"):
            options["allow_http"] = True
        client = cast("ClientConfig", {"timeout": limit, "connect_timeout": limit, **options})
        try:
            self.objects: ObjectStore = from_url(
                self.location,
                client_options=client,
                retry_config={"max_retries": 0},  # repeated here, where a body that breaks off is repeated too
            )
        except (BaseError, ValueError) as error:
            raise InvalidInput(f"{self.location}: not a URL of a store ({_first_line(error)})") from error

    def __repr__(self) -> str:
        return f"<RemoteStorage {self.location}>"

    def where(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self.location}/{name}"

    def read(self, name: str, *, limit: int) -> bytes:
        """Return a whole file; see `actlas.store.storage.Storage`."""

        def once() -> bytes:
            result = obstore.get(self.objects, name)
            if (size := result.meta["size"]) > limit:
                raise too_large(self.where(name), size, limit)
            return bytes(result.bytes())

        return self.repeat(name, once)

    def read_into(self, name: str, start: int, buffers: list[memoryview], *, size: int) -> None:
        """Fill buffers from a file; see `actlas.store.storage.Storage`."""
        stop = start + sum(len(buffer) for buffer in buffers)

        def once() -> None:
            try:
                result = obstore.get(self.objects, name, options={"range": (start, stop)})
            except BaseError:  # a range beyond the end of a file that is too short is an error of no special kind
                self._check_size(name, size)
                raise
            if result.meta["size"] != size:
                raise wrong_size(self.where(name), size, result.meta["size"])
            data, n_filled = memoryview(result.bytes()), 0
            for buffer in buffers:
                buffer[:] = data[n_filled : n_filled + len(buffer)]
                n_filled += len(buffer)

        self.repeat(name, once)

    def _check_size(self, name: str, expected: int) -> None:
        with contextlib.suppress(BaseError, OSError):
            found = int(obstore.head(self.objects, name)["size"])
            if found != expected:
                raise wrong_size(self.where(name), expected, found)

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, or None where there is none."""
        try:
            return int(self.repeat(name, lambda: obstore.head(self.objects, name))["size"])
        except Incomplete:
            return None

    def repeat(self, name: str, request: Callable[[], T]) -> T:
        """Do a request, again with growing pauses while the server fails.

        Raises
        ------
        Incomplete
            When there is no such file.
        Unreachable
            When the server does not allow it, or all attempts failed.
        """
        for attempt in range(1, self._attempts + 1):
            try:
                return request()
            except FileNotFoundError as error:
                raise Incomplete(f"{self.where(name)}: not there; run `act verify` on the store") from error
            except (PermissionDeniedError, UnauthenticatedError) as error:
                raise Unreachable(
                    f"{self.where(name)}: the server does not allow it ({_first_line(error)}); check your credentials "
                    "and what they may do"
                ) from error
            except (BaseError, OSError, ValueError) as error:
                if attempt == self._attempts:
                    raise Unreachable(
                        f"{self.where(name)}: {self._attempts} attempts failed ({_first_line(error)}); try again later"
                    ) from error
                time.sleep(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))  # noqa: S311
        raise AssertionError

    def put(self, name: str, data: Any) -> None:
        """Write a whole file; readers see all of it or what was there before."""
        self.repeat(name, lambda: obstore.put(self.objects, name, data))

    def list(self, prefix: str) -> dict[str, int]:
        """Return the sizes of all files below a prefix, by name; only S3 can list."""

        def once() -> dict[str, int]:
            pages = obstore.list(self.objects, prefix)
            return {str(item["path"]): int(item["size"]) for page in pages for item in page}

        return self.repeat(prefix, once)


def _split_credentials(url: str) -> tuple[str, dict[str, Any]]:
    """Take name and password out of a URL, where messages would show them, and return them as options."""
    parts = urlsplit(url)
    if not parts.username:
        return url, {}
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    host = parts.netloc.rpartition("@")[2]
    header = f"Basic {base64.b64encode(credentials).decode()}"
    return urlunsplit(parts._replace(netloc=host)), {"default_headers": {"authorization": header}}


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
