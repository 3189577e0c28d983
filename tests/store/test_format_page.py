"""docs/reference/format.md says what the code does."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from actlas.store import EntryIdentity, Model, ModelIdentity
from actlas.store.digest import canonical_json, join_leaves, leaf_digests
from actlas.store.encoder import chunk_and_shard
from actlas.store.identity import entry_id
from actlas.store.manifest import Manifest
from actlas.store.spec import ArraySpec

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "format.md").read_text("utf-8")


def test_its_worked_example_is_what_the_code_computes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    first, second = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    exec(first, names)
    identity = EntryIdentity(**names["identity"] | {"layers": (0, 1)})
    assert entry_id(identity, names["arrays"]) in first
    assert identity.key in first
    assert join_leaves(leaf_digests(names["bits"])) == names["arrays"]["hidden_states"]["digest"]
    exec(second, names)
    assert names["manifest"]["names"]["model"] == "tuned"


def test_it_names_every_field_of_every_json_file():
    fields = {
        field.name for kind in (EntryIdentity, Model, ModelIdentity, Manifest) for field in dataclasses.fields(kind)
    }
    catalog = json.loads((ROOT / "tests/data/store-v1/catalog.json").read_text())
    manifest = json.loads(next(ROOT.glob("tests/data/store-v1/models/*/*/*/manifest.json")).read_text())
    fields |= {*catalog, *catalog["entries"][0], *manifest}
    assert {name for name in fields if f"`{name}`" not in PAGE} == set()


def test_its_numbers_are_canonical_json():
    assert canonical_json([1.0, 0.1, 1e-7, 1e16, 1e15, 1e-4, 2**60]) == (
        b"[1.0,0.1,1e-07,1e+16,1000000000000000.0,0.0001,1152921504606846976]"
    )
    assert canonical_json('"\\\b\t\n\f\r\x00\x1f\x7f/ü') == '"\\"\\\\\\b\\t\\n\\f\\r\\u0000\\u001f\x7f/ü"'.encode()


@pytest.mark.parametrize("n", [1, 255, 256, 257, 2047, 2048, 2049, 100_000])
@pytest.mark.parametrize("codec", ["none", "blosc-zstd"])
@pytest.mark.parametrize(
    ("n_layers", "width", "itemsize"), [(33, 4096, 2), (3, 8, 4), (1, 10**7, 2), (200, 64, 2), (13, 896, 2)]
)
def test_its_chunk_rule_is_the_codes(n: int, codec: str, n_layers: int, width: int, itemsize: int):
    fitting = [2**power for power in range(9) if 2**power * width * itemsize <= 134217728]
    if codec != "none":
        fitting += [2**power for power in range(12) if 2**power * width * itemsize <= 1048576]
    rows = min(max(fitting), n)
    shard_rows = min(2048, int(np.ceil(n / rows)) * rows)
    layers = max(1, min(n_layers, 16777216 // (shard_rows * width * itemsize)))
    assert cut((n_layers, n, width), itemsize, codec) == ((1, rows, width), (layers, shard_rows, width))
    assert cut((n, width), itemsize, codec) == ((rows, width), (shard_rows, width))


def cut(shape: tuple[int, ...], itemsize: int, codec: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    array = ArraySpec(shape=shape, dtype="any", dimensions=("any",) * len(shape), superblock_rows=2048)
    return chunk_and_shard(array, itemsize, codec)
