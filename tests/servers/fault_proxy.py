"""A reverse proxy that breaks chosen answers, to stand between a client and nginx or Swift."""

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.servers.fault import TRICKLE_SECONDS, Answer, Fault, flipped, parts, refusal, shortened

# They belong to one connection and are not passed on. The handler itself answers Expect.
OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "expect"}


Rule = Callable[[str, str, int], Fault | None]


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    method: str
    path: str  # as on the wire, without the query
    query: str
    range: str | None  # the header
    authorization: str | None  # the header


@dataclass
class FaultProxy:
    """A running proxy: `rule(method, path, nth)` chooses the fault of the nth request, from 1, for a path."""

    url: str
    rule: Rule = lambda method, path, nth: None
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, path: str) -> int:
        """Return how many requests for `path` have come, whatever became of them."""
        with self.lock:
            return sum(request.path == path for request in self.requests)

    def take(self, request: Request) -> Fault | None:
        with self.lock:
            self.requests.append(request)
            nth = sum(earlier.path == request.path for earlier in self.requests)
            return self.rule(request.method, request.path, nth)


class Handler(BaseHTTPRequestHandler):
    """One connection of a client; every request on it is passed on over a connection of its own."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Server"

    def relay(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url, wanted, keys = urlsplit(self.path), self.headers.get("Range"), self.headers.get("Authorization")
        fault = self.server.proxy.take(Request(self.command, url.path, url.query, wanted, keys))
        kind = fault.kind if fault else None
        if fault and kind == "status":
            self.answer(refusal(fault.code))
        elif kind == "drop":
            self.close_connection = True
        elif kind == "stall":
            self.stall()
        elif kind == "cut":
            self.answer(self.fetch(sent), halfway=True)
            self.close_connection = True
        elif kind == "stall halfway":
            answer = self.fetch(sent)
            self.answer(answer, halfway=True)
            if answer.body:  # else that was all
                self.stall()
        elif kind == "flip":
            answer = self.fetch(sent)
            self.answer(replace(answer, body=flipped(answer.body)))
        elif kind == "trickle":
            self.trickle(self.fetch(sent))
        elif kind == "short":
            signed = (keys or "").startswith("AWS4-HMAC-SHA256")
            self.answer(shortened(self.fetch(sent, with_range=signed), wanted))
        else:
            self.answer(self.fetch(flipped(sent) if kind == "flip upload" else sent))

    # http.server looks these names up.
    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_OPTIONS = do_PROPFIND = relay  # noqa: N815

    def fetch(self, sent: bytes, *, with_range: bool = True) -> Answer:
        """Ask the server what the client asked, Host header and all: S3 clients sign it."""
        left_out = OF_THE_CONNECTION if with_range else OF_THE_CONNECTION | {"range"}
        connection = HTTPConnection(self.server.target, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in left_out:
                    connection.putheader(name, value)
            connection.endheaders(sent or None)
            response = connection.getresponse()
            body = response.read()
        except OSError:
            return refusal(502)
        finally:
            connection.close()
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in OF_THE_CONNECTION]
        answer = Answer(response.status, response.reason, headers, body)
        return answer.with_headers(content_length=str(len(body))) if body else answer

    def answer(self, answer: Answer, *, halfway: bool = False) -> None:
        self.send_response_only(answer.code, answer.reason)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if halfway else answer.body)

    def trickle(self, answer: Answer) -> None:
        self.answer(replace(answer, body=b""))
        for part in parts(answer.body):
            self.server.stopping.wait(TRICKLE_SECONDS)
            self.wfile.write(part)

    def stall(self) -> None:
        self.server.stopping.wait()
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A thread for each connection, all of them ended and joined by `stop`."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = target
        self.proxy = FaultProxy(f"http://127.0.0.1:{self.server_port}")
        self.stopping = threading.Event()
        self.connections: set[socket.socket] = set()
        self.errors: list[BaseException] = []

    def process_request(self, request: socket.socket, client_address: object) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):  # clients that give up are no news
            self.errors.append(error)

    def stop(self) -> None:
        self.shutdown()
        self.stopping.set()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


@contextmanager
def fault_proxy(target_url: str) -> Iterator[FaultProxy]:
    """Pass requests on to `target_url`, but for what `rule` breaks; raise at the end what went wrong in the proxy itself."""
    server = Server(urlsplit(target_url).netloc)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.proxy
    finally:
        server.stop()
        thread.join()
    if server.errors:
        raise ExceptionGroup("in the fault proxy", [error for error in server.errors if isinstance(error, Exception)])
