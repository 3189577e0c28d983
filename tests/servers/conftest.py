"""The nginx of these tests; Swift is in tests/conftest.py."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.nginx import missing, nginx

PATHS = ("lab.act/c.0.0", "lab.act/.staging/c.0.0", "lab.act/models/.trash/x/c.0.0", ".git")


@pytest.fixture(scope="session")
def body() -> bytes:
    return os.urandom(10_000)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> Iterator[str]:
    """The URL of an nginx with `body` under every one of PATHS, and a catalogue."""
    if reason := missing():
        pytest.skip(reason)
    root: Path = tmp_path_factory.mktemp("served")
    for path in PATHS:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(body)
    (root / "lab.act" / "catalog.json").write_text(json.dumps(["entry"] * 1000), "utf-8")
    with nginx(root) as url:
        yield url
