"""Bases: what is no whole transformer in safetensors is refused, before a store is made or changed."""

import shutil
import socket
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BartConfig, BartForConditionalGeneration, BertConfig, BertForMaskedLM, ByT5Tokenizer

from actlas.ingest import Checkpoint, Options, ingest
from actlas.ingest.checkpoint import find_base, find_directory, tokenizer_digest
from actlas.store import InvalidInput, NotFound, Source
from tests.ingest.checkpoints import byte_tokenizer, edit_json, ingest_one, tree

WEIGHTS = "model.safetensors"


@pytest.fixture
def base(llama, tmp_path):
    """A copy of a sound base that may be damaged."""
    return shutil.copytree(llama, tmp_path / "base")


@pytest.fixture
def refused(llama, root, task):
    """Ingests a base into a store with one entry, and finds the store unchanged after the refusal."""
    ingest_one(root, llama, task)

    def check(base, error, match, revision=None, **options):
        before = tree(root)
        checkpoint = Checkpoint(base=str(base), revision=revision, name="refused")
        with pytest.raises(error, match=match):
            ingest(root, [checkpoint], [task], Options(device="cpu", **options))
        assert tree(root) == before
        nowhere = root.with_name("new.act")
        with pytest.raises(error, match=match):
            ingest(nowhere, [checkpoint], [task], Options(device="cpu", **options))
        assert not nowhere.exists()

    return check


def test_a_pickle_is_not_loaded(base, refused):
    torch.save(load_file(base / WEIGHTS), base / "pytorch_model.bin")
    (base / WEIGHTS).unlink()
    refused(base, Source, r"weights of a model as \.safetensors, got pytorch_model\.bin; pickles can run code")
    (base / "pytorch_model.bin").unlink()
    refused(base, Source, "got no weights")


def test_a_directory_without_a_config_is_refused(base, refused):
    (base / "config.json").unlink()
    refused(base, Source, r"not a model checkpoint: config\.json cannot be read \(No such file")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}}, r"needs Python code.*auto_map in config\.json"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, r"is quantised.*quantization_config"),
        ({"model_type": "unheard-of"}, r"transformers cannot read its config\.json \(The checkpoint you are trying"),
        ({"model_type": None}, r"transformers cannot read its config\.json \(Unrecognized model"),
        ({"num_hidden_layers": "three"}, r"config\.json \(Validation error .* expected int, got str"),
        ({"hidden_size": 33}, r"config\.json \(.*33\) is not a multiple of the number of attention heads"),
        (
            {"model_type": "clip", "num_hidden_layers": None},
            r"config\.json has no number of layers; expected a model of text alone, got clip",
        ),
        ({"dtype": "float64"}, "dtype 'float64': expected one of bfloat16"),
        ({"num_hidden_layers": 4}, r"missing model\.layers\.3\.\S+, .* and 4 more, unexpected none"),
        ({"num_hidden_layers": 2}, r"missing none, unexpected model\.layers\.2\.\S+, .* and 4 more"),
        ({"intermediate_size": 49}, r"cannot load it as a model of its kind \(causal decoder\)"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_config_that_cannot_be_used_is_refused(changes, match, base, refused):
    edit_json(base / "config.json", **changes)
    refused(base, (Source, InvalidInput), match)


def test_missing_and_unexpected_tensors_are_named(base, refused):
    tensors = load_file(base / WEIGHTS)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({key: value for key, value in tensors.items() if key != name}, base / WEIGHTS, {"format": "pt"})
    refused(base, Source, rf"not those of LlamaForCausalLM: missing {name}, unexpected none")
    save_file(tensors | {"model.layers.1.mlp.third_proj": tensors[name].clone()}, base / WEIGHTS, {"format": "pt"})
    refused(base, Source, r"missing none, unexpected model\.layers\.1\.mlp\.third_proj")


def test_a_base_without_its_head_is_taken_for_the_head_is_never_run(bases, tmp_path, root, task):
    headless = shutil.copytree(bases("qwen2"), tmp_path / "headless")
    tensors = load_file(headless / WEIGHTS)
    assert tensors.pop("lm_head.weight") is not None
    save_file(tensors, headless / WEIGHTS, {"format": "pt"})
    left = ingest_one(root, headless, task)
    right = ingest_one(tmp_path / "other.act", bases("qwen2"), task)
    assert left.manifest.arrays["hidden_states"] == right.manifest.arrays["hidden_states"]


@pytest.mark.parametrize("size", [50, -1000, -1])
def test_a_truncated_file_is_refused(size, base, refused):
    (base / WEIGHTS).write_bytes((base / WEIGHTS).read_bytes()[:size])
    refused(base, Source, r"transformers cannot load it as a model of its kind \(causal decoder\)")


def test_a_base_without_a_tokenizer_is_refused(base, refused):
    for path in base.glob("*token*"):
        path.unlink()
    refused(base, Source, "tokenizer cannot be loaded")


def test_an_encoder_decoder_is_refused(tmp_path, refused):
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = BartConfig(vocab_size=259, d_model=16, bos_token_id=0, eos_token_id=1, pad_token_id=2, **sizes, **heads)
    BartForConditionalGeneration(config).save_pretrained(tmp_path / "bart")
    byte_tokenizer().save_pretrained(tmp_path / "bart")
    refused(tmp_path / "bart", Source, "bart is an encoder-decoder; of these only T5's encoder stack can be run")


def test_an_adapter_under_an_encoder_is_refused(tmp_path, adapters, root, task):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=259, **sizes)).save_pretrained(tmp_path / "bert")
    byte_tokenizer().save_pretrained(tmp_path / "bert")
    with pytest.raises(Source, match=r"adapters are put under causal decoders only, and .*bert is an encoder"):
        ingest_one(root, tmp_path / "bert", task, adapters())
    assert not root.exists()


