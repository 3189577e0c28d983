"""The store in tests/data, written by the first release of format 1, reads as it did then."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import xxhash
import zarr

from actlas.store import Store, open_store, open_writer, verify
from tests.store.tiny import REAL, same_bits, tiny_spec, write_tiny

ROOT = Path(__file__).parents[1] / "data" / "store-v1"
IDS = {
    ("base", "boolq"): "03bc32294d82822ec278afbe585be2c3f7b3945a3b2a128926f4aa5beaea57fb",
    ("base", "rte"): "b46fefca36bf56816bd38793cb391769349a2243664cc63a6846b99f3a75e6f7",
    ("tuned", "boolq"): "27f0ccc8cd5734ad2e91ce124bee4ed917ca281c8b9c0d2f9574d027de5b1bb3",
    ("tuned", "rte"): "d62885c168720a33fcc3b7cb632f81281eda60062e911dea38f4876497bee97a",
}
DTYPES = {"base": "bfloat16", "tuned": "float32"}
N_EXAMPLES = {"boolq": 3, "rte": 5}


@pytest.fixture(scope="module")
def v1() -> Store:
    return open_store(ROOT)


def expected_states(model: str, n: int) -> np.ndarray:
    layer, row, feature = np.indices((3, n, 8))
    states = ((17 * layer + 5 * row + 3 * feature + (model == "tuned")) % 64 - 32) / 8
    if model == "base":
        states[1, 0, 2], states[2, 1, 0] = np.nan, -np.inf
    return states.astype(REAL[DTYPES[model]])


def test_it_is_small():
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file()) < 150_000


def test_models_tasks_labels_and_ids_are_those_that_were_written(v1: Store):
    assert {(entry.model, entry.task): entry.id for entry in v1.entries()} == IDS
    assert (v1.models(), v1.tasks(), v1.batch_tokens) == (["base", "tuned"], ["boolq", "rte"], 16384)
    assert v1.labels("base") == {}
    assert v1.labels("tuned") == {"trained_on": ["rte"], "seed": 7}
    tuned = v1.model("tuned")
    assert (tuned.base, tuned.adapter, tuned.norm_width, tuned.n_layers) == ("some/base", "some/adapter", 8, 2)


def test_verification_finds_nothing(v1: Store):
    assert [found.problems for found in verify(v1)] == [()] * 4


@pytest.mark.parametrize(("model", "task"), sorted(IDS))
def test_every_value_is_the_one_that_was_written(v1: Store, model: str, task: str):
    entry, n = v1.entry(model=model, task=task), N_EXAMPLES[task]
    states = expected_states(model, n)
    assert entry.identity.dtype == DTYPES[model]
    assert same_bits(entry.hidden_states[...], states)
    row, feature = np.indices((n, 8))
    norm = ((5 * row + 3 * feature + (model == "tuned")) % 64 - 32) / 8
    assert same_bits(entry.final_norm[...], norm.astype(states.dtype))
    assert entry.layers == (0, 1, 2)
    tokens = [np.array([1, *range(100, 103 + row)], "<i4") for row in range(n)]
    assert entry.n_tokens.tolist() == [len(ids) for ids in tokens]
    assert entry.token_digests == [xxhash.xxh3_128_hexdigest(ids.tobytes()) for ids in tokens]
    finite = np.isfinite(states.astype("f4"))
    assert entry.nonfinite.tolist() == (~finite).sum(axis=2).tolist()
    assert entry.max_abs.tolist() == np.abs(states.astype("f4")).max(axis=2, where=finite, initial=0).tolist()
    whole = finite.all(axis=2)
    for layer in range(3):
        np.testing.assert_allclose(entry.mean[layer], states[layer, whole[layer]].astype("f8").mean(axis=0), rtol=1e-12)
    assert entry.provenance == {"actlas": "0.1.0", "device": "cpu"}


def test_tasks_keep_their_texts_and_columns(v1: Store):
    entry = v1.entry(model="base", task="rte")
    task = entry.read_task()
    assert task.example_ids == entry.example_ids
    assert task.example_ids[0] == "c38e2003662d2dec28207163a3b0df55"
    assert task.column("prompt")[:2] == ["Größe 0?\n", "Größe 1?\n"]
    assert task.column("target") == ["nein", "ja", "nein", "ja", "nein"]
    assert task.column("template_id") == [None, "t1", "t0", "t1", "t0"]
    assert task.column("label") == [0, None, 2, 3, 4]
    assert task.column("weight") == [0.0, None, 0.5, 0.75, 1.0]
    assert task.column("hard") == [False, None, True, True, True]


def test_zarr_alone_reads_it():
    root = zarr.open_group(ROOT, mode="r")
    array = root["models/tuned/rte/raw-last-ba769370/hidden_states"]
    assert same_bits(array[...], expected_states("tuned", 5))


def test_a_copy_takes_new_entries_beside_the_old_ones(tmp_path: Path):
    shutil.copytree(ROOT, tmp_path / "copy.act")
    added = write_tiny(open_writer(tmp_path / "copy.act"), tiny_spec())
    ids = {entry.id for entry in open_store(tmp_path / "copy.act").entries()}
    assert ids == {*IDS.values(), added.id}
