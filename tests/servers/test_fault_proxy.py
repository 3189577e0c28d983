"""The fault proxy breaks what it says, and nothing else."""

import threading
import time
from collections.abc import Iterator

import obstore
import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from tests.servers.clients import KEY, SUFFIX, http_store, part, suffix, swift_store, whole
from tests.servers.fault import CUT, DROP, FLIP, FLIP_UPLOAD, SHORT, STALL, STALL_HALFWAY, TRICKLE, Fault, status
from tests.servers.fault_proxy import FaultProxy, fault_proxy
from tests.servers.swift import S3


@pytest.fixture
def proxy(served: str) -> Iterator[FaultProxy]:
    with fault_proxy(served) as running:
        yield running


def break_always(proxy: FaultProxy, fault: Fault) -> None:
    proxy.rule = lambda method, path, nth: fault


def test_a_fault_proxy_without_a_rule_changes_nothing(proxy: FaultProxy, body: bytes):
    store = http_store(proxy.url)
    assert (whole(store), part(store, 5, 9), suffix(store)) == (body, body[5:9], body[-100:])
    assert obstore.head(store, KEY)["size"] == len(body)
    assert [request.range for request in proxy.requests] == [None, "bytes=5-8", "bytes=-100", None]
    assert proxy.count("/lab.act/c.0.0") == 4


@pytest.mark.parametrize(("code", "error"), [(403, PermissionDeniedError), (404, FileNotFoundError)])
def test_a_refusal_reaches_the_client_at_once(proxy: FaultProxy, code: int, error: type[Exception]):
    break_always(proxy, status(code))
    with pytest.raises(error, match=f"fault proxy: {code}"):
        whole(http_store(proxy.url))
    assert proxy.count("/lab.act/c.0.0") == 1


@pytest.mark.parametrize("fault", [status(500), status(503), CUT, DROP, STALL, STALL_HALFWAY], ids=str)
def test_what_may_pass_is_tried_again_and_then_reported(proxy: FaultProxy, fault: Fault):
    break_always(proxy, fault)
    with pytest.raises(GenericError, match=f"fault proxy: {fault.code}" if fault.code else "HTTP error"):
        whole(http_store(proxy.url, timeout="300ms"))
    assert proxy.count("/lab.act/c.0.0") == 2


@pytest.mark.parametrize("fault", [status(503), CUT, DROP, STALL, STALL_HALFWAY], ids=str)
def test_a_rule_can_break_the_first_request_alone(proxy: FaultProxy, fault: Fault, body: bytes):
    proxy.rule = lambda method, path, nth: fault if nth == 1 else None
    assert whole(http_store(proxy.url, timeout="300ms")) == body


def test_a_short_answer_is_that_of_a_shorter_file(proxy: FaultProxy, body: bytes):
    break_always(proxy, SHORT)
    store, half = http_store(proxy.url), body[:5_000]
    assert obstore.head(store, KEY)["size"] == 5_000
    assert whole(store) == half
    assert part(store, 10, 20) == half[10:20]
    assert part(store, 4_990, 5_010) == half[-10:]
    assert suffix(store) == half[-100:]
    assert obstore.get(store, KEY, options=SUFFIX).meta["size"] == 5_000
    with pytest.raises(GenericError, match="416 Range Not Satisfiable"):
        part(store, 5_000, 5_010)


def test_a_flipped_answer_has_one_wrong_bit(proxy: FaultProxy, body: bytes):
    break_always(proxy, FLIP)
    received = whole(http_store(proxy.url))
    assert [(a ^ b, place) for place, (a, b) in enumerate(zip(received, body, strict=True)) if a != b] == [(1, 5_000)]


def test_a_trickling_answer_is_whole_and_takes_its_time(proxy: FaultProxy, body: bytes):
    break_always(proxy, TRICKLE)
    began = time.monotonic()
    assert whole(http_store(proxy.url)) == body
    assert time.monotonic() - began > 0.9


def test_a_flipped_upload_is_refused_by_swift(s3: S3, body: bytes):
    s3.create_bucket("flipped")
    with fault_proxy(s3.endpoint) as proxy:
        proxy.rule = lambda method, path, nth: FLIP_UPLOAD if method == "PUT" else None
        store = swift_store(s3, "flipped", endpoint=proxy.url)
        with pytest.raises(GenericError, match="BadDigest"):  # Swift compares what it got with what was signed
            obstore.put(store, KEY, body)
        assert obstore.list(store).collect() == []


def test_a_fault_proxy_leaves_no_thread_behind(served: str, body: bytes):
    before = threading.active_count()
    with fault_proxy(served) as proxy:
        break_always(proxy, STALL)
        with pytest.raises(GenericError, match="HTTP error"):
            whole(http_store(proxy.url, timeout="100ms"))
        proxy.rule = lambda method, path, nth: None
        assert whole(http_store(proxy.url)) == body
    assert threading.active_count() == before


def test_signed_requests_pass_the_fault_proxy(s3: S3, body: bytes):
    s3.create_bucket("proxied")
    with fault_proxy(s3.endpoint) as proxy:
        store = swift_store(s3, "proxied", endpoint=proxy.url)
        obstore.put(store, KEY, body)
        assert (whole(store), part(store, 5, 9), suffix(store)) == (body, body[5:9], body[-100:])
        assert [found["path"] for found in obstore.list(store).collect()] == [KEY]
        break_always(proxy, SHORT)
        assert (whole(store), part(store, 4_990, 5_010)) == (body[:5_000], body[4_990:5_000])


def ask_for_a_short_suffix(s3: S3, bucket: str) -> None:
    with fault_proxy(s3.endpoint) as proxy:
        break_always(proxy, SHORT)
        with pytest.raises(GenericError, match="HTTP error"):
            suffix(swift_store(s3, bucket, endpoint=proxy.url))


def test_a_signed_suffix_cannot_be_shortened_and_the_proxy_says_so(s3: S3, body: bytes):
    s3.create_bucket("signed")
    obstore.put(swift_store(s3, "signed"), KEY, body)
    with pytest.raises(ExceptionGroup, match="in the fault proxy") as raised:
        ask_for_a_short_suffix(s3, "signed")
    assert "store a shorter object" in str(raised.value.exceptions[0])
