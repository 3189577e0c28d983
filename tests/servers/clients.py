"""Clients of the servers, as actlas makes them, but quick to give up."""

from datetime import timedelta

import obstore
from obstore.store import HTTPStore, ObjectStore, S3Store

from tests.servers.swift import S3

KEY = "c.0.0"
SUFFIX = {"range": {"suffix": 100}}
ONE_RETRY = {"max_retries": 1, "backoff": {"init_backoff": timedelta(milliseconds=1)}}


def http_store(url: str, timeout: str = "10s") -> HTTPStore:
    return HTTPStore(f"{url}/lab.act", client_options={"allow_http": True, "timeout": timeout}, retry_config=ONE_RETRY)


def swift_store(s3: S3, bucket: str, *, reader: bool = False, endpoint: str | None = None) -> S3Store:
    config = s3.environment(reader=reader) | ({"AWS_ENDPOINT_URL": endpoint} if endpoint else {})
    return S3Store(bucket, config=config, retry_config=ONE_RETRY)


def whole(store: ObjectStore, path: str = KEY) -> bytes:
    return bytes(obstore.get(store, path).bytes())


def part(store: ObjectStore, start: int, stop: int) -> bytes:
    return bytes(obstore.get_range(store, KEY, start=start, end=stop))


def suffix(store: ObjectStore) -> bytes:
    return bytes(obstore.get(store, KEY, options=SUFFIX).bytes())
