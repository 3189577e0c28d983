"""Every run proves its swaps: the base is the base after each adapter, and what is loaded is what was hashed."""

import os
import shutil
from contextlib import contextmanager

import pytest
import torch
from peft import PeftModel

from actlas.ingest import Checkpoint, Options, ingest
from actlas.ingest.loading import _load_adapter, adapted, load_base
from actlas.store import Mismatch, Source, open_store
from tests.ingest.checkpoints import edit_json, ingest_one, save_base

CPU = Options(device="cpu")
WEIGHTS = {"base": "model.safetensors", "adapter": "adapter_model.safetensors"}


def sweep(base, *loras):
    tuned = (Checkpoint(base=str(base), adapter=str(lora), name=f"tuned-{n}") for n, lora in enumerate(loras))
    return [*tuned, Checkpoint(base=str(base), name="base")]


@contextmanager
def removed_by_peft(model, adapter):
    """What PEFT's own unload() leaves behind of modules_to_save stays in the base."""
    tuned = PeftModel.from_pretrained(model, str(adapter.directory), autocast_adapter_dtype=False).eval()
    yield 0
    tuned.unload()


@contextmanager
def removed_with_a_rounding_error(model, adapter):
    with adapted(model, adapter) as n_tensors:
        yield n_tensors
    with torch.no_grad():
        weight = model.get_parameter("model.layers.0.self_attn.q_proj.weight")
        weight.copy_((weight + 0.1) - 0.1)


@pytest.mark.filterwarnings("ignore")  # PEFT reads every attribute of the model, deprecated ones too
@pytest.mark.parametrize("removal", [removed_by_peft, removed_with_a_rounding_error])
def test_a_removal_that_leaves_anything_behind_stops_the_ingest(removal, llama, adapters, root, task, monkeypatch):
    monkeypatch.setattr("actlas.ingest.swaps.adapted", removal)
    lora = adapters(modules_to_save=["norm", "post_attention_layernorm"], seed=16)
    with pytest.raises(
        Mismatch, match=rf"{lora}: after this adapter .* the base {llama} gives other states than before"
    ):
        ingest(root, sweep(llama, lora, adapters()), [task], CPU)
    assert {entry.model for entry in open_store(root).entries()} == {"tuned-0"}  # nothing was computed on what was left


def test_an_entry_says_what_was_proven_of_its_swap(llama, adapters, root, task):
    loras = adapters(target_modules=["q_proj"], seed=1), adapters(use_dora=True, target_modules=["q_proj"], seed=2)
    first, second, base = (
        entry.provenance["swap"] for entry in ingest(root, sweep(llama, *loras), [task], CPU).written
    )
    assert (first["n_tensors"], first["n_before"], first["n_probes"]) == (3 * 2, 0, 3)
    assert (second["n_tensors"], second["n_before"]) == (3 * 3, 1)
    assert first["base_states"] == second["base_states"]
    assert base is None


def test_an_adapter_that_is_another_in_the_model_than_in_its_file_is_refused(llama, adapters, root, task, monkeypatch):
    def loaded_and_changed(model, adapter):
        tuned = _load_adapter(model, adapter)
        with torch.no_grad():
            next(value for name, value in tuned.named_parameters() if "lora_B" in name).view(-1)[0] *= 1 + 1e-6
        return tuned

    monkeypatch.setattr("actlas.ingest.loading._load_adapter", loaded_and_changed)
    with pytest.raises(Source, match=r"does not hold what its file holds: base_model\S+lora_B\.weight; PEFT changes"):
        ingest(root, sweep(llama, adapters()), [task], CPU)


def touched(path):
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def replaced_by_a_copy(path):
    stat = path.stat()
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def joined_by_another(path):
    shutil.copy2(path, path.with_name("another.safetensors"))


@pytest.mark.parametrize("change", [touched, replaced_by_a_copy, joined_by_another])
@pytest.mark.parametrize("which", WEIGHTS)
def test_weights_that_change_between_hashing_and_loading_are_an_error(
    which, change, adapters, root, task, tmp_path, monkeypatch
):
    base = save_base(tmp_path / "base")
    lora = shutil.copytree(adapters(), tmp_path / "adapter")
    edit_json(lora / "adapter_config.json", base_model_name_or_path=str(base))
    ingest_one(root, base, task, lora)

    def changed_meanwhile(*settings):
        change(tmp_path / which / WEIGHTS[which])
        return load_base(*settings)

    monkeypatch.setattr("actlas.ingest.residents.load_base", changed_meanwhile)
    with pytest.raises(Source, match=rf"{tmp_path / which}: \S+ changed between being hashed and being loaded"):
        ingest(tmp_path / "other.act", sweep(base, lora), [task], CPU)
