"""Adapters are swapped under one resident base, bit for bit as a fresh load computes them."""

import shutil

import pytest
import torch
from safetensors import safe_open

from actlas.ingest import Checkpoint, Options, ingest
from actlas.ingest.capture import Capture
from actlas.ingest.checkpoint import find_adapter, find_base
from actlas.ingest.loading import adapted, load_base
from actlas.ingest.residents import load_base as real_load_base
from actlas.store import Mismatch
from tests.ingest.checkpoints import bits, edit_json, ingest_one, load, own_states

BATCH = [[0, 5, 9, 20], [0, 7, 3, 11, 40, 41, 42], [0, 8]]
KINDS = {
    "rank 2, attention": {"r": 2, "target_modules": ["q_proj", "v_proj"], "seed": 11},
    "rank 8, all linear": {"r": 8, "lora_alpha": 32, "seed": 12},
    "rank by pattern, one layer": {
        "r": 3,
        "rank_pattern": {"down_proj": 5},
        "target_modules": ["down_proj", "k_proj"],
        "layers_to_transform": [1],
        "seed": 13,
    },
    "rsLoRA": {"use_rslora": True, "r": 6, "seed": 14},
    "DoRA": {"use_dora": True, "seed": 15},
    "modules_to_save": {"modules_to_save": ["norm", "post_attention_layernorm"], "seed": 16},
    "embeddings saved": {"target_modules": ["o_proj"], "modules_to_save": ["embed_tokens"], "seed": 17},
    "embeddings tuned": {"target_modules": ["embed_tokens", "up_proj"], "seed": 18},
    "LoRA bias": {"lora_bias": True, "seed": 19},
}


def states_bits(captured):
    return tuple(bits(part) for part in captured if part is not None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_swapped_adapters_are_fresh_loads_and_the_base_is_the_base_before_and_after(dtype, bases, adapters):
    path = bases("llama", dtype=dtype)
    base = find_base(str(path))
    model = load_base(base, dtype, "cpu")
    capture = Capture(model, range(4))
    before, state = states_bits(capture(BATCH)), {name: bits(value) for name, value in model.state_dict().items()}
    modules = dict(model.named_modules())
    assert before == states_bits(own_states(load(path, dtype=dtype), BATCH, mask=False))
    seen = {before}
    for settings in [*KINDS.values(), *list(KINDS.values())[:2]]:  # the first ones again, after all others
        lora = adapters(base=path, **settings)
        with adapted(model, find_adapter(str(lora), base, str(path))):
            swapped = states_bits(capture(BATCH))
        assert swapped == states_bits(own_states(load(path, lora, dtype), BATCH, mask=False)), settings
        seen.add(swapped)
        assert states_bits(capture(BATCH)) == before, settings
    assert len(seen) == 1 + len(KINDS)
    assert {name: bits(value) for name, value in model.state_dict().items()} == state
    assert dict(model.named_modules()) == modules
    assert not model.training


def test_conv1d_blocks_take_adapters_too(bases, adapters):
    path = bases("gpt2")
    base = find_base(str(path))
    model = load_base(base, "float32", "cpu")
    capture = Capture(model, range(3))
    lora = adapters("gpt2", target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    with adapted(model, find_adapter(str(lora), base, str(path))):
        swapped = states_bits(capture(BATCH))
    assert swapped == states_bits(own_states(load(path, lora), BATCH, mask=False))


@pytest.mark.parametrize("kind", ["rank 8, all linear", "DoRA", "modules_to_save"])
def test_an_adapter_saved_in_float32_computes_in_the_dtype_of_its_base(kind, bases, adapters):
    path = bases("llama", dtype="bfloat16")
    base = find_base(str(path))
    lora = adapters(base=path, dtype="float32", **KINDS[kind])
    with safe_open(lora / "adapter_model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float32}  # noqa: SIM118
    model = load_base(base, "bfloat16", "cpu")
    with adapted(model, find_adapter(str(lora), base, str(path))):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        swapped = states_bits(Capture(model, range(4))(BATCH))
    assert swapped == states_bits(own_states(load(path, lora, "bfloat16"), BATCH, mask=False))


def test_the_base_survives_an_adapter_that_does_not_fit_and_an_error_under_one_that_does(bases, adapters, tmp_path):
    path = bases("llama")
    base = find_base(str(path))
    model = load_base(base, "float32", "cpu")
    capture, modules = Capture(model, range(4)), dict(model.named_modules())
    before = states_bits(capture(BATCH))
    other = find_adapter(str(adapters("qwen2")), base, "elsewhere", allow_base_mismatch=True)
    with pytest.raises(Mismatch, match="does not fit LlamaForCausalLM"), adapted(model, other):
        pass
    lora = find_adapter(str(adapters(**KINDS["modules_to_save"])), base, str(path))
    with pytest.raises(ZeroDivisionError, match="division"), adapted(model, lora):
        1 / 0  # noqa: B018
    assert dict(model.named_modules()) == modules
    assert states_bits(capture(BATCH)) == before


def test_many_adapters_load_their_base_once_and_give_what_each_gives_alone(
    bases, adapters, root, task, tmp_path, monkeypatch
):
    path, loads = bases("llama"), []

    def counted(base, *settings):
        loads.append(base.directory)
        return real_load_base(base, *settings)

    monkeypatch.setattr("actlas.ingest.residents.load_base", counted)
    loras = [adapters(**settings) for settings in KINDS.values()]
    checkpoints = [
        *(Checkpoint(base=str(path), adapter=str(lora), name=f"tuned-{n}") for n, lora in enumerate(loras)),
        Checkpoint(base=str(path), name="base"),
    ]
    report = ingest(root, checkpoints, [task], Options(device="cpu"))
    assert loads == [path]
    ids = [entry.id for entry in report.written]
    assert len(set(ids)) == len(ids) == len(loras) + 1
    assert ids[-1] == ingest_one(tmp_path / "base-alone", path, task).id
    assert ids[5] == ingest_one(tmp_path / "sixth-alone", path, task, loras[5]).id


def test_the_order_in_which_peft_names_modules_is_no_part_of_an_adapter(llama, adapters, tmp_path):
    lora = shutil.copytree(adapters(target_modules=["q_proj", "v_proj"]), tmp_path / "lora")
    base = find_base(str(llama))
    digests = set()
    for modules in (["q_proj", "v_proj"], ["v_proj", "q_proj"]):
        edit_json(lora / "adapter_config.json", target_modules=modules)
        digests.add(find_adapter(str(lora), base, str(llama)).digest)
    assert len(digests) == 1
