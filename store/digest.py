"""Digests: canonical JSON, file digests, and the digest of an array's decoded content."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

LEAF_ROWS = 2048  # rows of one leaf of an array digest, and of one superblock; fixed by format 1

_READ_BYTES = 1 << 22


def canonical_json(value: object) -> bytes:
    """Return the one UTF-8 encoding of a JSON value: sorted keys, no spaces, no NaN.

    Raises
    ------
    ValueError
        For NaN, infinities and text that UTF-8 cannot hold (lone surrogates).
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def json_digest(value: object) -> str:
    """Return the SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def text_digest(*parts: str) -> str:
    """Return the first 128 bits of the SHA-256 of the canonical JSON list of `parts`, as 32 digits."""
    return json_digest(list(parts))[:32]


def file_digest(path: Path) -> str:
    """Return the XXH3-128 of a file's bytes, as 32 hexadecimal digits."""
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def bytes_digest(data: bytes | memoryview) -> str:
    """Return the XXH3-128 of `data`, as 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(data)


def leaf_digests(block: npt.NDArray[Any]) -> list[bytes]:
    """Return the leaf digests of one block of at most `LEAF_ROWS` rows.

    A block of three dimensions (layer, row, feature) has one leaf a layer, any other block is one leaf.
    A leaf digest is the XXH3-128 of its little-endian C-order bytes.
    """
    little = block.astype(block.dtype.newbyteorder("<"), copy=False)
    leaves: Iterable[npt.NDArray[Any]] = little if block.ndim == 3 else [little]
    return [xxhash.xxh3_128_digest(np.ascontiguousarray(leaf).view(np.uint8).data) for leaf in leaves]


def join_leaves(leaves: Iterable[bytes]) -> str:
    """Return the digest of an array from its leaves, superblock after superblock, layer after layer."""
    return bytes_digest(b"".join(leaves))
