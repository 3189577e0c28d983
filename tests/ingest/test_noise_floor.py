"""Every checkpoint's noise floor: its states in the planned batch against alone, and fast against plain attention."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from actlas.analyze import compare_table, similarity
from actlas.ingest import Checkpoint, Options, ingest
from actlas.ingest.noise import debiased_cka
from actlas.store import create_store, open_store
from tests.ingest.checkpoints import FAMILIES, bits, byte_tokenizer, ingest_one, load, tiny_task


@pytest.mark.parametrize("n", [4, 5, 9, 40])
def test_its_cka_is_the_one_of_compare(n: int):
    random = np.random.default_rng(n)
    x, y = random.normal(3, 1, (n, 7)), random.normal(0, 2, (n, 5))
    y[:, :3] += x[:, :3]
    assert debiased_cka(torch.tensor(x), torch.tensor(y)) == pytest.approx(similarity(x, y), abs=1e-12)


def test_its_cka_is_undefined_for_three_rows_and_for_constant_ones():
    assert debiased_cka(torch.randn(3, 4), torch.randn(3, 4)) is None
    assert debiased_cka(torch.ones(8, 4), torch.randn(8, 4)) is None


@pytest.mark.parametrize(("dtype", "least", "most"), [("bfloat16", 1e-4, 0.1), ("float32", 0.0, 1e-5)])
def test_it_is_stored_for_each_layer_and_shows_what_half_precision_costs(bases, root: Path, dtype, least, most):
    create_store(root, batch_tokens=400)
    entry = ingest_one(root, bases("llama", dtype=dtype), tiny_task(23), layers="0,2,3")
    floor = entry.provenance["noise_floor"]
    assert floor["layers"] == [0, 2, 3]
    for kind in ("batch_against_alone", "sdpa_against_eager"):
        assert floor[kind][0] == 0  # the embedding does not depend on its neighbours
        assert 0 <= floor[kind][2] <= most
    assert floor["batch_against_alone"][2] + floor["sdpa_against_eager"][2] >= least
    assert all(value == pytest.approx(1, abs=most) for value in floor["cka"])


def test_without_a_second_attention_there_is_no_figure_for_it(bases, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LlamaForCausalLM, "_can_set_attn_implementation", classmethod(lambda _: False))
    entry = ingest_one(root, bases("llama", dtype="bfloat16"), tiny_task(9))
    assert entry.provenance["noise_floor"]["sdpa_against_eager"] is None
    assert entry.provenance["noise_floor"]["batch_against_alone"] is not None


def test_prompts_whose_states_overflow_do_not_count_as_equal(tmp_path: Path, root: Path):
    model = FAMILIES["llama"]()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= 1e5
    model.half().save_pretrained(tmp_path / "loud")
    byte_tokenizer().save_pretrained(tmp_path / "loud")
    floor = ingest_one(root, tmp_path / "loud", tiny_task(9)).provenance["noise_floor"]
    assert floor["batch_against_alone"][1] is not None
    assert floor["batch_against_alone"][3] is None
    assert floor["cka"][3] is None


def test_measuring_it_changes_no_bit_of_what_is_stored(bases, root: Path):
    base, task = bases("llama", dtype="bfloat16"), tiny_task(9)
    first = ingest_one(root, base, task)
    model = load(base, dtype="bfloat16")
    assert model.config._attn_implementation == "sdpa"
    second, _ = ingest(root.with_name("two.act"), [Checkpoint(base=str(base), name="base")], [tiny_task(12, "a"), task],
                       Options(device="cpu")).written[::-1]  # fmt: skip
    assert second.task == "rte"
    assert bits(first.hidden_states[...]) == bits(second.hidden_states[...])
    assert second.provenance["attention"] == "sdpa"


def test_every_checkpoint_has_its_own_and_compare_says_where_a_difference_is_below_it(bases, adapters, root: Path):
    base = bases("llama", dtype="bfloat16")
    names = {"base": None, "tuned": str(adapters("llama", base=base, dtype="bfloat16"))}
    checkpoints = [Checkpoint(base=str(base), adapter=adapter, name=name) for name, adapter in names.items()]
    same = Checkpoint(base=str(base), name="same")
    ingest(root, [*checkpoints, same], [tiny_task(30)], Options(device="cpu"))
    store = open_store(root)
    floors = [store.entry(model=name, task="rte").provenance["noise_floor"]["cka"] for name in names]
    assert floors[0] != floors[1]
    table = compare_table(store, ["base", "same", "tuned"])
    below = table["flags"].str.contains("within the noise floor")
    assert below[(table["model_b"] == "same") & (table["layer_a"] > 0)].all()
    assert not below[(table["model_b"] == "tuned") & (table["layer_a"] > 0)].any()
