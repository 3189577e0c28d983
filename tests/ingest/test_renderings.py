"""Renderings: jinja files and system turns, and templates that would read, roll dice, or never end."""

import threading
import time

import pytest

from actlas.ingest import Checkpoint, Options, Rendering, ingest, load_rendering
from actlas.ingest.rendering import rendering_digest, texts_of
from actlas.ingest.templates import TemplateError, render_texts
from actlas.ingest.tokenizing import tokenize
from actlas.store import InvalidInput, NotFound, Source, make_task
from tests.ingest.checkpoints import CHAT, byte_tokenizer

ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}" + "{% endfor %}" * 3
TASK = make_task(
    "rte",
    [
        {"prompt": "Is it?", "target": "secret", "hint": "maybe", "n": 1},
        {"prompt": "Was it?", "target": "hidden", "hint": None, "n": 2},
    ],
)


@pytest.fixture
def jinja(tmp_path):
    """Writes a template and loads it as a rendering."""

    def writes(template, name="qa.jinja"):
        (tmp_path / name).write_text(template, encoding="utf-8")
        return load_rendering(str(tmp_path / name))

    return writes


def texts(rendering, tokenizer=None):
    return texts_of(TASK, tokenizer or byte_tokenizer(), rendering)


# jinja files


def test_a_jinja_file_sees_every_column_of_the_example(jinja):
    rendering = jinja("Q{{ n }}: {{ prompt }}{% if hint %} ({{ hint }}){% endif %}\nA:\n")
    assert (rendering.slug, rendering.kind) == ("qa", "jinja")
    assert texts(rendering) == ["Q1: Is it? (maybe)\nA:", "Q2: Was it?\nA:"]


@pytest.mark.parametrize("name", ["target", "example_id", "hints"])
def test_what_is_no_column_and_the_target_are_unknown_to_it(name, jinja):
    with pytest.raises(
        InvalidInput,
        match=rf"qa\.jinja: the template cannot be rendered for task rte, example 1 of 2: UndefinedError: '{name}' is "
        r"undefined; it sees the columns prompt, hint, n$",
    ):
        texts(jinja("{{ prompt }}{{ " + name + " }}"))


def test_the_first_example_that_fails_is_named(jinja):
    with pytest.raises(InvalidInput, match="example 2 of 2: UndefinedError"):
        texts(jinja("{{ prompt if n == 1 else nothing }}"))


def test_its_text_gets_the_tokenizers_own_special_tokens_and_one_bos(jinja):
    tokenizer = byte_tokenizer()
    raw = tokenize(TASK, tokenizer, load_rendering("raw"), None)
    assert tokenize(TASK, tokenizer, jinja("{{ prompt }}"), None).digests == raw.digests
    assert tokenize(TASK, tokenizer, jinja("<bos>{{ prompt }}"), None).digests == raw.digests
    plain = tokenize(TASK, byte_tokenizer(bos=False), jinja("{{ prompt }}"), None).token_ids
    assert plain == [ids[1:] for ids in raw.token_ids]


@pytest.mark.parametrize(
    ("template", "match"),
    [
        ("a\n{% for %}", r"before the first example: line 2: Expected an expression"),
        ("{% if prompt %}", r"before the first example: line 1: Unexpected end of template"),
        ("{{ 1 / 0 }}", r"ZeroDivisionError|division by zero"),
        ("{% include '/etc/passwd' %}", "no loader for this environment"),
        ("{% import '/etc/passwd' as x %}", "no loader for this environment"),
        ("{% extends 'x' %}", "no loader for this environment"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError|unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "SecurityError|unsafe"),
        ("{{ [1, 2] | random }}", "No filter named 'random'"),
        ("{{ lipsum() }}", "'lipsum' is undefined"),
        ("{{ strftime_now('%Y') }}", "'strftime_now' is undefined"),
        ("{{ range(10**9) | length }}", "OverflowError: Range too big"),
        ("{{ namespace(_x=1) }}", "SecurityError: a namespace cannot hold names that begin with an underscore"),
        ("{{ '%c' % 55296 }}", "UnicodeEncodeError"),
    ],
    ids=range(14),
)
def test_a_template_that_fails_or_reaches_out_is_refused(template, match, jinja):
    with pytest.raises(InvalidInput, match=match):
        texts(jinja(template))


def test_paths_that_are_no_jinja_file_are_refused(tmp_path, jinja):
    with pytest.raises(InvalidInput, match=r"rendering 'html': expected raw, chat or a path that ends in \.jinja"):
        load_rendering("html")
    with pytest.raises(NotFound, match=r"no template at .*gone\.jinja: expected raw, chat or the path of a"):
        load_rendering(str(tmp_path / "gone.jinja"))
    with pytest.raises(InvalidInput, match=r"rendering name 'My QA' is not a slug.*'my-qa' would do"):
        jinja("x", "My QA.jinja")
    with pytest.raises(InvalidInput, match=r"chat\.jinja: the name chat is taken by the rendering chat; rename"):
        jinja("x", "chat.jinja")
    (tmp_path / "bytes.jinja").write_bytes(b"\xff")
    with pytest.raises(InvalidInput, match=r"bytes\.jinja: cannot be read as text in UTF-8"):
        load_rendering(str(tmp_path / "bytes.jinja"))
    (tmp_path / "directory.jinja").mkdir()
    with pytest.raises(InvalidInput, match=r"directory\.jinja: cannot be read as text"):
        load_rendering(str(tmp_path / "directory.jinja"))


# the time limit


