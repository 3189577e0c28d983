"""A store on a web server or in S3, read and published through obstore."""

import base64
import contextlib
import os
import random
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import unquote, urlsplit, urlunsplit

import obstore
from obstore.exceptions import BaseError, NotSupportedError, PermissionDeniedError, UnauthenticatedError
from obstore.store import ObjectStore, from_url

if TYPE_CHECKING:
    from obstore.store import ClientConfig

from actlas.store.errors import Incomplete, InvalidInput, NotFound, Unreachable
from actlas.store.storage import too_large, wrong_size

T = TypeVar("T")

ATTEMPTS = 5
TIMEOUT_SECONDS = 30.0
_WHOLE_REQUEST_SECONDS = 3600.0  # many large answers share a slow line; what stands still is noticed long before
_UPLOAD_TIMEOUTS, _SMALL_BYTES = (
    10,
    256 << 10,
)  # a server answers an upload when it has all of it: a large one may take long
_FIRST_PAUSE_SECONDS = 0.2
_REASON_CHARACTERS = 200

_asking: set[int] = set()  # the process that made the first request, once there was one

# What obstore says where another attempt mends nothing, and what does; and, deep inside, where a connection failed.
_REMEDIES = {
    "/latest/api/token": "no keys were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or, where a bucket is open to "
    "everybody, AWS_SKIP_SIGNATURE=true",
    "builder error": "the client refuses this address; where AWS_ENDPOINT_URL begins with http://, set AWS_ALLOW_HTTP=true",
    "InvalidCertificate": "its certificate is not trusted; where a CA of your own signed it, name the CA's certificate in "
    "SSL_CERT_FILE",
}
_INSIDES = {"TimedOut": "no answer in time", "Incomplete": "the connection was cut"}


