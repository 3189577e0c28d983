"""The forgeries: what an enemy, or a writer with a fault of its own, may put into a store."""

import itertools
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from actlas.store import EntrySpec
from actlas.store.digest import canonical_json
from actlas.store.documents import seal
from tests.store.tiny import tiny_model, tiny_spec, tiny_task
from tests.torture.forgery import (
    HOLE,
    Change,
    blosc,
    chunks_of,
    forge_file,
    forge_manifest,
    forge_metadata,
    forge_sealed,
    make_shard,
    nested,
    place,
    sealed_and_nested,
    shards,
)
from tests.torture.furnished import MODEL, TASK

PICKLED = Path("unpickled")  # what a pickle makes where it is loaded

_BOMB_BYTES = 512 << 20

Forge = Callable[[Path], object]


def _documents() -> Iterator[tuple[str, Callable[[Path, bytes], object]]]:
    """Every kind of JSON document, and how it is replaced."""
    for name in (
        "zarr.json",
        "catalog.json",
        "limit.json",
        "models/zarr.json",
        f"models/{MODEL}/{TASK}/zarr.json",
        f"models/{MODEL}/model.json",
        f"tasks/{TASK}/labels.json",
    ):
        yield name, lambda root, data, name=name: (root / name).write_bytes(data)
    yield "tombstone", lambda root, data: next(root.glob("models/*/*/*.withdrawn.json")).write_bytes(data)
    yield "manifest.json", lambda root, data: (place(root) / "manifest.json").write_bytes(data)
    for name in ("zarr.json", "provenance.json"):
        yield f"entry/{name}", lambda root, data, name=name: forge_file(root, name, data)


def deep_documents() -> Iterator[tuple[str, Forge]]:
    """JSON nested 200,000 deep, and as deep as may be parsed, just, and not be written again."""
    for name, write in _documents():
        yield f"{name} 200,000 deep", lambda root, write=write: write(root, b'{"attributes":' + nested(200_000) + b"}")
    for depth in range(970, 1000):
        yield (
            f"model.json {depth} deep",
            lambda root, depth=depth: (root / f"models/{MODEL}/model.json").write_bytes(sealed_and_nested(depth)),
        )


def strange_files() -> Iterator[tuple[str, Forge]]:
    """Files that are none: reading them would never end."""
    kinds = {
        "a pipe": os.mkfifo,
        "endless zeros": lambda path: path.symlink_to("/dev/zero"),
        "a directory": Path.mkdir,
        "a loop of links": lambda path: path.symlink_to(path),
    }
    names = ["zarr.json", "catalog.json", f"models/{MODEL}/model.json"]
    for (kind, make), name in itertools.product(kinds.items(), [*names, "manifest.json", "provenance.json"]):
        yield f"{name} is {kind}", lambda root, make=make, name=name: _become(_path(root, name), make)


def _path(root: Path, name: str) -> Path:
    return place(root) / name if name in ("manifest.json", "provenance.json") else root / name


