"""Adapters that do not belong to the base, or are not whole, are errors and never warnings."""

import shutil
import warnings

import pytest
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file

from actlas.ingest import Checkpoint, Options, ingest
from actlas.store import Mismatch, NotFound, Source
from tests.ingest.checkpoints import edit_json, ingest_one, load, save_adapter, tree

WEIGHTS = "adapter_model.safetensors"


def save_other(directory, base, config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(load(base), config).save_pretrained(directory)


@pytest.fixture
def lora(adapters, tmp_path):
    """A copy of a sound adapter that may be damaged."""
    return shutil.copytree(adapters(), tmp_path / "lora")


@pytest.fixture
def refused(llama, root, task):
    """Ingests an adapter into a store with one entry, and finds the store unchanged after the refusal."""
    ingest_one(root, llama, task)

    def check(adapter, error, match, base=llama, **options):
        before = tree(root)
        checkpoint = Checkpoint(base=str(base), adapter=str(adapter), name="tuned")
        with pytest.raises(error, match=match):
            ingest(root, [checkpoint], [task], Options(device="cpu", **options))
        assert tree(root) == before

    return check


def test_an_adapter_trained_on_a_base_with_other_weights_is_refused_unless_allowed(
    bases, adapters, refused, llama, root, task
):
    other = bases("llama", seed=5)
    lora = adapters(base=other)
    refused(lora, Mismatch, rf"trained on {other}, not on {llama}; .*--allow-base-mismatch")
    assert ingest_one(root, llama, task, lora, allow_base_mismatch=True).model == "tuned"


def test_an_adapter_whose_recorded_base_has_another_name_is_refused_unless_allowed(lora, refused, llama, root, task):
    edit_json(lora / "adapter_config.json", base_model_name_or_path="meta-llama/Llama-2-7b")
    refused(lora, Mismatch, r"trained on meta-llama/Llama-2-7b, not on .*allow-base-mismatch")
    assert ingest_one(root, llama, task, lora, allow_base_mismatch=True).model == "tuned"


@pytest.mark.parametrize("recorded", ["somewhere/else/llama", None])
def test_an_adapter_whose_base_has_moved_is_taken_by_name(recorded, lora, llama, root, task):
    edit_json(lora / "adapter_config.json", base_model_name_or_path=recorded)
    assert ingest_one(root, llama, task, lora).model == "tuned"


def test_an_adapter_is_known_by_its_weights_wherever_its_base_stands(lora, llama, root, task, tmp_path):
    copy = shutil.copytree(llama, tmp_path / "copy")
    assert ingest_one(root, copy, task, lora).id == ingest_one(tmp_path / "other.act", llama, task, lora).id


def test_an_adapter_for_a_model_of_other_shapes_is_refused(adapters, refused):
    refused(adapters("qwen2"), Mismatch, "does not fit LlamaForCausalLM", allow_base_mismatch=True)
    refused(adapters("gpt2"), Mismatch, "does not fit LlamaForCausalLM", allow_base_mismatch=True)


def test_missing_and_unexpected_tensors_are_named(lora, refused):
    tensors = load_file(lora / WEIGHTS)
    *most, last = tensors
    save_file({name: tensors[name] for name in most}, lora / WEIGHTS)
    refused(lora, Source, rf"do not match the base: missing {last}, unexpected none")
    save_file(tensors | {"base_model.model.lost.lora_A.weight": tensors[last].clone()}, lora / WEIGHTS)
    refused(lora, Source, r"missing none, unexpected base_model\.model\.lost\.lora_A\.weight")
    save_file({name: tensors[name] for name in most[:2]}, lora / WEIGHTS)
    refused(lora, Source, r"missing (base_model\S+, ){4}base_model\S+ and 35 more, unexpected none")


def test_an_adapter_with_a_changed_copy_of_the_base_is_refused(adapters, tmp_path, refused):
    lora = shutil.copytree(adapters(target_modules=["embed_tokens"]), tmp_path / "embedding")
    name = "base_model.model.model.embed_tokens.base_layer.weight"
    tensors = load_file(lora / WEIGHTS)
    save_file(tensors | {name: tensors[name] + 1}, lora / WEIGHTS)
    refused(lora, Mismatch, f"a copy of the base's own tensor {name}")
    save_file(tensors | {name: tensors[name][:-1].contiguous()}, lora / WEIGHTS)
    refused(lora, Mismatch, "changed vocabulary")


def test_a_truncated_file_is_refused(lora, refused):
    (lora / WEIGHTS).write_bytes((lora / WEIGHTS).read_bytes()[:-100])
    refused(lora, Source, "weights cannot be read")


def test_a_pickle_is_not_loaded(llama, tmp_path, refused):
    lora = save_adapter(tmp_path / "pickled", llama)
    (lora / WEIGHTS).rename(lora / "adapter_model.bin")
    refused(lora, Source, r"as \.safetensors, got adapter_model\.bin; pickles can run code")


VIRTUAL = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 2}
NOT_LORA = {
    "PROMPT_TUNING": (
        PromptTuningConfig(**VIRTUAL),
        "learned virtual tokens before every prompt, so positions and .* alone",
    ),
    "P_TUNING": (
        PromptEncoderConfig(**VIRTUAL),
        "virtual tokens that an encoder of its own computes before every prompt",
    ),
    "PREFIX_TUNING": (PrefixTuningConfig(**VIRTUAL), "learned keys and values in every layer before every prompt"),
    "IA3": (IA3Config(task_type="CAUSAL_LM"), "multiplies activations instead of adding to weights.*merge_and_unload"),
    "LOHA": (LoHaConfig(target_modules=["q_proj"]), "knows neither its tensors nor .*Where PEFT can: Merge it"),
}


