"""What tests of several folders share."""

from collections.abc import Iterator

import pytest

from tests.servers import swift


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test find what another computed."""
    monkeypatch.setenv("ACTLAS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def s3() -> Iterator[swift.S3]:
    """An empty Swift; each test makes buckets of its own."""
    if reason := swift.missing():
        pytest.skip(reason)
    with swift.swift_s3() as running:
        yield running