@pytest.mark.parametrize("template", [ENDLESS, "{{ 9 ** (9 ** 9) }}", "{% set x = 9 %}{{ x ** (x ** x) }}"])
def test_a_template_that_never_ends_is_stopped(template):
    with pytest.raises(TemplateError, match=r"did not end within 0\.2 s; look for a loop that goes on and on"):
        render_texts(template, [{}], kind="jinja", seconds=0.2)


def test_the_limit_holds_for_one_example_and_not_for_all_together():
    slow = "{% for i in range(n) %}{% for j in range(n) %}{% endfor %}{% endfor %}"
    begin = time.perf_counter()
    assert render_texts(slow, [{"n": 1500}] * 12, kind="jinja", seconds=0.5) == [""] * 12
    assert time.perf_counter() - begin > 0.5
    with pytest.raises(TemplateError, match="example 3 of 4: it did not end within"):
        render_texts(slow, [{"n": 1}, {"n": 2}, {"n": 99999}, {"n": 3}], kind="chat", seconds=0.2)


def test_it_is_stopped_in_another_thread_too():
    raised = []

    def render():
        try:
            render_texts(ENDLESS, [{}], kind="jinja", seconds=0.2)
        except TemplateError as error:
            raised.append(str(error))

    thread = threading.Thread(target=render)
    thread.start()
    thread.join(30)
    assert [message.partition(":")[0] for message in raised] == ["example 1 of 1"]


def test_a_text_that_fills_the_memory_is_refused():
    with pytest.raises(TemplateError, match=r"example 1 of 1: MemoryError|did not end within"):
        render_texts("{{ 'x' * n }}", [{"n": 10**11}], kind="jinja")


def test_a_chat_template_that_never_ends_is_refused_with_its_tokenizer():
    with pytest.raises(
        Source, match=r"the chat template cannot be rendered for task rte, example 1 of 2: it did not end"
    ):
        texts(load_rendering("chat"), byte_tokenizer(chat=ENDLESS))


# chat


@pytest.mark.parametrize(
    "template",
    [
        CHAT,
        "{% for m in messages %}\n  {%- if loop.first %}\n [{{ m.role }}]\n  {% endif %}\n{{ m.content | trim }}\n{% endfor %}\n",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}{{ eos_token }}",
        "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}{{ dict(a=1) }}",
        "{% generation %}{{ messages[0].content }}{% endgeneration %}{% for i in [1, 2] %}{% break %}{% endfor %}",
        "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ nothing }}{{ pad_token }}",
        "{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(messages[0]['content'].split(' ')[-1]) }}\n\n",
    ],
)  # fmt: skip
def test_a_chat_template_gives_what_transformers_gives(template):
    tokenizer = byte_tokenizer(chat=template)
    assert texts(load_rendering("chat"), tokenizer) == [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}], tokenize=False, add_generation_prompt=True
        )
        for row in TASK.rows
    ]


def test_a_system_turn_comes_first():
    rendering = load_rendering("chat", " Be brief. ")
    assert rendering.slug == "chat"
    assert texts(rendering)[0] == "<bos>[system] Be brief. [user]Is it?[assistant]"


def test_a_system_turn_that_the_template_drops_or_refuses_is_an_error():
    rendering = load_rendering("chat", "Be brief.")
    with pytest.raises(Source, match="the chat template leaves the system turn out; leave --system out too"):
        texts(rendering, byte_tokenizer(chat="{{ messages[-1]['content'] }}"))
    with pytest.raises(Source, match="TemplateError: no system turns here"):
        texts(rendering, byte_tokenizer(chat="{{ raise_exception('no system turns here') }}"))


def test_a_system_turn_without_chat_is_refused(jinja):
    jinja("x")
    for name in ("raw", "qa.jinja"):
        with pytest.raises(InvalidInput, match=f"--system: expected the rendering chat alone, got {name}"):
            load_rendering(name, "Be brief.")


# digests


def test_a_digest_covers_kind_template_and_system_turn_and_no_path(jinja):
    tokenizer = byte_tokenizer()
    renderings = [
        load_rendering("raw"),
        load_rendering("chat"),
        load_rendering("chat", ""),
        load_rendering("chat", "a"),
        jinja(CHAT),
        jinja(CHAT + " "),
    ]
    digests = [rendering_digest(tokenizer, rendering) for rendering in renderings]
    assert len(set(digests)) == 6
    assert rendering_digest(tokenizer, jinja(CHAT, "other.jinja")) == digests[4]
    assert rendering_digest(byte_tokenizer(chat="x"), renderings[4]) == digests[4]


def test_renderings_live_side_by_side_and_two_of_one_name_are_refused(root, llama, jinja):
    checkpoint = Checkpoint(base=str(llama), name="base")
    qa = jinja("Q: {{ prompt }}")
    chosen = ("raw", "raw", qa, load_rendering("chat", "Be brief."))
    entries = ingest(root, [checkpoint], [TASK], Options(device="cpu", renderings=chosen)).written
    assert [entry.rendering for entry in entries] == ["raw", "qa", "chat"]
    other = Rendering(slug="qa", kind="jinja", template="x", source="x")
    with pytest.raises(InvalidInput, match="two renderings are called qa; rename one of the files"):
        ingest(root, [checkpoint], [TASK], Options(device="cpu", renderings=(qa, other)))
    changed = ingest(root, [checkpoint], [TASK], Options(device="cpu", renderings=(jinja("A: {{ prompt }}"),)))
    assert [entry.rendering for entry in changed.written] == ["qa"]
