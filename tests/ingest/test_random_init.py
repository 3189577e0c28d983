"""A checkpoint's configuration with random weights: the baseline of an untrained network."""

import shutil

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, T5Config, T5EncoderModel

from actlas.ingest import Checkpoint, Options, ingest, ingest_status
from actlas.ingest.checkpoint import find_base
from actlas.ingest.loading import load_base
from actlas.ingest.random_init import random_model
from actlas.store import InvalidInput, Mismatch, Source, open_store
from tests.ingest.checkpoints import byte_tokenizer, child_ingests_random, edit_json, ingest_one, own_states, tree

CPU = Options(device="cpu")


def baseline(base, seed=0, **settings):
    return Checkpoint(base=str(base), random_init=seed, **settings)


def ingest_random(root, base, task, seed=0, **options):
    (entry,) = ingest(root, [baseline(base, seed)], [task], Options(**{"device": "cpu"} | options)).written
    return entry


def test_a_seed_gives_the_same_weights_in_every_process_and_another_seed_gives_others(llama, task, tmp_path, processes):
    answers = processes.Queue()
    found = []
    for number, (seed, n_threads) in enumerate([(0, 1), (0, 2), (1, 1)]):
        where = str(tmp_path / f"{number}.act")
        child = processes.Process(target=child_ingests_random, args=(where, str(llama), task, seed, n_threads, answers))
        child.start()
        found.append(answers.get(timeout=120))
        child.join()
    first, again, other = found
    assert first == again
    assert first[0] != other[0]
    assert first[1] != other[1]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize(("own", "dtype"), [("float32", "auto"), ("bfloat16", "auto"), ("bfloat16", "float32")])
def test_states_are_those_of_transformers_own_initialisation_in_the_checkpoints_dtype(
    family, own, dtype, bases, root, task
):
    base = bases(family, dtype=own)
    entry = ingest_random(root, base, task, seed=5, dtype=dtype)
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base)).eval()
    assert str(model.dtype) == f"torch.{own}"
    if dtype != "auto":
        model = model.float()
    token_ids = byte_tokenizer()([row["prompt"] for row in task.rows])["input_ids"]
    hidden, final = own_states(model, token_ids)
    tolerance = 0.05 if entry.dtype == "bfloat16" else 1e-5
    for captured, expected in ((entry.to_xarray().hidden_states, hidden), (entry.to_xarray().final_norm, final)):
        expected = expected.float().numpy()
        np.testing.assert_allclose(captured.values.astype("float32"), expected, atol=tolerance * np.abs(expected).max())


def test_states_and_identity_are_not_those_of_the_trained_model(llama, root, task):
    trained, drawn = ingest_one(root, llama, task), ingest_random(root, llama, task, 11)
    store = open_store(root)
    assert (drawn.model, store.labels(drawn.model)) == ("llama-random-11", {"random_init": 11})
    assert drawn.provenance["checkpoint"]["random_init"] == 11
    assert trained.provenance["checkpoint"]["random_init"] is None
    of_trained, of_drawn = store.model(trained.model), store.model(drawn.model)
    assert of_trained.identity.digest != of_drawn.identity.digest
    assert of_trained.tokenizer_digest == of_drawn.tokenizer_digest
    assert (of_trained.architecture, of_trained.n_layers) == (of_drawn.architecture, of_drawn.n_layers)
    x, y = trained.hidden_states[:], drawn.hidden_states[:]
    assert x.shape == y.shape
    assert all(np.abs(ours - theirs).max() > 0.1 for ours, theirs in zip(x, y, strict=True))
    for name, checkpoint in ((trained.model, baseline(llama, name=trained.model)), (drawn.model, baseline(llama, 1))):
        with pytest.raises(Mismatch, match=f"the name '{name}' belongs to another checkpoint"):
            ingest(root, [Checkpoint(**vars(checkpoint) | {"name": name})], [task], CPU)


def test_no_weight_file_is_read(llama, task, tmp_path):
    ids = [ingest_random(tmp_path / "whole.act", llama, task).id]
    for name, weights in (("garbage", b"no weights"), ("none", None)):
        base = shutil.copytree(llama, tmp_path / name / llama.name)
        for path in base.glob("*.safetensors"):
            path.unlink()
            if weights is not None:
                path.write_bytes(weights)
        ids.append(ingest_random(tmp_path / f"{name}.act", base, task).id)
    assert len(set(ids)) == 1


def test_it_is_forecast_listed_and_done_once_beside_the_trained_model(llama, root, task):
    checkpoints = [Checkpoint(base=str(llama), name="base"), baseline(llama, 0), baseline(llama, 1)]
    forecast = ingest(root, checkpoints, [task], CPU, dry_run=True).forecast
    assert forecast.n_entries == 3
    assert not root.exists()
    trained_only = ingest(root, checkpoints[:1], [task], CPU, dry_run=True).forecast
    assert forecast.operations_per_token == pytest.approx(trained_only.operations_per_token, rel=0.1)
    assert len(ingest(root, checkpoints[:2], [task], CPU).written) == 2
    states = {one.model: one.state for one in ingest_status(root, checkpoints, [task], CPU)}
    assert states == {"base": "done", "llama-random-0": "done", "llama-random-1": "missing"}
    again = ingest(root, checkpoints, [task], CPU)
    assert [entry.model for entry in again.written] == ["llama-random-1"]
    assert [entry.model for entry in again.present] == ["base", "llama-random-0"]


def test_other_weights_than_were_hashed_are_refused(llama, root, task, monkeypatch):
    def otherwise(config, family, seed):
        return random_model(config, family, seed + 1)

    monkeypatch.setattr("actlas.ingest.loading.random_model", otherwise)
    with pytest.raises(Source, match="LlamaForCausalLM draws other weights from the seed 0 than when they were hashed"):
        ingest_random(root, llama, task)
    assert not root.exists()


def test_an_encoder_stack_is_initialised_as_its_own_class_does_it(tmp_path):
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 259}
    T5Config(**shape, pad_token_id=2).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    model = load_base(find_base(str(tmp_path), random_init=3), "float32", "cpu")
    torch.manual_seed(3)
    expected = T5EncoderModel(T5Config.from_pretrained(tmp_path)).state_dict()
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_torchs_own_generator_is_left_as_it_was(llama):
    before = torch.get_rng_state()
    find_base(str(llama), random_init=7)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (
            {"adapter": "lora"},
            "random init 0: expected llama as it is before any training, got the adapter lora; leave",
        ),
        (
            {"trained_on": ("rte", "cb")},
            "random init 0: expected .* before any training, got trained on rte, cb; leave",
        ),
        ({"seed": -1}, r"random init: expected a seed from 0 to 2\^63 - 1, got -1"),
        ({"seed": 1 << 63}, "expected a seed from 0"),
        ({"adapter": "lora", "origin": "sweep.csv, line 3"}, "^sweep.csv, line 3: random init 0: expected"),
    ],
)
def test_training_and_random_weights_exclude_each_other(settings, match):
    with pytest.raises(InvalidInput, match=match):
        baseline("llama", **settings)


def test_a_configuration_of_which_no_model_can_be_made_is_refused(llama, root, task, tmp_path):
    base = shutil.copytree(llama, tmp_path / "llama")
    edit_json(base / "config.json", hidden_act="abacus")
    before = tree(tmp_path)
    with pytest.raises(Source, match=r"llama: transformers cannot make a model of its config.json \(.*abacus.*correct"):
        ingest_random(root, base, task)
    assert tree(tmp_path) == before
