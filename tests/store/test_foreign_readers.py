"""Programs that know nothing of actlas open a store: xarray as one tree, tensorstore array by array."""

import dataclasses
import hashlib
import importlib.util
import json
import subprocess
import sys
import sysconfig
from typing import Any

import pytest

from actlas.store import CODECS, Entry, Store, StoreWriter, withdraw, write_limit
from tests.store.tiny import REAL, folder, many_chunks, tiny_model, tiny_spec, tiny_task, write_tiny

# Neither the environment nor site-packages' .pth files reach the child, so no editable install is found; and a wheel that
# lies among the packages is blocked. What it prints is JSON.
STRANGER = """
import json, sys
sys.path += json.loads(sys.argv[1])
sys.modules["actlas"] = None
try:
    import actlas.store
except ModuleNotFoundError:
    pass
else:
    sys.exit("actlas can be imported")
"""


def stranger(program: str, *arguments: object) -> Any:
    """Run a program in a Python that has the same packages, but no actlas, and return what it printed."""
    packages = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", STRANGER + program, json.dumps(packages), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


def digest(entry: Entry, name: str = "hidden_states") -> str:
    return hashlib.sha256(getattr(entry, name)[...].tobytes()).hexdigest()


OPEN_TREE = """
import hashlib, warnings
import xarray
from zarr.errors import ZarrUserWarning

warnings.simplefilter("error")
# zarr says of every file beside the groups, such as catalog.json and tasks, that it is none of them.
beside = r"Object at (tasks|\\.staging|\\.trash|[^/]*\\.json) is not recognized as a component of a Zarr hierarchy"
warnings.filterwarnings("ignore", beside, ZarrUserWarning)

tree = xarray.open_datatree(sys.argv[2], engine="zarr", consolidated=False)
found = {}
for node in tree.subtree:
    if "hidden_states" not in node:
        continue  # a model, a task
    states, norm = node["hidden_states"], node.get("final_norm")
    found[node.path] = {
        "dims": states.dims,
        "layers": node["layer"].values.tolist(),
        "logical_dtype": states.attrs["logical_dtype"],
        "states": hashlib.sha256(states.values.tobytes()).hexdigest(),
        "norm": None if norm is None else hashlib.sha256(norm.values.tobytes()).hexdigest(),
        "ids": [bytes(row).hex() for row in node["example_id"].values],
        "n_tokens": node["n_tokens"].values.tolist(),
        "nonfinite": node["nonfinite"].values.tolist(),
        "names": node.attrs["actlas"]["names"],
    }
print(json.dumps(found))
"""


def test_xarray_opens_a_whole_store_as_a_tree(full: Store):
    store = StoreWriter(full.location)
    for dtype in REAL:
        model = tiny_model(f"no-norm-{dtype}", norm_width=None, base="cc")
        with many_chunks():
            write_tiny(store, tiny_spec(model=model, task=tiny_task(300), dtype=dtype, layers=(0, 2)))
    withdraw(store, full.entry(model="pythia", task="rte").path, why="test")
    write_limit(store.disk, store.root, 1 << 40)
    entries = {f"/{entry.path}": entry for entry in full.entries()}
    found = stranger(OPEN_TREE, full.location)
    assert found.keys() == entries.keys()
    for path, entry in entries.items():
        assert found[path] == {
            "dims": ["layer", "example", "feature"],
            "layers": list(entry.layers),
            "logical_dtype": entry.identity.dtype,
            "states": digest(entry),
            "norm": digest(entry, "final_norm") if entry.has_final_norm else None,
            "ids": entry.example_ids,
            "n_tokens": entry.n_tokens.tolist(),
            "nonfinite": entry.nonfinite.tolist(),
            "names": entry.manifest.names,
        }


OPEN_ARRAYS = """
import hashlib
import tensorstore

found = {}
for entry in sys.argv[2:]:
    found[entry] = {}
    for name in ("hidden_states", "final_norm"):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{entry}/{name}"}}
        array = tensorstore.open(spec, read=True).result()
        values = array.read().result()
        row = array[..., 257, :].read().result()
        found[entry][name] = {
            "dims": array.domain.labels,
            "dtype": str(values.dtype),
            "values": hashlib.sha256(values.tobytes()).hexdigest(),
            "row": row.tobytes().hex(),
        }
print(json.dumps(found))
"""


@pytest.mark.skipif(importlib.util.find_spec("tensorstore") is None, reason="needs tensorstore")
@pytest.mark.parametrize("dtype", REAL)
def test_tensorstore_reads_every_codec(store: StoreWriter, dtype: str):
    specs = [dataclasses.replace(tiny_spec(task=tiny_task(300, codec), dtype=dtype), codec=codec) for codec in CODECS]
    entries = {str(folder(entry)): entry for entry in (write_tiny(store, spec) for spec in specs)}
    found = stranger(OPEN_ARRAYS, *entries)
    for path, entry in entries.items():
        for name, dims in (
            ("hidden_states", ["layer", "example", "feature"]),
            ("final_norm", ["example", "norm_feature"]),
        ):
            assert found[path][name] == {
                "dims": dims,
                "dtype": "uint16" if dtype == "bfloat16" else dtype,
                "values": digest(entry, name),
                "row": getattr(entry, name)[..., 257, :].tobytes().hex(),
            }, (path, name)
