"""How a store is forged: every checksum fits, and one thing is wrong that no writer of ours would have written."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import crc32c
import numcodecs.blosc
import numpy as np

from actlas.store.digest import bytes_digest, canonical_json, file_digest, json_digest
from actlas.store.documents import seal
from actlas.store.manifest import list_files
from tests.torture.furnished import MODEL, TASK

HOLE = (1 << 64) - 1

Change = Callable[[Any], object]


def place(root: Path) -> Path:
    """Return the directory of the entry."""
    [found] = [path.parent for path in root.glob(f"models/{MODEL}/{TASK}/*/manifest.json")]
    return found


def forge_manifest(root: Path, change: Change = lambda _: None) -> None:
    """Describe the entry's files as they are, change the manifest, and make key, id and checksum fit."""
    path = place(root) / "manifest.json"
    body = json.loads(path.read_bytes())
    del body["checksum"]
    for name in list_files(path.parent):
        file = path.parent / name
        if file.is_file() and not file.is_symlink():
            body["files"][name] = {"size": file.stat().st_size, "xxh3_128": file_digest(file)}
    change(body)
    body["key"] = json_digest({"format": 1, "identity": body["identity"]})
    body["id"] = json_digest({"format": 1, "identity": body["identity"], "arrays": body["arrays"]})
    path.write_bytes(json.dumps(seal(body)).encode())


def forge_metadata(root: Path, change: Change, name: str = "hidden_states", manifest: Change = lambda _: None) -> None:
    """Change the metadata of an array in both its places, and what the manifest says of them."""
    path = place(root) / "zarr.json"
    group = json.loads(path.read_bytes())
    node = group["consolidated_metadata"]["metadata"][name]
    change(node)
    path.write_text(json.dumps(group))
    (path.parent / name / "zarr.json").write_text(json.dumps(node))
    forge_manifest(root, manifest)


def forge_file(root: Path, name: str, data: bytes) -> None:
    """Replace or add a file of the entry; the manifest lists it."""
    (place(root) / name).parent.mkdir(exist_ok=True)
    (place(root) / name).write_bytes(data)
    forge_manifest(root)


def forge_sealed(path: Path, change: Mapping[str, Any]) -> None:
    """Change a sealed JSON file and seal it again."""
    body = json.loads(path.read_bytes())
    body.pop("checksum", None)
    path.write_bytes(canonical_json(seal(body | dict(change))))


def nested(depth: int) -> bytes:
    """Return lists in lists, as JSON."""
    return b"[" * depth + b"]" * depth


def sealed_and_nested(depth: int) -> bytes:
    """Return a sealed JSON object that is nested deeply; its checksum fits."""
    value = b'{"deep":' + nested(depth)
    return value + b',"checksum":"' + bytes_digest(value + b"}").encode() + b'"}'


def shards(root: Path) -> list[Path]:
    return sorted((place(root) / "hidden_states").glob("c.*"))


def make_shard(chunks: Sequence[bytes | tuple[int, int]]) -> bytes:
    """Return a shard of chunks, each given as what its checksum covers, or as the index entry that it gets instead."""
    body, index = b"", []
    for chunk in chunks:
        if isinstance(chunk, tuple):
            index.append(chunk)
            continue
        index.append((len(body), len(chunk) + 4))
        body += chunk + _crc(chunk)
    table = np.array(index, "<u8").tobytes()
    return body + table + _crc(table)


def chunks_of(shard: bytes, n_chunks: int) -> list[bytes]:
    """Return what the checksums of a shard's chunks cover."""
    index = np.frombuffer(shard[-16 * n_chunks - 4 : -4], "<u8").reshape(-1, 2).tolist()
    return [shard[start : start + length - 4] for start, length in index]


def blosc(data: bytes, itemsize: int) -> bytes:
    """Compress as the store does."""
    numcodecs.blosc.set_nthreads(1)
    encoded: bytes = numcodecs.blosc.Blosc("zstd", 1, numcodecs.blosc.SHUFFLE).encode(
        np.frombuffer(data, f"u{itemsize}")
    )
    return encoded


def _crc(data: bytes) -> bytes:
    return crc32c.crc32c(data).to_bytes(4, "little")