class RemoteStorage:
    """A store at an ``http(s)://`` or ``s3://`` URL; credentials come from the environment, as for any S3 client.

    Parameters
    ----------
    url : str
        The top of the store. Name and password for a web server may stand in it; they are in no message.
    attempts : int
        How often a request is tried before `Unreachable` is raised; the pauses between double and are jittered.
    timeout : float
        Seconds without a single byte after which an attempt has failed.

    Raises
    ------
    InvalidInput
        When it is no such URL.
    """

    request_bytes = 8 << 20
    n_requests = 16

    def __init__(self, url: str, *, attempts: int = ATTEMPTS, timeout: float = TIMEOUT_SECONDS) -> None:
        self.location, self._options = _parse(url)
        self._attempts, self._timeout = attempts, timeout
        self._downloads = self._connect(timeout)

    def __repr__(self) -> str:
        return f"<RemoteStorage {self.location}>"

    def _connect(self, timeout: float) -> ObjectStore:
        options = self._options | {
            "connect_timeout": timedelta(seconds=self._timeout),
            "read_timeout": timedelta(seconds=timeout),
            "timeout": timedelta(seconds=_WHOLE_REQUEST_SECONDS),
        }
        try:
            return from_url(
                self.location,
                client_options=cast("ClientConfig", options),
                retry_config={"max_retries": 0},  # repeated here, where a body that breaks off is repeated too
            )
        except (BaseError, ValueError) as error:
            raise _no_store(self.location, _reason(error)) from error

    @cached_property
    def _uploads(self) -> ObjectStore:
        return self._connect(self._timeout * _UPLOAD_TIMEOUTS)

    def where(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self.location}/{name}"

    def read(self, name: str, *, limit: int) -> bytes:
        """Return a whole file; see `actlas.store.storage.Storage`."""

        def once() -> bytes:
            result = obstore.get(self._downloads, name)
            if (size := result.meta["size"]) > limit:
                raise too_large(self.where(name), size, limit)
            return bytes(result.bytes())

        return self._repeat(name, once)

    def read_into(self, name: str, start: int, buffers: list[memoryview], *, size: int) -> None:
        """Fill buffers from a file; see `actlas.store.storage.Storage`."""
        stop = start + sum(len(buffer) for buffer in buffers)

        def once() -> None:
            try:
                result = obstore.get(self._downloads, name, options={"range": (start, stop)})
            except BaseError as error:
                if "416" in _reason(error):  # the range lies beyond the end
                    self._check_size(name, size)
                raise
            if result.meta["size"] != size:
                raise wrong_size(self.where(name), size, result.meta["size"])
            data, n_filled = memoryview(result.bytes()), 0
            if len(data) != stop - start:
                raise ValueError(f"expected {stop - start} bytes, got {len(data)}")
            for buffer in buffers:
                buffer[:] = data[n_filled : n_filled + len(buffer)]
                n_filled += len(buffer)

        self._repeat(name, once)

    def _check_size(self, name: str, expected: int) -> None:
        with contextlib.suppress(BaseError, OSError):
            found = int(obstore.head(self._downloads, name)["size"])
            if found != expected:
                raise wrong_size(self.where(name), expected, found)

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, or None where there is none."""
        try:
            return int(self._repeat(name, lambda: obstore.head(self._downloads, name))["size"])
        except Incomplete:
            return None

    def put(self, name: str, data: bytes) -> None:
        """Write a whole file; readers see all of it or what was there before."""
        objects = self._downloads if len(data) < _SMALL_BYTES else self._uploads
        # One part of a file at a time: several files are put at once, and all share the line.
        self._repeat(name, lambda: obstore.put(objects, name, data, max_concurrency=1))

    def list(self, prefix: str) -> dict[str, int]:
        """Return the sizes of all files below a prefix, by name; only S3 can list."""

        def once() -> dict[str, int]:
            pages = obstore.list(self._downloads, prefix)
            return {str(item["path"]): int(item["size"]) for page in pages for item in page}

        return self._repeat(prefix, once)

    def _repeat(self, name: str, request: Callable[[], T]) -> T:
        """Do a request, again with growing pauses while the server fails.

        Raises
        ------
        Incomplete
            When there is no such file.
        NotFound
            When there is no such bucket.
        Unreachable
            When the server does not allow it, or all attempts failed.
        """
        where = self.where(name)
        _check_process(where)
        for attempt in range(1, self._attempts + 1):
            try:
                return _interruptibly(request)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise NotFound(
                        f"{self.location}: there is no such bucket; check its name and AWS_ENDPOINT_URL, or make it"
                    ) from error
                raise Incomplete(f"{where}: not there; run `act verify` on the store") from error
            except (PermissionDeniedError, UnauthenticatedError) as error:
                raise Unreachable(
                    f"{where}: the server does not allow it ({_reason(error)}); check your credentials and what they "
                    "may do"
                ) from error
            except NotSupportedError as error:
                raise Unreachable(
                    f"{where}: the server gives whole files only; ask who serves it for one that gives parts of "
                    "files, such as nginx"
                ) from error
            except (BaseError, OSError, ValueError) as error:
                if remedies := [remedy for sign, remedy in _REMEDIES.items() if sign in str(error)]:
                    raise Unreachable(f"{where}: {remedies[0]}") from error
                if attempt == self._attempts:
                    raise Unreachable(
                        f"{where}: {self._attempts} attempts failed ({_reason(error)}); try again later, or check the "
                        "address and your settings"
                    ) from error
                time.sleep(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))  # noqa: S311
        raise AssertionError


def _parse(url: str) -> tuple[str, dict[str, Any]]:
    """Return a URL without name and password, which messages would show, and what the client has to know."""
    shown = re.sub("//.*@", "//", url)
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  it raises for what is none
    except ValueError as error:
        raise _no_store(shown, "no such host and port; in a password write / ? # as %2F %3F %23") from error
    credentials, is_given, host = parts.netloc.rpartition("@")
    if not host or parts.query or parts.fragment:
        raise _no_store(shown, "write ? as %3F and # as %23" if host else "it names no server")
    options: dict[str, Any] = {}
    # obstore does not look at AWS_ALLOW_HTTP any more where it is given options.
    if parts.scheme == "http" or os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"):
        options["allow_http"] = True
    if is_given:
        if parts.scheme == "s3":
            raise _no_store(shown, "keys are taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        token = base64.b64encode(unquote(credentials).encode()).decode()
        options["default_headers"] = {"authorization": f"Basic {token}"}
    return urlunsplit(parts._replace(netloc=host, path=parts.path.rstrip("/"))), options


def _no_store(url: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"{url}: not the URL of a store ({why}); expected e.g. https://example.org/lab.act or s3://bucket/lab.act"
    )


def _reason(error: Exception) -> str:
    """Say in a few words what went wrong: obstore adds a page of its own insides, and servers answer in XML or HTML."""
    text = str(error)
    line = text.partition("\n")[0]
    if answer := re.search(r"status code: (\d+ [^:]*): ?(.*)", line):
        status, body = answer.groups()
        fault = re.search(r"<Code>([^<]*)</Code>\s*<Message>([^<]*)</Message>", text)
        said = f"{fault[1]}: {fault[2]}" if fault else "" if body.startswith("<") else body
        reason = f"{status}: {said}" if said else status
    elif found := [reason for sign, reason in _INSIDES.items() if sign in text]:
        reason = found[0]
    elif detail := re.search(r'(?:message|error): "([^"]*)"', text):
        reason = detail[1]
    else:
        reason = re.sub(r"^.*Error performing \w+ \S+ in \S+ - ", "", line)
    return reason[:_REASON_CHARACTERS]


def _interruptibly(request: Callable[[], T]) -> T:
    """Do a request; the main thread has another one do it, for obstore holds Ctrl-C back until the answer is there."""
    if threading.current_thread() is not threading.main_thread():
        return request()
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(request())
        except BaseException as error:  # raised again where the answer is awaited
            answer.set_exception(error)

    threading.Thread(target=work, name="request", daemon=True).start()
    return answer.result()


def _check_process(where: str) -> None:
    """Refuse what would wait for ever, whatever its timeouts: the threads of obstore do not survive a fork."""
    if not _asking:
        _asking.add(os.getpid())
    if os.getpid() not in _asking:
        raise Unreachable(
            f"{where}: this process was forked from one that had read from a server, and cannot; start processes with "
            "multiprocessing's spawn or forkserver instead of fork"
        )
