"""How prompts become tokens: one BOS, no clock, nothing lost but the beginning, and that is counted."""

import json

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from actlas.ingest import RENDERINGS, Checkpoint, Options, Progress, ingest
from actlas.ingest.checkpoint import find_base
from actlas.ingest.rendering import load_rendering, rendering_digest
from actlas.ingest.tokenizing import tokenize
from actlas.store import InvalidInput, Source, create_store, make_task
from tests.ingest.checkpoints import CHAT, byte_tokenizer, ingest_one, save_base, tiny_task

BOS, LIMIT = 0, 20


def one(prompt):
    return make_task("one", [{"prompt": prompt, "target": ""}])


def tokens(prompt, tokenizer, rendering, limit=None):
    (ids,) = tokenize(one(prompt), tokenizer, load_rendering(rendering), limit).token_ids
    return ids


def digest_of(tokenizer, rendering, system=None):
    return rendering_digest(tokenizer, load_rendering(rendering, system))


class Notes(Progress):
    def __init__(self):
        self.said = []

    def note(self, message):
        self.said.append(message)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=20, unique=True))
def test_there_is_one_bos_raw_and_one_in_chat(prompts):
    tokenizer = byte_tokenizer()
    task = make_task("many", [{"prompt": prompt, "target": ""} for prompt in prompts])
    raw, chat = (tokenize(task, tokenizer, load_rendering(name), None).token_ids for name in ("raw", "chat"))
    assert raw == [tokenizer(prompt)["input_ids"] for prompt in prompts]
    for prompt, raw_ids, chat_ids in zip(prompts, raw, chat, strict=True):
        if "<" not in prompt:  # a prompt may spell a special token out
            assert (raw_ids.count(BOS), raw_ids[0]) == (1, BOS)
            assert (chat_ids.count(BOS), chat_ids[0]) == (1, BOS)
            assert tokenizer.decode(chat_ids) == f"<bos>[user]{prompt}[assistant]"


@pytest.mark.parametrize("template", ["{{ bos_token }}Q: ", "Q: ", "{{ bos_token }}{{ bos_token }}Q: "])
def test_a_chat_has_one_bos_whatever_the_template_does(template):
    tokenizer = byte_tokenizer(chat=template + "{{ messages[0]['content'] }}")
    assert tokenizer.decode(tokens("hello", tokenizer, "chat")) == "<bos>Q: hello"


def test_a_bos_is_given_only_where_template_or_tokenizer_know_one():
    plain, own = "{{ messages[0]['content'] }}", "{{ bos_token }}{{ bos_token }}{{ messages[0]['content'] }}"
    assert BOS not in tokens("hello", byte_tokenizer(bos=False, chat=plain), "chat")
    assert tokens("hello", byte_tokenizer(bos=False, chat=own), "chat").count(BOS) == 1
    assert BOS not in tokens("hello", byte_tokenizer(bos=False), "raw")


def test_the_frozen_clock_leaves_the_whitespace_of_a_template_alone():
    for chat in ("\n a{{ 1 }}", "  {% if true %}\nx{% endif %}", "\n\n{{ bos_token }}", "{{- 'b' }} ", CHAT):
        tokenizer = byte_tokenizer(chat=chat)
        own = tokenizer.apply_chat_template(
            [{"role": "user", "content": "q"}], tokenize=False, add_generation_prompt=True
        )
        assert tokenizer.decode(tokens("q", tokenizer, "chat")) == "<bos>" * ("<bos>" not in own) + own


@pytest.mark.parametrize(
    "clock",
    [
        "{{ strftime_now('%d %b %Y') }}",
        "{{ date_string }}",
        "{% if strftime_now is defined %}{% set date = strftime_now('%Y') %}{{ date | trim }}{% endif %}",
        "{% macro today() %}{{ strftime_now('%Y') }}{% endmacro %}{% for _ in [1] %}{{ today() }}{% endfor %}",
    ],
)
def test_a_template_that_asks_for_the_date_gets_the_same_on_any_day(clock):
    tokenizer = byte_tokenizer(chat=clock + CHAT)
    today = tokens("hello", tokenizer, "chat")
    assert tokenizer.decode(today).startswith("01 Jan 2024<bos>")


@pytest.mark.parametrize("name", RENDERINGS)
def test_truncation_cuts_the_beginning_and_keeps_bos_and_the_last_token(name):
    tokenizer, task, rendering = byte_tokenizer(), tiny_task(30), load_rendering(name)
    whole, short = tokenize(task, tokenizer, rendering, None), tokenize(task, tokenizer, rendering, LIMIT)
    assert whole.n_truncated == 0
    assert short.n_truncated == sum(len(full) > LIMIT for full in whole.token_ids) > 0
    assert short.token_ids == [full if len(full) <= LIMIT else [BOS, *full[1 - LIMIT :]] for full in whole.token_ids]
    assert short.lengths == [len(cut) for cut in short.token_ids]