def _become(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


_NAMES = {
    "a path upwards": "../model.json",
    "a path upwards, in between": "hidden_states/../../model.json",
    "an absolute path": "/etc/passwd",
    "a path too deep": "hidden_states/c/0",
    "a NUL": "provenance\0.json",
    "300 characters": "a" * 300,
    "nothing": "",
    "a dot": ".",
    "a case twin": "Provenance.json",
    "a line end": "provenance.json\n",
}


def names() -> Iterator[tuple[str, Forge]]:
    """Names from which no path may be built."""
    for what, name in _NAMES.items():
        listed = {name: {"size": 1, "xxh3_128": "0" * 32}}
        yield (
            f"a file is called {what}",
            lambda root, listed=listed: forge_manifest(root, lambda body: body["files"].update(listed)),
        )
        for part in ("model", "task", "rendering", "position"):
            yield (
                f"the {part} is called {what}",
                lambda root, name=name, part=part: forge_manifest(
                    root, lambda body: body["names"].update({part: name})
                ),
            )
        yield (
            f"model.json says {what}",
            lambda root, name=name: forge_sealed(root / f"models/{MODEL}/model.json", {"name": name}),
        )
        yield f"the catalogue has {what}", lambda root, name=name: _forge_record(root, path=f"models/{MODEL}/{name}")
        yield f"an array is called {what}", lambda root, name=name: forge_metadata_names(root, name)


def _forge_record(root: Path, **change: Any) -> None:
    entries = json.loads((root / "catalog.json").read_bytes())["entries"]
    forge_sealed(root / "catalog.json", {"entries": [entries[0] | change]})


def twins() -> Iterator[tuple[str, Forge]]:
    """Directories beside those of the store, under names that it does not have."""
    for what, twin in {"case twin": str.upper, "copy": "{} (copy)".format, "backup": "{}~".format}.items():
        for level in (f"models/{MODEL}", f"models/{MODEL}/{TASK}", "entry"):
            yield (
                f"a {what} of {level}",
                lambda root, level=level, twin=twin: _double(place(root) if level == "entry" else root / level, twin),
            )


def _double(directory: Path, twin: Callable[[str], str]) -> None:
    shutil.copytree(directory, directory.with_name(twin(directory.name)))


def metadata() -> Iterator[tuple[str, Forge]]:
    """Arrays that format 1 does not have."""
    crc, little = {"name": "crc32c"}, {"name": "bytes", "configuration": {"endian": "little"}}
    pickled = {"name": "numcodecs.pickle", "configuration": {}}
    inner = {
        "a pickle codec": [pickled, crc],
        "an unknown codec": [little, {"name": "rot13"}, crc],
        "no checksum": [little],
        "no codecs": [],
        "a codec without a name": [{}, crc],
        "codecs that are none": 7,
        "big-endian numbers": [{"name": "bytes", "configuration": {"endian": "big"}}, crc],
        "a shard in a shard": [{"name": "sharding_indexed"}, crc],
    }
    for what, codecs in inner.items():
        yield (
            what,
            lambda root, codecs=codecs: forge_metadata(
                root, lambda node: node["codecs"][0]["configuration"].update(codecs=codecs)
            ),
        )
    changes: dict[str, dict[str, Any]] = {
        "Zarr v2": {"zarr_format": 2, "filters": [{"id": "pickle"}], "compressor": None, "dtype": "|O"},
        "objects": {"data_type": "object"},
        "texts": {"data_type": "string"},
        "storage transformers": {"storage_transformers": [{"name": "x"}]},
        "another separator": {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}},
        "keys of Zarr v2": {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}},
        "an irregular grid": {"chunk_grid": {"name": "rectilinear", "configuration": {}}},
        "a shape of one axis": {"shape": [300]},
        "a shape of numbers that are none": {"shape": [3, True, 8.0]},
        "a negative shape": {"shape": [3, -300, 8]},
        "another dtype": {"data_type": "float64"},
        "another logical dtype": {"attributes": {"logical_dtype": "float32"}},
        "no attributes": {"attributes": None},
    }
    for what, change in changes.items():
        yield what, lambda root, change=change: forge_metadata(root, lambda node: node.update(change))
    yield "files of Zarr v2 with pickles", _add_v2_files


