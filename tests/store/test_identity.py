"""Keys and ids: what they depend on, and what they do not."""

import dataclasses
import os
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest

import actlas.store.encoder
from actlas.store import EntryIdentity, StoreWriter, create_store, example_id
from actlas.store.digest import canonical_json, join_leaves, json_digest, leaf_digests, text_digest
from tests.store.tiny import child_writes, folder, long_spec, tiny_model, tiny_spec, tiny_task, tiny_values, write_tiny

IDENTITY = EntryIdentity(
    model_digest="11" * 32,
    tokenizer_digest="22" * 32,
    task_digest="33" * 32,
    rendering_digest="44" * 32,
    plan_digest="55" * 32,
    position="last",
    layers=(0, 1),
    dtype="bfloat16",
)


def test_the_example_id_is_fixed_by_its_formula():
    assert example_id("rte", "Ist 2 größer als 1?", "ja") == "c98b0d3670a515a9ca3d99604478ac91"
    assert text_digest("a", "b") != text_digest("ab", "") != text_digest("", "ab")


def test_canonical_json_sorts_keys_and_keeps_utf8():
    assert canonical_json({"b": [1, 2.5, None, True], "a": "ü\n"}) == '{"a":"ü\\n","b":[1,2.5,null,true]}'.encode()
    for value in (float("nan"), "\ud800"):
        with pytest.raises(ValueError, match=r"JSON compliant|surrogates"):
            canonical_json(value)


def test_leaf_digests_do_not_see_byte_order_or_memory_layout():
    block = np.arange(24, dtype="<f4").reshape(2, 3, 4)
    assert leaf_digests(block) == leaf_digests(block.astype(">f4")) == leaf_digests(np.asfortranarray(block))
    assert len(leaf_digests(block)) == 2
    assert len(leaf_digests(block[0])) == 1
    assert len(join_leaves(leaf_digests(block))) == 32


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((f"{name}_digest", "66" * 32) for name in ("model", "tokenizer", "task", "rendering", "plan")),
        ("position", "mean"),
        ("layers", (0,)),
        ("dtype", "float16"),
        ("outputs", True),
    ],
)
def test_the_key_depends_on_every_field(field: str, value: object):
    assert dataclasses.replace(IDENTITY, **{field: value}).key != IDENTITY.key


def test_the_key_is_the_digest_of_format_and_identity():
    with_outputs = dataclasses.replace(IDENTITY, outputs=True)
    assert {field.name for field in dataclasses.fields(IDENTITY)} == set(with_outputs.as_json())
    assert with_outputs.as_json() == IDENTITY.as_json() | {"outputs": True}
    assert IDENTITY.key == json_digest({"format": 1, "identity": IDENTITY.as_json()})
    assert IDENTITY.key == "f5487b9087d9e39d18d7fa8a48cf4a63eff945150a75be5b45a3c00647823ef2"


def test_the_id_changes_with_one_bit_anywhere(tmp_path: Path):
    spec = tiny_spec()
    hidden_states, final_norm = tiny_values(spec)
    ids = {write_tiny(create_store(tmp_path / "same.act"), spec).id}
    for number, (array, at) in enumerate((("h", (0, 0, 0)), ("h", (2, 4, 7)), ("f", (4, 5)))):
        changed = {"h": hidden_states.copy(), "f": final_norm.copy()}
        changed[array].view("u2")[at] ^= 1
        entry = write_tiny(create_store(tmp_path / f"{number}.act"), spec, (changed["h"], changed["f"]))
        assert entry.key == spec.identity.key
        ids.add(entry.id)
    tokens = dataclasses.replace(spec, n_tokens=[9, *spec.n_tokens[1:]])
    ids.add(write_tiny(create_store(tmp_path / "tokens.act"), tokens).id)
    token_ids = dataclasses.replace(spec, token_digests=["f" * 32, *spec.token_digests[1:]])
    ids.add(write_tiny(create_store(tmp_path / "token_ids.act"), token_ids).id)
    assert len(ids) == 6


def test_key_and_id_do_not_know_codec_chunks_time_host_provenance_and_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spec = tiny_spec(task=tiny_task(300))
    first = write_tiny(create_store(tmp_path / "first.act"), spec, provenance={"host": "a", "at": "2026-01-01"})
    monkeypatch.setattr(actlas.store.encoder, "CHUNK_ROWS", 8)
    monkeypatch.setattr(actlas.store.encoder, "BLOCK_BYTES", 1)
    monkeypatch.setattr(actlas.store.encoder, "SHARD_BYTES", 1)
    renamed = dataclasses.replace(
        spec, codec="lz4", maker={"torch": "9"}, model=dataclasses.replace(spec.model, name="other", base="elsewhere")
    )
    second = write_tiny(create_store(tmp_path / "second.act"), renamed, provenance={"host": "b"})
    assert second.hidden_states.chunks != first.hidden_states.chunks
    assert folder(second).name == folder(first).name
    assert (second.key, second.id) == (first.key, first.id)
    assert (second.provenance, second.model) == ({"host": "b"}, "other")


def test_another_process_writes_the_same_id(store: StoreWriter, tmp_path: Path, processes: ForkServerContext):
    other = create_store(tmp_path / "other.act")
    answers = processes.Queue()
    process = processes.Process(target=child_writes, args=(str(other.root), answers))
    process.start()
    assert answers.get(timeout=60) == "begin"
    there = answers.get(timeout=60)
    process.join()
    assert write_tiny(store, long_spec()).id == there
    assert process.pid != os.getpid()


def test_models_with_other_adapters_have_other_digests():
    base = tiny_model().identity
    adapted = dataclasses.replace(base, adapter_digest="cc" * 32)
    other = dataclasses.replace(adapted, adapter_digest="dd" * 32)
    assert len({base.digest, adapted.digest, other.digest}) == 3
