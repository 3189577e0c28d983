"""The servers of the how-to page serve what they should and refuse what they should."""

import gzip
import json
import os
import urllib.request
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, GenericError, PermissionDeniedError
from obstore.store import from_url

from tests.servers import nginx as web
from tests.servers.clients import http_store, part, suffix, swift_store, whole
from tests.servers.page import block
from tests.servers.process import started
from tests.servers.swift import S3, share_commands


def test_nginx_serves_files_whole_and_in_part(served: str, body: bytes):
    store = http_store(served)
    assert whole(store) == body
    assert part(store, 5, 9) == body[5:9]
    assert suffix(store) == body[-100:]
    assert obstore.head(store, "c.0.0")["size"] == len(body)
    assert obstore.get(store, "c.0.0").attributes == {"Content-Type": "application/octet-stream"}
    assert obstore.get(store, "catalog.json").attributes == {"Content-Type": "application/json"}


def test_nginx_compresses_the_catalogue_for_those_who_ask(served: str):
    ask = urllib.request.Request(f"{served}/lab.act/catalog.json", headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(ask) as answer:
        packed = answer.read()
    assert json.loads(gzip.decompress(packed)) == ["entry"] * 1000


def test_nginx_refuses_to_write_and_to_list(served: str, body: bytes):
    store = http_store(served)
    with pytest.raises(PermissionDeniedError, match="403 Forbidden"):
        obstore.put(store, "new", b"x")
    with pytest.raises(PermissionDeniedError, match="403 Forbidden"):
        obstore.delete(store, "c.0.0")
    with pytest.raises(PermissionDeniedError, match="403 Forbidden"):
        obstore.list(store).collect()
    assert whole(store) == body


@pytest.mark.parametrize(
    "path",
    [
        "/lab.act",
        "/lab.act/",
        "/lab.act/.staging/c.0.0",
        "/lab.act/%2Estaging/c.0.0",
        "/lab.act/x/../.staging/c.0.0",
        "/lab.act/models/.trash/x/c.0.0",
        "/.git",
    ],
)
def test_nginx_hides_directories_and_names_that_begin_with_a_dot(served: str, path: str):
    with pytest.raises(urllib.request.HTTPError, match="404") as refused:
        urllib.request.urlopen(served + path)
    refused.value.close()


@pytest.mark.skipif(web.missing() is not None, reason=str(web.missing()))
def test_an_nginx_that_does_not_come_up_says_what_its_error_log_says(tmp_path: Path):
    config = "server {\nlisten 80;\nserver_name x;\nroot /srv;\nnonsense on;\n}"
    with pytest.raises(RuntimeError, match='unknown directive "nonsense"'), web.nginx(tmp_path, config):
        pass


def test_swift_keeps_what_it_is_given(s3: S3, body: bytes):
    s3.create_bucket("kept")
    store = swift_store(s3, "kept")
    obstore.put(store, "a/c.0.0", body)
    large = os.urandom(12 * 2**20)
    obstore.put(store, "large", large)  # in parts of 5 MiB
    assert whole(store, "a/c.0.0") == body
    assert bytes(obstore.get_range(store, "a/c.0.0", start=9_990, length=100)) == body[-10:]
    assert whole(store, "large") == large
    assert obstore.head(store, "large")["size"] == len(large)
    assert [found["path"] for found in obstore.list(store).collect()] == ["a/c.0.0", "large"]
    obstore.delete(store, ["a/c.0.0", "large"])
    assert obstore.list(store).collect() == []
    with pytest.raises(FileNotFoundError, match="NoSuchKey"):
        obstore.get(store, "large")


def test_the_environment_alone_leads_to_a_bucket(s3: S3, monkeypatch: pytest.MonkeyPatch, body: bytes):
    s3.create_bucket("found")
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    obstore.put(from_url("s3://found"), "lab.act/c.0.0", body)
    assert whole(from_url("s3://found/lab.act")) == body


def test_the_acl_of_the_page_lets_a_reader_read_and_nothing_else(s3: S3, body: bytes):
    s3.create_bucket("shared")
    owner, reader = swift_store(s3, "shared"), swift_store(s3, "shared", reader=True)
    large = os.urandom(6 * 2**20)
    obstore.put(owner, "c.0.0", body)
    obstore.put(owner, "large", large)
    with pytest.raises(PermissionDeniedError, match="AccessDenied"):
        obstore.get(reader, "c.0.0")
    s3.share_bucket("shared")
    assert whole(reader) == body
    assert whole(reader, "large") == large
    assert [found["path"] for found in obstore.list(reader).collect()] == ["c.0.0", "large"]
    for path, data in (("new", b"x"), ("c.0.0", b"x"), ("new", large)):
        with pytest.raises(PermissionDeniedError, match="AccessDenied"):
            obstore.put(reader, path, data)
    with pytest.raises(GenericError, match="AccessDenied"):
        obstore.delete(reader, "c.0.0")
    assert whole(owner) == body


def test_a_reader_of_the_bucket_alone_cannot_read_what_was_put_in_parts(s3: S3, body: bytes):
    s3.create_bucket("halfshared")
    owner, reader = swift_store(s3, "halfshared"), swift_store(s3, "halfshared", reader=True)
    obstore.put(owner, "c.0.0", body)
    obstore.put(owner, "large", bytes(6 * 2**20))
    s3.owner_shell(share_commands("halfshared").replace("{halfshared,halfshared+segments}", "halfshared"))
    assert whole(reader) == body
    with pytest.raises(AlreadyExistsError, match="409 Conflict"):  # so obstore reads 409
        obstore.get(reader, "large")


def test_the_policy_of_the_page_grants_reading_and_nothing_else():
    policy = json.loads(block("json", "s3:GetObject"))
    granted = {statement["Action"]: statement["Resource"] for statement in policy["Statement"]}
    assert granted == {"s3:GetObject": "arn:aws:s3:::bucket/lab.act/*", "s3:ListBucket": "arn:aws:s3:::bucket"}


def test_a_process_ends_with_its_block(tmp_path: Path):
    with started(["sleep", "60"], log=tmp_path / "log") as process:
        assert process.poll() is None
    assert process.poll() is not None
