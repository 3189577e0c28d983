"""Every token as a row, prompts with their targets, the content without its template, and what the model puts out."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from actlas.analyze import compare_table
from actlas.ingest import Checkpoint, Options, ingest, ingest_status, load_rendering
from actlas.ingest.capture import Capture
from actlas.ingest.tokenizing import tokenize
from actlas.store import InvalidInput, Source, create_store, make_task, open_store, verify
from tests.ingest.checkpoints import bits, byte_tokenizer, ingest_one, load, prompts, tiny_task
from tests.ingest.test_families import save

TASK = make_task(
    "rte", [{"prompt": f"{text}?", "target": "yes no"[: 3 + row % 4]} for row, text in enumerate(prompts(14))]
)
RAW, CHAT = (load_rendering(name, with_target=True) for name in ("raw", "chat"))


def run(store, base, task=TASK, **options):
    report = ingest(store, [Checkpoint(base=str(base), name="base")], [task], Options(device="cpu", **options))
    return {entry.position: entry for entry in report.written}


def small(root: Path, monkeypatch: pytest.MonkeyPatch, n_bytes: int = 1 << 14) -> None:
    """Batches of a few prompts, and superblocks of a few tokens: 32 rows of four layers of 32 features."""
    monkeypatch.setattr("actlas.store.spec.RAGGED_BYTES", n_bytes)
    create_store(root, batch_tokens=150)


# every token


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_positions_of_the_same_pass_follow_from_all_tokens(dtype, llama, root, monkeypatch):
    small(root, monkeypatch)
    entries = run(root, llama, positions=("last", "all", "mean", "first"), dtype=dtype)
    tokens = entries["all"]
    assert tokens.n_rows == tokens.n_tokens.sum() > 3 * tokens.superblock_rows
    assert sorted(tokens.offsets) != tokens.offsets.tolist()  # they stand as they were computed
    for row in range(len(TASK)):
        states = tokens.hidden_states[:, tokens.rows_of(row)]
        assert bits(states[:, -1]) == bits(entries["last"].hidden_states[:, row])
        assert bits(states[:, 0]) == bits(entries["first"].hidden_states[:, row])
        assert bits(tokens.final_norm[tokens.rows_of(row)][-1]) == bits(entries["last"].final_norm[row])
        mean, stored = states.astype("f8").mean(axis=1), entries["mean"].hidden_states[:, row].astype("f8")
        assert np.abs(mean - stored).max() <= (2**-8 if dtype == "bfloat16" else 1e-6) * np.abs(stored).max()
    assert not any(found.problems for found in verify(open_store(root)))


def test_all_tokens_have_the_same_values_and_id_alone_or_beside_others(llama, tmp_path, monkeypatch):
    small(tmp_path / "one.act", monkeypatch)
    create_store(tmp_path / "two.act", batch_tokens=150)
    beside = run(tmp_path / "one.act", llama, positions=("mean", "all"))["all"]
    assert run(tmp_path / "two.act", llama, positions=("all",))["all"].id == beside.id
    noise = beside.provenance["noise_floor"]
    assert max(noise["batch_against_alone"]) < 1e-5


@pytest.mark.parametrize("positions", [("all",), ("last", "all")])
@pytest.mark.parametrize("batches", [1, 4, 7])
def test_an_interrupted_ingest_of_all_tokens_goes_on(batches, positions, llama, root, tmp_path, monkeypatch):
    small(root, monkeypatch)
    create_store(tmp_path / "whole.act", batch_tokens=150)
    real, calls = Capture.__call__, []

    def stops(capture, token_ids, *parts):
        calls.append(len(token_ids))
        if len(calls) > 1 + 4 + batches:  # the probes, together and alone
            raise KeyboardInterrupt
        return real(capture, token_ids, *parts)

    monkeypatch.setattr(Capture, "__call__", stops)
    with pytest.raises(KeyboardInterrupt):
        run(root, llama, positions=positions)
    monkeypatch.setattr(Capture, "__call__", real)
    options = Options(device="cpu", positions=positions)
    (status,) = [
        one
        for one in ingest_status(root, [Checkpoint(base=str(llama), name="base")], [TASK], options)
        if one.position == "all"
    ]
    assert status.n_written == 0 or status.state == "interrupted"
    assert (status.n_written > 0) == (batches > 1)
    resumed = run(root, llama, positions=positions)
    whole = run(tmp_path / "whole.act", llama, positions=positions)
    assert {name: entry.id for name, entry in resumed.items()} == {name: entry.id for name, entry in whole.items()}
    assert resumed["all"].provenance["n_resumed"] == (status.n_written if positions == ("all",) else 0)
    assert not any(found.problems for found in verify(open_store(root)))


def test_compare_refuses_entries_that_are_not_one_row_an_example(llama, root):
    run(root, llama, positions=("all",))
    ingest(root, [Checkpoint(base=str(llama), name="twin")], [TASK], Options(device="cpu", positions=("all",)))
    with pytest.raises(InvalidInput, match=r"position all .*one row an example"):
        compare_table(open_store(root), ["base", "twin"], position="all")


# prompts with targets


def test_a_target_changes_nothing_before_it(llama, tmp_path):
    positions = ("last", "mean", "first")
    alone = run(tmp_path / "alone.act", llama, positions=positions)
    with_targets = run(tmp_path / "both.act", llama, positions=(*positions, "target-mean"), renderings=(RAW,))
    for position in positions:
        a, b = alone[position].hidden_states[...], with_targets[position].hidden_states[...]
        assert np.abs(a - b).max() < 2e-6 * np.abs(a).max()
        assert with_targets[position].rendering == "raw-target"


def test_the_target_is_what_follows_the_prompt(llama, root):
    found = run(root, llama, positions=("target-mean", "target-last"), renderings=(RAW,))
    entry, last = found["target-mean"], found["target-last"]
    model, tokenizer = load(llama), byte_tokenizer()
    for row, example in enumerate(TASK.rows):
        ids = tokenizer(f"{example['prompt']} {example['target']}")["input_ids"]
        n_target = len(str(example["target"])) + 1  # with the space
        assert (entry.n_tokens[row], entry.n_target_tokens[row]) == (len(ids), n_target)
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        for layer in range(3):
            own = states[layer][0, -n_target:].double().mean(dim=0).numpy()
            assert np.abs(entry.read(layer)[row] - own).max() < 2e-6 * np.abs(own).max()
            end = states[layer][0, -1].double().numpy()
            assert np.abs(last.read(layer)[row] - end).max() < 2e-6 * np.abs(end).max()


@pytest.mark.parametrize(
    ("prompt", "target", "joined"),
    [("Is it?", "yes", "Is it? yes"), ("Is it? ", "yes", "Is it? yes"), ("a", "\nb", "a\nb")],
)
def test_prompt_and_target_are_joined_by_one_space_unless_there_is_one(prompt, target, joined):
    task = make_task("one", [{"prompt": prompt, "target": target}])
    tokenized = tokenize(task, byte_tokenizer(), RAW, None)
    assert tokenized.token_ids == byte_tokenizer()([joined])["input_ids"]
    assert tokenized.parts[0].n_prompt == 1 + len(prompt)


def test_a_target_follows_the_opening_of_the_answer_in_a_chat():
    alone, both = (tokenize(TASK, byte_tokenizer(), one, None) for one in (load_rendering("chat"), CHAT))
    for row, example in enumerate(TASK.rows):
        answer = byte_tokenizer()(str(example["target"]), add_special_tokens=False)["input_ids"]
        assert both.token_ids[row] == alone.token_ids[row] + answer
    assert both.n_apart == 0


def test_where_tokens_would_span_prompt_and_target_the_target_stands_apart():
    vocabulary = {piece: number for number, piece in enumerate(["<pad>", "x", "a", "b", "ab", "ba", " "])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")])), pad_token="<pad>"
    )
    task = make_task("joined", [{"prompt": "xa", "target": "b"}, {"prompt": "xb", "target": "b"}])
    rendering = load_rendering("chat", with_target=True)
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenized = tokenize(task, tokenizer, rendering, None)
    assert tokenized.token_ids == [[1, 2, 3], [1, 3, 3]]  # not 1, 4: the prompt's last token would be another
    assert (tokenized.n_apart, [one.n_prompt for one in tokenized.parts]) == (1, [2, 2])


def test_a_long_prompt_makes_room_for_its_target():
    task = make_task("long", [{"prompt": "p" * 50, "target": "yes"}])
    tokenized = tokenize(task, byte_tokenizer(), RAW, 20)
    assert (tokenized.lengths, tokenized.n_truncated, tokenized.n_target_tokens) == ([20], 1, [4])
    assert tokenized.token_ids[0][-4:] == byte_tokenizer()(" yes", add_special_tokens=False)["input_ids"]
    with pytest.raises(InvalidInput, match="the target has 4 tokens, the model's context is 4: no room is left"):
        tokenize(task, byte_tokenizer(), RAW, 4)
    empty = make_task("empty", [{"prompt": "p ", "target": ""}])
    with pytest.raises(InvalidInput, match="the target '' has no tokens"):
        tokenize(empty, byte_tokenizer(), RAW, None)


# content


def test_the_content_is_the_prompt_without_its_template(llama, root):
    entry = run(root, llama, positions=("content-mean",), renderings=("chat",))["content-mean"]
    model, tokenizer = load(llama), byte_tokenizer()
    tokenized = tokenize(TASK, tokenizer, load_rendering("chat"), None)
    for row, example in enumerate(TASK.rows):
        ids, inner = tokenized.token_ids[row], tokenizer(str(example["prompt"]), add_special_tokens=False)["input_ids"]
        (start,) = [at for at in range(len(ids)) if ids[at : at + len(inner)] == inner]
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        own = states[2][0, start : start + len(inner)].double().mean(dim=0).numpy()
        assert np.abs(entry.read(2)[row] - own).max() < 2e-6 * np.abs(own).max()


def test_content_is_found_after_a_cut_and_beside_what_looks_like_it(tmp_path):
    path = tmp_path / "qa.jinja"
    path.write_text("Is a answer: {{ prompt }} a")
    task = make_task("one", [{"prompt": "a", "target": "yes"}, {"prompt": "a b c d", "target": "yes"}])
    rendering = load_rendering(str(path))
    whole = tokenize(task, byte_tokenizer(), rendering, None, with_content=True)
    assert [one.content for one in whole.parts] == [(14, 15), (14, 21)]  # after the BOS
    cut = tokenize(task, byte_tokenizer(), rendering, 7, with_content=True)
    assert [one.content for one in cut.parts] == [(4, 5), (1, 5)]
    with pytest.raises(InvalidInput, match="none of the tokens that the model sees holds the example's own text"):
        tokenize(task, byte_tokenizer(), rendering, 3, with_content=True)


@pytest.mark.parametrize(
    "template", ["{{ prompt }} {{ prompt }}", "no prompt", "{{ prompt | upper }}", "{{ prompt | length }}"]
)
def test_a_template_that_does_not_show_the_prompt_once_has_no_content(template, tmp_path):
    path = tmp_path / "qa.jinja"
    path.write_text(template)
    with pytest.raises(InvalidInput, match="does not show the prompt just once as it is"):
        tokenize(TASK, byte_tokenizer(), load_rendering(str(path)), None, with_content=True)


# outputs


def own_outputs(model, tokenizer, example):
    """The plain definition, from the logits of the whole model for one prompt and its target alone."""
    prompt, whole = (
        tokenizer(text)["input_ids"] for text in (example["prompt"], f"{example['prompt']} {example['target']}")
    )
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([whole])).logits[0].double()
    log_probabilities = logits.log_softmax(dim=1)
    last = len(prompt) - 1
    nll = -sum(float(log_probabilities[place, whole[place + 1]]) for place in range(last, len(whole) - 1))
    entropy = -float((log_probabilities[last].exp() * log_probabilities[last]).sum())
    return logits[last], entropy, nll


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_outputs_are_those_of_the_whole_model(family, tmp_path):
    config = {
        "llama": lambda: tf.LlamaConfig(
            vocab_size=259, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
        ),
        "gpt2": lambda: tf.GPT2Config(vocab_size=259, n_embd=32, n_layer=2, n_head=4),
        "gemma2": lambda: tf.Gemma2Config(
            vocab_size=259, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5,
        ),
    }[family]()  # fmt: skip
    base = save(tmp_path / family, config)
    create_store(tmp_path / "lab.act", batch_tokens=200)
    entry = run(tmp_path / "lab.act", base, renderings=(RAW,), outputs=True)["last"]
    model = tf.AutoModelForCausalLM.from_pretrained(base).eval()
    assert entry.outputs["top_token"].shape == (14, 50)
    for row, example in enumerate(TASK.rows):
        logits, entropy, nll = own_outputs(model, byte_tokenizer(), example)
        top = logits.topk(50)
        assert np.allclose(entry.outputs["top_logit"][row], top.values, atol=2e-5)
        assert np.allclose(logits[entry.outputs["top_token"][row]], top.values, atol=2e-5)
        assert entry.outputs["log_sum_exp"][row] == pytest.approx(float(logits.logsumexp(0)), abs=2e-5)
        assert entry.outputs["entropy"][row] == pytest.approx(entropy, abs=2e-5)
        assert entry.outputs["target_nll"][row] == pytest.approx(nll, abs=1e-4)


def test_outputs_stand_beside_the_same_states_in_an_entry_of_their_own(llama, root):
    plain = run(root, llama)["last"]
    entries = run(root, llama, positions=("mean", "last"), outputs=True)
    assert entries["last"].key != plain.key
    assert bits(entries["last"].hidden_states[...]) == bits(plain.hidden_states[...])
    assert not entries["mean"].has_outputs
    assert np.isnan(entries["last"].outputs["target_nll"]).all()
    with pytest.raises(InvalidInput, match="2 entries fit"):
        open_store(root).entry(model="base", task="rte")


def test_outputs_that_the_head_alone_does_not_give_are_refused(tmp_path):
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = save(tmp_path / "granite", tf.GraniteConfig(vocab_size=259, logits_scaling=8.0, **shape))
    with pytest.raises(Source, match=r"differ by .* from its own; .*leave --outputs out"):
        run(tmp_path / "lab.act", base, outputs=True)
    assert not (tmp_path / "lab.act").exists()
    assert run(tmp_path / "lab.act", base)["last"].n_examples == 14


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"positions": ("target-mean",)},
            "position target-mean: expected prompts with their targets, got raw; add --with-target",
        ),
        ({"positions": ("mean",), "outputs": True}, "kept beside the position last, got mean; add --position last"),
        (
            {"positions": ("span",)},
            "expected one or more of last, mean, first, content-mean, target-last, target-mean, all",
        ),
    ],
)
def test_wishes_that_cannot_be_are_refused_before_any_work(options, message, llama, root):
    with pytest.raises(InvalidInput, match=message):
        run(root, llama, **options)
    assert not root.exists()


@pytest.mark.parametrize("options", [{"outputs": True}, {"renderings": (RAW,)}])
def test_encoders_have_neither_outputs_nor_targets(options, tmp_path):
    config = tf.BertConfig(
        vocab_size=259, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, pad_token_id=2
    )
    base = save(tmp_path / "bert", config)
    with pytest.raises(InvalidInput, match="needs a causal decoder, this is an encoder"):
        run(tmp_path / "lab.act", base, **options)


def test_a_task_without_targets_runs_as_before(llama, root):
    entry = ingest_one(root, llama, tiny_task(5))
    assert "n_target_tokens" not in entry.manifest.arrays