@pytest.mark.parametrize("kind", NOT_LORA)
def test_an_adapter_that_is_no_lora_is_refused_with_the_reason_and_what_to_do(kind, llama, tmp_path, refused):
    config, reason = NOT_LORA[kind]
    save_other(tmp_path / "other", llama, config)
    refused(tmp_path / "other", Source, f"expected a LoRA adapter, got {kind}; .*{reason}")


def test_an_adapter_that_changes_the_base_is_refused(llama, tmp_path, refused):
    for name, settings in {"pissa": {"init_lora_weights": "pissa"}, "kasa": {"kasa_config": {}}}.items():
        save_other(tmp_path / name, llama, LoraConfig(target_modules=["q_proj"], **settings))
    refused(tmp_path / "pissa", Source, "init_lora_weights='pissa' changes the base's weights")
    refused(tmp_path / "kasa", Source, "kasa_config makes it more than low-rank matrices")


@pytest.mark.parametrize("setting", [{"bias": "all"}, {"bias": "lora_only"}, {"layer_replication": [[0, 2], [1, 3]]}])
def test_an_adapter_that_changes_biases_or_layers_is_refused(setting, lora, refused):
    edit_json(lora / "adapter_config.json", **setting)
    refused(lora, Source, "changes the base's biases or layers")


def test_an_adapter_for_chosen_tokens_is_refused(lora, refused):
    edit_json(lora / "adapter_config.json", alora_invocation_tokens=[5])
    refused(lora, Source, "alora_invocation_tokens makes it more")


def test_what_is_no_adapter_is_refused(llama, tmp_path, refused, lora):
    refused(tmp_path / "nowhere", NotFound, "nowhere: not a directory, and no model of this name is in the local cache")
    refused(llama, Source, r"not a PEFT adapter: adapter_config\.json cannot be read \(No such file")
    (lora / "adapter_config.json").write_text("{")
    refused(lora, Source, "not valid JSON")
    (lora / "adapter_config.json").write_text("[]")
    refused(lora, Source, "expected a JSON object, got list")
    (lora / "adapter_config.json").write_text("{}")
    refused(lora, Source, "expected a LoRA adapter, got None")