def _add_v2_files(root: Path) -> None:
    array = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "fill_value": None, "order": "C"}
    array |= {"compressor": None, "filters": [{"id": "pickle", "protocol": 5}]}
    for directory in (root, place(root), place(root) / "hidden_states"):
        (directory / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
        (directory / ".zarray").write_text(json.dumps(array))
        (directory / "0").write_bytes(pickle.dumps(Payload()))


class Payload:
    """Leaves a directory behind when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(PICKLED),))


def forge_metadata_names(root: Path, name: str) -> None:
    """List an array under another name."""
    path = place(root) / "zarr.json"
    group = json.loads(path.read_bytes())
    arrays = group["consolidated_metadata"]["metadata"]
    arrays[name] = arrays["mean"]
    path.write_text(json.dumps(group))
    forge_manifest(root)


def sizes() -> Iterator[tuple[str, Forge]]:
    """Shapes and chunks that nobody can hold."""
    vast = [1 << 60] * 3
    yield (
        "a shape of 2**60",
        lambda root: forge_metadata(
            root, lambda node: node.update(shape=[3, 1 << 60, 8]), manifest=_shape([3, 1 << 60, 8])
        ),
    )
    yield (
        "a shape of 2**180",
        lambda root: forge_metadata(root, lambda node: node.update(shape=vast), manifest=_shape(vast)),
    )
    yield (
        "one chunk of 2**60 rows",
        lambda root: forge_metadata(
            root, lambda node: _cut(node, [3, 1 << 60, 8], [1, 1 << 60, 8]), manifest=_shape([3, 1 << 60, 8])
        ),
    )
    yield (
        "a chunk of 2**40 bytes",
        lambda root: forge_metadata(root, lambda node: _cut(node, [3, 300, 8], [3, 1 << 36, 8])),
    )
    yield (
        "a shard of 2**17 chunks",
        lambda root: forge_metadata(root, lambda node: _cut(node, [1 << 9, 1 << 8, 8], [1, 1, 8])),
    )
    yield (
        "a shard of 2**16 chunks in a small file",
        lambda root: forge_metadata(root, lambda node: _cut(node, [1 << 8, 1 << 9, 8], [1, 2, 8])),
    )
    yield (
        "2**60 examples in every small array",
        lambda root: forge_metadata(
            root, lambda node: node.update(shape=[1 << 60], chunk_grid=_grid([1 << 60])), "n_tokens"
        ),
    )
    yield (
        "an id of 2**30 bytes",
        lambda root: forge_metadata(
            root, lambda node: node.update(shape=[300, 1 << 30], chunk_grid=_grid([300, 1 << 30])), "example_id"
        ),
    )


def _shape(shape: list[int]) -> Change:
    return lambda body: body["arrays"]["hidden_states"].update(shape=shape)


def _grid(shape: list[int]) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": shape}}


def _cut(node: dict[str, Any], shard: list[int], chunk: list[int]) -> None:
    node["chunk_grid"] = _grid(shard)
    node["codecs"][0]["configuration"]["chunk_shape"] = chunk


def chunks() -> Iterator[tuple[str, Forge]]:
    """Shards whose checksums fit."""
    vast = blosc(bytes(_BOMB_BYTES), 2)
    yield "a chunk of 512 MiB of zeros", lambda root: _forge_chunks(root, lambda chunks: [vast, *chunks[1:]])
    yield (
        "a chunk that says it has 1 GiB",
        lambda root: _forge_chunks(
            root, lambda chunks: [chunks[0][:4] + (1 << 30).to_bytes(4, "little") + chunks[0][8:], *chunks[1:]]
        ),
    )
    yield "a chunk of a few bytes", lambda root: _forge_chunks(root, lambda chunks: [b"\1", *chunks[1:]])
    yield "a chunk of noise", lambda root: _forge_chunks(root, lambda chunks: [bytes(range(200)), *chunks[1:]])
    yield "an index into the next county", lambda root: _forge_chunks(root, lambda chunks: [(1 << 50, 9), *chunks[1:]])
    yield "an index that overflows", lambda root: _forge_chunks(root, lambda chunks: [(9, HOLE - 8), *chunks[1:]])
    yield "a hole", lambda root: _forge_chunks(root, lambda chunks: [(HOLE, HOLE), *chunks[1:]])
    yield (
        "chunks that overlap",
        lambda root: _forge_chunks(root, lambda chunks: [*chunks[:-1], (0, len(chunks[0]) + 4)]),
    )


def _forge_chunks(root: Path, change: Callable[[list[bytes]], list[bytes | tuple[int, int]]]) -> None:
    [shard] = shards(root)
    forge_file(root, f"hidden_states/{shard.name}", make_shard(change(chunks_of(shard.read_bytes(), 6))))


def journals() -> Iterator[tuple[str, Forge]]:
    """Journals of an entry that is about to be written; nothing in staging is believed."""
    key = beside().identity.key
    begin = canonical_json(seal({"key": key, "codec": beside().codec, "maker": {}})) + b"\n"
    lines: dict[str, list[Any]] = {
        "superblocks that are not there": [{"superblock": n, "leaves": {"hidden_states": ["00"]}} for n in range(9)],
        "the wrong superblock": [{"superblock": 7, "leaves": {}}],
        "leaves that are none": [{"superblock": 0, "leaves": 7}],
        "leaves of a number": [{"superblock": 0, "leaves": {"hidden_states": 7}}],
        "leaves of another array": [{"superblock": 0, "leaves": {"../x": ["00"]}}],
        "no superblock": [{}],
    }
    written = {what: begin + b"\n".join(canonical_json(seal(one)) for one in line) for what, line in lines.items()}
    written |= {"noise": bytes(range(256)), "a deep line": begin + nested(200_000), "endless lines": b"\n" * 1_000_000}
    written |= {f"a line {depth} deep": begin + sealed_and_nested(depth) for depth in range(970, 1000, 2)}
    for what, data in written.items():
        yield what, lambda root, data=data: (root / ".staging" / f"{key}.journal").write_bytes(data)


def beside() -> EntrySpec:
    """The entry that is written beside a forgery."""
    return tiny_spec(model=tiny_model("new", base="77"), task=tiny_task(3, "new"))


CASES: dict[str, Callable[[], Iterator[tuple[str, Forge]]]] = {
    "deep documents": deep_documents,
    "strange files": strange_files,
    "names": names,
    "twins": twins,
    "metadata": metadata,
    "sizes": sizes,
    "chunks": chunks,
    "journals": journals,
}
