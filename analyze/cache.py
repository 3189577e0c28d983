"""What was computed before: the rows of a block by what they depend on, in the user's cache directory."""

import contextlib
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from actlas.analyze.blocks import Block
from actlas.analyze.question import Question
from actlas.store.digest import bytes_digest, json_digest

DIRECTORY = "ACTLAS_CACHE"  # the variable that names another directory; empty: none


def default_directory() -> Path | None:
    """Return where results are kept: $ACTLAS_CACHE, or else actlas/ in the user's cache directory."""
    named = os.environ.get(DIRECTORY)
    if named is not None:
        return Path(named) if named else None
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "actlas"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "actlas"


@cache
def code_version() -> str:
    """Return a digest of the code that makes the numbers: after an update everything is computed anew."""
    hasher = hashlib.sha256(np.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        hasher.update(path.read_bytes())
    return hasher.hexdigest()


@dataclass(frozen=True)
class Cache:
    """Rows of blocks, each in a file of its own; a file that is damaged, or of other code, is passed over.

    Attributes
    ----------
    directory : Path or None
        Where; None keeps nothing.
    """

    directory: Path | None

    def find(self, block: Block, asked: Question) -> list[dict[str, Any]] | None:
        """Return the rows of a block where they were computed before."""
        if self.directory is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            digest, data = self._path(self.directory, block, asked).read_bytes().split(b"\n", 1)
            if digest.decode() == bytes_digest(data):
                rows: list[dict[str, Any]] = json.loads(data)
                return rows
        return None

    def keep(self, block: Block, asked: Question, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of a block; a directory that cannot be written to keeps nothing."""
        if self.directory is None:
            return
        data = json.dumps(rows, separators=(",", ":")).encode()
        path = self._path(self.directory, block, asked)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(bytes_digest(data).encode() + b"\n" + data)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    @staticmethod
    def _path(directory: Path, block: Block, asked: Question) -> Path:
        about = {
            "code": code_version(),
            "kind": block.kind,
            "entries": [record.id for record in block.records],
            **asked.about_a_pair,
        }
        key = json_digest(about)
        return directory / key[:2] / key[2:]
