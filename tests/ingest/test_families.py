"""Every architecture of the table: what is stored is what transformers reports for each prompt alone; others are tried first."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForTextEncoding

from actlas.ingest import POSITIONS, Checkpoint, Options, ingest
from actlas.ingest.families import FAMILIES, family_of
from actlas.ingest.rendering import load_rendering
from actlas.ingest.tokenizing import tokenize
from actlas.ingest.trial import check_unknown
from actlas.store import InvalidInput, Source, Task, create_store, open_store
from tests.ingest.checkpoints import byte_tokenizer, tiny_task

_WORDS = {"vocab_size": 259, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_TOKENS = {"initializer_range": 0.2, "max_position_embeddings": 128, **_WORDS}
_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, **_TOKENS}
_LLAMA = {**_SIZES, "num_key_value_heads": 2}
_BLOOM = {"hidden_size": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.2, **_WORDS}
_GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "initializer_range": 0.2, **_WORDS}
_OPT = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "init_std": 0.2, **_WORDS}
_GEMMA = {**_LLAMA, "head_dim": 8, "sliding_window": 16}
_EXPERTS = {**_LLAMA, "num_experts": 4, "num_experts_per_tok": 2}

TINY: dict[str, Callable[[], Any]] = {
    "bert": lambda: tf.BertConfig(**_SIZES),
    "bloom": lambda: tf.BloomConfig(**_BLOOM),
    "falcon": lambda: tf.FalconConfig(**{key: value for key, value in _SIZES.items() if key != "intermediate_size"}),
    "gemma2": lambda: tf.Gemma2Config(**_GEMMA),
    "gemma3_text": lambda: tf.Gemma3TextConfig(**_GEMMA),
    "gpt2": lambda: tf.GPT2Config(**_GPT2),
    "gpt_neox": lambda: tf.GPTNeoXConfig(**_SIZES),
    "gptj": lambda: tf.GPTJConfig(rotary_dim=4, **_GPT2),
    "llama": lambda: tf.LlamaConfig(**_LLAMA),
    "mistral": lambda: tf.MistralConfig(sliding_window=16, **_LLAMA),
    "mixtral": lambda: tf.MixtralConfig(num_local_experts=4, **_LLAMA),
    "modernbert": lambda: tf.ModernBertConfig(
        initializer_cutoff_factor=2.0, cls_token_id=0, sep_token_id=1, local_attention=16, **_SIZES
    ),
    "mpt": lambda: tf.MptConfig(
        d_model=32, n_layers=3, n_heads=4, max_seq_len=128, initializer_range=0.2, vocab_size=259
    ),
    "olmoe": lambda: tf.OlmoeConfig(**_EXPERTS),
    "opt": lambda: tf.OPTConfig(max_position_embeddings=128, word_embed_proj_dim=32, **_OPT),
    "phi": lambda: tf.PhiConfig(**_LLAMA),
    "phi3": lambda: tf.Phi3Config(**_LLAMA),
    "qwen2": lambda: tf.Qwen2Config(**_LLAMA),
    "qwen3": lambda: tf.Qwen3Config(head_dim=8, **_LLAMA),
    "qwen3_moe": lambda: tf.Qwen3MoeConfig(head_dim=8, moe_intermediate_size=16, **_EXPERTS),
    "roberta": lambda: tf.RobertaConfig(
        **{**_SIZES, "max_position_embeddings": 98}
    ),  # 96 tokens, the tokenizer's context
    "t5": lambda: tf.T5Config(
        d_model=32, d_ff=48, num_layers=3, num_heads=4, d_kv=8, vocab_size=259, pad_token_id=2, decoder_start_token_id=2
    ),
}
# Not the sizes of all others: states before and after the final norm have other widths; there is no final norm.
VARIANTS = {
    "opt-of-another-width": lambda: tf.OPTConfig(
        max_position_embeddings=128, word_embed_proj_dim=16, do_layer_norm_before=False, **_OPT
    )
}
PROMPT_POSITIONS = tuple(position for position in POSITIONS if not position.startswith("target-"))


def save(directory: Path, config: Any) -> Path:
    """Save a random model, with its head, and a tokenizer; biases and norms are random too."""
    torch.manual_seed(0)
    loader = {"bert": tf.BertForMaskedLM, "roberta": tf.RobertaForMaskedLM, "t5": tf.T5ForConditionalGeneration,
              "modernbert": tf.ModernBertForMaskedLM}.get(config.model_type)  # fmt: skip
    model = AutoModelForCausalLM.from_config(config) if loader is None else loader(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


def reported(directory: Path, token_ids: list[list[int]]) -> list[tuple[list[torch.Tensor], torch.Tensor]]:
    """What transformers itself reports for each prompt alone: raw states of layers 0 to L - 1, and the final ones."""
    kind = AutoModelForTextEncoding if "t5" in directory.name else AutoModel
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = kind.from_pretrained(directory).eval()
    outputs = []
    with torch.no_grad():
        for ids in token_ids:
            found = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
            outputs.append(([state[0] for state in found.hidden_states[:-1]], found.last_hidden_state[0]))
    return outputs


def reduced(states: torch.Tensor, position: str) -> np.ndarray:
    """The plain definition of a position; the first token is the BOS, and no content."""
    mean = {"mean": states.double().mean(dim=0), "content-mean": states[1:].double().mean(dim=0)}
    return ({"last": states[-1], "first": states[0], "all": states} | mean)[position].double().numpy()


def error(stored: np.ndarray, own: np.ndarray) -> float:
    return float(np.linalg.norm(stored.astype("f8") - own) / np.linalg.norm(own))


@pytest.mark.parametrize("name", [*TINY, *VARIANTS])
def test_every_position_of_every_layer_is_what_the_model_reports_for_each_prompt_alone(name: str, tmp_path: Path):
    directory = save(tmp_path / name, (TINY | VARIANTS)[name]())
    task, root = tiny_task(13), tmp_path / "lab.act"
    create_store(root, batch_tokens=180)
    options = Options(device="cpu", positions=PROMPT_POSITIONS)
    report = ingest(root, [Checkpoint(base=str(directory))], [task], options)
    own = reported(directory, tokenize(task, byte_tokenizer(), load_rendering("raw"), None).token_ids)
    assert {entry.position for entry in report.written} == set(PROMPT_POSITIONS)
    for entry in report.written:
        assert entry.layers == (0, 1, 2, 3)
        for row, (states, final) in enumerate(own):
            for layer in range(3):
                stored = entry.read(layer, entry.rows_of(row))
                assert error(stored, np.atleast_2d(reduced(states[layer], entry.position))) < 2e-6
            last = entry.final_norm[entry.rows_of(row)] if entry.has_final_norm else entry.read(3, entry.rows_of(row))
            assert error(last, np.atleast_2d(reduced(final, entry.position))) < 2e-6


def test_the_table_is_tested_whole():
    assert TINY.keys() == FAMILIES.keys()
    assert all(TINY[name]().model_type == name for name in TINY)


def test_the_page_has_every_family():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "architectures.md").read_text()
    assert [name for name in FAMILIES if f"`{name}`" not in page] == []


def test_positions_of_one_pass_are_those_of_passes_of_their_own(llama: Path, tmp_path: Path, task: Task):
    checkpoint, cpu = Checkpoint(base=str(llama)), {"device": "cpu"}
    together = ingest(tmp_path / "one.act", [checkpoint], [task], Options(positions=("mean", "last"), **cpu))
    assert together.forecast.n_entries == 2
    assert together.forecast.n_examples == len(task)  # a prompt is computed once
    for position in ("last", "mean"):
        alone = ingest(tmp_path / "each.act", [checkpoint], [task], Options(positions=(position,), **cpu)).written[0]
        [same] = [entry for entry in together.written if entry.position == position]
        assert (same.id, same.key) == (alone.id, alone.key)
    assert {entry.position for entry in open_store(tmp_path / "each.act").entries()} == {"last", "mean"}


def test_a_mean_is_summed_in_float32_and_padding_that_overflows_does_not_count():
    from actlas.ingest.capture import reducer

    states = torch.full((1, 4097, 2), 1.0, dtype=torch.bfloat16)
    states[0, 4096] = torch.inf
    mean = reducer([(0, 4096)], torch.device("cpu"))(states)
    assert mean.tolist() == [[1.0, 1.0]]  # bfloat16 alone would stop counting at 256
    assert mean.dtype == torch.bfloat16


@pytest.mark.parametrize("positions", [(), ("last", "last"), ("middle",)])
def test_positions_that_mean_nothing_are_refused(positions: tuple[str, ...], llama: Path, root: Path, task: Task):
    with pytest.raises(InvalidInput, match=r"positions: expected one or more of last, mean, first, .*each once, got"):
        ingest(root, [Checkpoint(base=str(llama))], [task], Options(device="cpu", positions=positions))
    assert not root.exists()


def unknown(config: Any) -> Any:
    """What a base of this configuration is, as far as a trial asks."""
    return SimpleNamespace(config=config, family=family_of(config, "DIR"), directory="DIR")


@pytest.mark.parametrize(
    "config", [tf.GemmaConfig, tf.Olmo2Config, tf.StableLmConfig, tf.GraniteConfig, tf.GPTNeoConfig]
)
def test_a_causal_decoder_outside_the_table_passes_the_trial_at_its_full_configuration(config: Any):
    base = unknown(config())
    assert not base.family.is_known
    check_unknown(base)


def test_a_model_whose_states_depend_on_padding_fails_the_trial_with_the_difference():
    config = tf.GemmaConfig(use_bidirectional_attention=True)
    with pytest.raises(
        Source, match=r"DIR: gemma is not in the table.*failed the trial.*change by \d\.\de[-+]\d\d when it is"
    ):
        check_unknown(unknown(config))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (tf.MambaConfig, "mamba is a state-space model or a hybrid with one"),
        (tf.JambaConfig, "jamba is a state-space model or a hybrid with one"),
        (tf.Qwen3NextConfig, r"hybrid with one \(layer_types linear_attention\)"),
        (tf.FalconH1Config, "hybrid with one"),
        (tf.BartConfig, "bart is an encoder-decoder; of these only T5's encoder stack"),
        (tf.CLIPConfig, "expected a model of text alone, got clip"),
        (tf.ElectraConfig, "no small model of it can be made|failed the trial|neither a causal decoder nor"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_reason(config: Any, why: str):
    with pytest.raises(Source, match=why):
        check_unknown(unknown(config()))
