"""What can go wrong with the answer of a file server."""

import re
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Literal


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer."""

    kind: Literal["status", "cut", "stall", "stall halfway", "drop", "short", "flip", "flip upload", "trickle"]
    code: int = 0


CUT = Fault("cut")  # all headers and half of the body, then the connection is closed
STALL = Fault("stall")  # nothing, until the proxy stops
STALL_HALFWAY = Fault("stall halfway")  # all headers and half of the body, then nothing until the proxy stops
DROP = Fault("drop")  # the connection is closed without an answer; the server never sees the request
SHORT = Fault("short")  # what a server with the first half of the file would answer
FLIP = Fault("flip")  # the lowest bit of the middle byte is wrong
FLIP_UPLOAD = Fault("flip upload")  # the same in what the client sends; the answer is the server's own
TRICKLE = Fault("trickle")  # the body comes in parts, TRICKLE_SECONDS one after the other

TRICKLE_PARTS = 8
TRICKLE_SECONDS = 0.12


def status(code: int) -> Fault:
    """Answer with this status and a body that says so; the server never sees the request."""
    return Fault("status", code)


@dataclass(frozen=True)
class Answer:
    """What goes back to the client."""

    code: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def with_headers(self, **values: str) -> "Answer":
        """Replace headers; content_length is Content-Length."""
        names = {name.replace("_", "-").title(): value for name, value in values.items()}
        kept = [(key, value) for key, value in self.headers if key.title() not in names]
        return replace(self, headers=[*kept, *names.items()])


def flipped(body: bytes) -> bytes:
    changed = bytearray(body)
    if body:
        changed[len(body) // 2] ^= 1
    return bytes(changed)


def parts(body: bytes) -> list[bytes]:
    """Return a body cut into TRICKLE_PARTS, or into its bytes where there are fewer."""
    size = max(1, -(-len(body) // TRICKLE_PARTS))
    return [body[start : start + size] for start in range(0, len(body), size)]


def bounds(wanted: str | None, size: int) -> tuple[int, int]:
    """Return the first byte, and the one after the last, that a Range header means in a file of `size` bytes."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "bytes=0-")
    assert match, f"not one range of bytes: {wanted}"
    first, last = match.groups()
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1, size) if last else size


def shortened(answer: Answer, wanted: str | None) -> Answer:
    """Return what a server with the first half of the file would have answered to the range `wanted`."""
    if answer.code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return answer
    place = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.header("Content-Range") or "")
    offset, total = map(int, place.groups()) if place else (0, int(answer.header("Content-Length") or 0))
    size = total // 2
    start, stop = bounds(wanted, size)
    if start >= stop and wanted:
        refused = Answer(416, "Range Not Satisfiable", [], b"")
        return refused.with_headers(content_range=f"bytes */{size}", content_length="0")
    if start < offset:
        raise ValueError(f"{wanted}: the range is signed and cannot be changed; store a shorter object instead")
    cut = replace(answer, body=answer.body[start - offset : stop - offset])
    if not wanted:
        return cut.with_headers(content_length=str(size))
    partial = replace(cut, code=206, reason="Partial Content")
    return partial.with_headers(content_range=f"bytes {start}-{stop - 1}/{size}", content_length=str(stop - start))


def refusal(code: int) -> Answer:
    body = f"fault proxy: {code}\n".encode()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    return Answer(code, HTTPStatus(code).phrase, headers, body)