def test_a_hub_name_that_is_not_in_the_cache_is_refused_without_the_network(refused, monkeypatch, tmp_path):
    def forbidden(*_args, **_settings):
        raise AssertionError("the network was used")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    monkeypatch.setattr(socket.socket, "connect", forbidden)
    refused("some-lab/no-such-model", NotFound, r"some-lab/no-such-model: not a directory, .* hf download some-lab/no-")
    refused("some-lab/no-such-model", NotFound, r"no model of this name at v1 is in the local", revision="v1")
    refused("/no/such/path", NotFound, "/no/such/path: not a directory")


def test_a_hub_name_in_the_cache_is_found_by_revision(llama, tmp_path, monkeypatch, root, task):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    commit, repository = "ab" * 20, tmp_path / "cache" / "models--some-lab--tiny"
    shutil.copytree(llama, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert find_directory("some-lab/tiny") == repository / "snapshots" / commit
    checkpoint = Checkpoint(base="some-lab/tiny", revision=commit)
    assert checkpoint.slug == "tiny"
    (entry,) = ingest(root, [checkpoint], [task], Options(device="cpu")).written
    assert entry.id == ingest_one(tmp_path / "other.act", llama, task).id


def test_a_directory_has_no_revision(llama, refused):
    refused(llama, InvalidInput, "is a directory and has no revisions; leave --revision main out", revision="main")


def test_a_digest_knows_weights_and_settings_but_not_where_they_came_from(llama, base):
    digest = find_base(str(llama)).digest
    edit_json(base / "config.json", _name_or_path="elsewhere", transformers_version="0")
    assert find_base(str(base)).digest == digest
    edit_json(base / "config.json", rms_norm_eps=1e-3)
    assert find_base(str(base)).digest != digest


def test_the_tokenizer_digest_knows_the_rules_and_not_the_padding(llama, base):
    digest = find_base(str(llama)).tokenizer_digest
    padded = byte_tokenizer()
    padded.backend_tokenizer.enable_padding(length=7)
    padded.backend_tokenizer.enable_truncation(9)
    padded.save_pretrained(base)
    assert find_base(str(base)).tokenizer_digest == digest
    byte_tokenizer(bos=False).save_pretrained(base)
    assert find_base(str(base)).tokenizer_digest != digest


def test_a_tokenizer_in_python_is_known_by_its_class_and_vocabulary():
    digests = [tokenizer_digest(ByT5Tokenizer(extra_ids=number)) for number in (0, 0, 5)]
    assert digests[0] == digests[1] != digests[2]


def test_no_warning_escapes_from_the_libraries_below(bases, adapters, root, task, capfd):
    base, adapter = bases("llama"), adapters()
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ingest_one(root, base, task, adapter)
    assert [str(warning.message) for warning in caught if "actlas" in warning.filename] == []
    assert capfd.readouterr() == ("", "")
