"""The decoder of an encoder-decoder: it reads the target while the encoder reads the prompt."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import T5Config, T5ForConditionalGeneration

from actlas.ingest import Checkpoint, Options, ingest, load_rendering
from actlas.ingest.checkpoint import find_base
from actlas.ingest.tokenizing import tokenize
from actlas.store import ActError, InvalidInput, Source, create_store, make_task, open_store
from tests.ingest.checkpoints import byte_tokenizer, prompts

EOS, START = 1, 2
POSITIONS = ("last", "target-last", "target-mean")
RAW_TARGET = load_rendering("raw", with_target=True)
DECODER: dict[str, Any] = {"device": "cpu", "renderings": (RAW_TARGET,), "positions": POSITIONS}
TASK = make_task(
    "rte", [{"prompt": text, "target": f"so {text[: 1 + row % 9]}"} for row, text in enumerate(prompts(11))]
)


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 of three encoder and two decoder blocks, norms random too, whose tokenizer ends every text with an EOS."""
    directory = tmp_path_factory.mktemp("bases") / "t5"
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(
            d_model=32, d_ff=48, d_kv=8, num_layers=3, num_decoder_layers=2, num_heads=4, vocab_size=259,
            pad_token_id=2, eos_token_id=EOS, decoder_start_token_id=START,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    tokenizer = byte_tokenizer(bos=False, context=512)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", EOS)]
    )
    tokenizer.save_pretrained(directory)
    return directory


def reported(directory: Path, prompt: str, target: str) -> tuple[list[np.ndarray], np.ndarray]:
    """What transformers reports of one example, trained on as its labels: raw states of every layer, and the final ones."""
    model, tokenizer = T5ForConditionalGeneration.from_pretrained(directory).eval(), byte_tokenizer(bos=False)
    encode = lambda text: tokenizer(text)["input_ids"] + [EOS]  # noqa: E731
    raw: list[torch.Tensor] = []
    hook = model.decoder.block[-1].register_forward_hook(lambda _module, _inputs, output: raw.append(output[0]))
    with torch.no_grad():
        found = model(
            input_ids=torch.tensor([encode(prompt)]), labels=torch.tensor([encode(target)]), output_hidden_states=True
        )
    hook.remove()
    *states, final = found.decoder_hidden_states
    return [state[0].numpy() for state in (*states, raw[0])], final[0].numpy()


def reduced(states: np.ndarray, position: str) -> np.ndarray:
    """The plain definition: the start token, the target's last token, the mean over the target's tokens."""
    return {"last": states[0], "target-last": states[-1], "target-mean": states[1:].astype("f8").mean(axis=0)}[position]


def error(stored: np.ndarray, own: np.ndarray) -> float:
    return float(np.linalg.norm(stored.astype("f8") - own) / np.linalg.norm(own))


def test_states_are_transformers_own_decoder_states_of_each_example_alone(t5: Path, root: Path):
    create_store(root, batch_tokens=200)  # several examples of other lengths in a batch
    written = ingest(root, [Checkpoint(base=str(t5), stack="decoder")], [TASK], Options(**DECODER)).written
    own = [reported(t5, row["prompt"], row["target"]) for row in TASK.rows]
    assert [entry.position for entry in written] == list(POSITIONS)
    for entry in written:
        assert entry.layers == (0, 1, 2)
        for row, (states, final) in enumerate(own):
            for layer in range(3):
                assert error(entry.hidden_states[layer, row], reduced(states[layer], entry.position)) < 1e-6
            assert error(entry.final_norm[row], reduced(final, entry.position)) < 1e-6
    last, target_last, _ = written
    assert np.ptp(last.hidden_states[0], axis=0).max() == 0  # every decoder begins with the same token
    assert np.ptp(last.hidden_states[1], axis=0).max() > 0.01  # and has looked at the prompt one block later
    assert target_last.provenance["conformance"]["padded_against_alone"] < 1e-5


def test_decoder_and_encoder_are_two_models_of_one_checkpoint(t5: Path, root: Path):
    (alone,) = ingest(root, [Checkpoint(base=str(t5))], [TASK], Options(device="cpu")).written
    ingest(root, [Checkpoint(base=str(t5), stack="decoder")], [TASK], Options(**DECODER))
    drawn = Checkpoint(base=str(t5), stack="decoder", random_init=3)
    ingest(root, [drawn], [TASK], Options(**DECODER | {"positions": ("last",)}))
    store = open_store(root)
    assert store.models() == ["t5", "t5-decoder", "t5-decoder-random-3"]
    encoder, decoder = store.model("t5"), store.model("t5-decoder")
    assert (encoder.n_layers, decoder.n_layers) == (3, 2)
    assert len({store.model(name).identity.digest for name in store.models()}) == 3
    assert encoder.identity.base_digest == find_base(str(t5)).digest
    assert store.labels("t5-decoder") == {"stack": "decoder"}
    assert store.labels("t5-decoder-random-3") == {"stack": "decoder", "random_init": 3}
    assert alone.layers == (0, 1, 2, 3)


def test_targets_are_texts_of_their_own_and_take_no_room_from_prompts():
    tokenizer = byte_tokenizer(bos=False, context=None)
    task = make_task("t", [{"prompt": "abcdefgh", "target": "xyz"}])
    found = tokenize(task, tokenizer, RAW_TARGET, 6, has_decoder=True)
    assert tokenizer.decode(found.token_ids[0]) == "cdefghxyz"
    assert (found.parts[0].n_prompt, found.n_target_tokens, found.n_truncated, found.n_apart) == (6, [3], 1, 0)
    with pytest.raises(InvalidInput, match="the target has 3 tokens, the model's context is 3"):
        tokenize(task, tokenizer, RAW_TARGET, 3, has_decoder=True)
    empty = make_task("t", [{"prompt": "a", "target": ""}])
    with pytest.raises(InvalidInput, match="the target '' has no tokens"):
        tokenize(empty, tokenizer, RAW_TARGET, None, has_decoder=True)


@pytest.mark.parametrize(
    ("settings", "got"),
    [
        ({"renderings": ("raw",), "positions": ("last",)}, "got raw; leave"),
        ({"positions": ("all", "last", "mean")}, "got all, mean; leave"),
        ({"outputs": True}, "got --outputs; leave"),
    ],
)
def test_what_a_decoder_stack_cannot_give_is_refused(settings: dict[str, Any], got: str, t5: Path, root: Path):
    with pytest.raises(InvalidInput, match=f"a decoder stack expects --with-target, the positions last, .* {got}"):
        ingest(root, [Checkpoint(base=str(t5), stack="decoder")], [TASK], Options(**DECODER | settings))
    assert not root.exists()


def test_other_models_and_adapters_have_no_decoder_stack(llama: Path, t5: Path, adapters: Any, root: Path):
    wrong: list[tuple[dict[str, Any], type[ActError], str]] = [
        ({"base": str(llama)}, InvalidInput, "llama: stack decoder: expected one of t5, got llama; leave it out"),
        ({"base": str(t5), "adapter": str(adapters())}, Source, "under causal decoders only"),
    ]
    for settings, kind, match in wrong:
        with pytest.raises(kind, match=match):
            ingest(root, [Checkpoint(stack="decoder", **settings)], [TASK], Options(**DECODER))
    with pytest.raises(InvalidInput, match=r"sweep\.csv, line 2: stack: expected decoder or nothing, got 'encoder'"):
        Checkpoint(base="t5", stack="encoder", origin="sweep.csv, line 2")