def test_truncation_without_bos_and_to_one_token_keeps_the_end():
    tokenizer = byte_tokenizer(bos=False)
    full = tokens("abcdef", tokenizer, "raw")
    assert tokens("abcdef", tokenizer, "raw", 4) == full[-4:]
    assert tokens("abcdef", byte_tokenizer(), "raw", 1) == full[-1:]


def test_truncation_is_counted_in_provenance_and_said(tmp_path, root):
    base = save_base(tmp_path / "base", tokenizer=byte_tokenizer(context=30))
    task, notes = tiny_task(15), Notes()
    long = sum(len(ids) > 30 for ids in tokenize(task, byte_tokenizer(), load_rendering("raw"), None).token_ids)
    assert 0 < long < 15
    checkpoint = Checkpoint(base=str(base), name="base")
    (entry,) = ingest(root, [checkpoint], [task], Options(device="cpu"), progress=notes).written
    assert notes.said == [f"task rte (raw): {long} prompts cut at their beginning to 30 tokens"]
    assert entry.provenance["n_truncated"] == long
    assert entry.n_tokens[...].max() == 30


def test_another_context_is_another_key_where_it_cuts_and_only_there(tmp_path, root):
    base = save_base(tmp_path / "base", tokenizer=byte_tokenizer(context=30))
    create_store(root, batch_tokens=10_000)  # one batch: the plan does not tell the two apart
    short, long = (
        make_task("short", [{"prompt": "ab", "target": ""}]),
        make_task("long", [{"prompt": "ab" * 40, "target": ""}]),
    )
    cut = [ingest_one(root, base, task) for task in (short, long)]
    config = base / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 28}))
    (again,) = ingest(root, [Checkpoint(base=str(base), name="base")], [short], Options(device="cpu")).present
    assert again.id == cut[0].id
    other = ingest_one(root, base, long)
    assert other.key != cut[1].key
    assert other.token_digests != cut[1].token_digests


def test_without_a_bound_in_the_tokenizer_the_models_own_holds(tmp_path):
    unbounded = save_base(tmp_path / "unbounded", tokenizer=byte_tokenizer(context=None))
    assert find_base(str(unbounded)).max_tokens == 128
    bounded = save_base(tmp_path / "bounded", tokenizer=byte_tokenizer(context=64))
    assert find_base(str(bounded)).max_tokens == 64


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(InvalidInput, match=r"task one, example \w{32}: the prompt '' has no tokens"):
        tokens("", byte_tokenizer(bos=False), "raw")
    assert tokens("", byte_tokenizer(), "raw") == [BOS]
    with pytest.raises(InvalidInput, match="has no tokens under this tokenizer; leave the example out"):
        tokens("x", byte_tokenizer(chat="{# nothing #}"), "chat")


def test_without_a_template_chat_is_refused(tmp_path):
    checkpoint = Checkpoint(base=str(save_base(tmp_path / "plain", tokenizer=byte_tokenizer(chat=None))))
    with pytest.raises(Source, match="plain: the tokenizer has no chat template, so --render chat means nothing"):
        ingest(tmp_path / "lab.act", [checkpoint], [tiny_task(2)], Options(device="cpu", renderings=("chat",)))
    with pytest.raises(Source, match="no chat template, so --render chat means nothing; use --render raw"):
        digest_of(byte_tokenizer(chat=None), "chat")


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no user turn') }}",
        "{% for %}",
        "{{ messages[7]['content'] }}",
        "{{ 1 + 'a' }}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_that_cannot_be_rendered_is_refused(template):
    with pytest.raises(Source, match="the chat template cannot be rendered"):
        tokens("x", byte_tokenizer(chat=template), "chat")


def test_a_rendering_is_known_by_its_template():
    digests = {digest_of(byte_tokenizer(chat=chat), "chat") for chat in (CHAT, CHAT + "!")}
    raw = {digest_of(byte_tokenizer(chat=chat), "raw") for chat in (CHAT, None)}
    assert len(digests) == 2
    assert len(raw) == 1
    assert not raw & digests


def test_a_token_digest_is_the_xxh3_128_of_little_endian_int32(llama, root, task):
    entry = ingest_one(root, llama, task)
    token_ids = byte_tokenizer()(task.column("prompt"))["input_ids"]
    assert entry.token_digests == [xxhash.xxh3_128_hexdigest(np.array(ids, "<i4").tobytes()) for ids in token_ids]
    assert entry.n_tokens[...].tolist() == [len(ids) for ids in token_ids]


def test_raw_and_chat_live_side_by_side(llama, root, task):
    checkpoint = Checkpoint(base=str(llama), name="base")
    report = ingest(root, [checkpoint], [task], Options(device="cpu", renderings=RENDERINGS))
    raw, chat = report.written
    assert (raw.rendering, chat.rendering) == RENDERINGS
    assert (chat.n_tokens[...] - raw.n_tokens[...]).tolist() == [len("[user][assistant]")] * len(task)
