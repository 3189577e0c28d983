"""Bad input: one message that says what was expected, what came, where, and what to do; exit 1; the store unchanged."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from actlas.store import create_store, open_writer
from tests.cli.conftest import ACT, Act, Result, flan, tree_digest, write_jsonl
from tests.store.tiny import tiny_model, tiny_spec, tiny_task, tiny_values, unlock, write_tiny

not_root = pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")


def assert_refused(result: Result, *words: object) -> None:
    """One message on stderr, nothing on stdout, exit 1."""
    assert result.code == 1, result
    assert result.out == ""
    assert result.err.count("Error: ") == 1
    assert result.err.splitlines()[-1].strip()
    assert "Traceback" not in result.err
    for word in words:
        assert str(word) in result.err, result.err


@contextlib.contextmanager
def unchanged(root: Path) -> Iterator[None]:
    before = tree_digest(root)
    yield
    assert tree_digest(root) == before


@pytest.fixture
def copied(lab: Path, tmp_path: Path) -> Path:
    """A store of its own, unlocked."""
    shutil.copytree(lab, tmp_path / "copied.act")
    unlock(tmp_path / "copied.act")
    return tmp_path / "copied.act"


# Stores


READERS = {"ls": [], "tasks": [], "info": ["base"], "verify": [], "compare": ["base", "tuned"]}


@pytest.mark.parametrize("command", READERS)
def test_no_such_store(act: Act, tmp_path: Path, command: str):
    assert_refused(
        act(command, tmp_path / "lab.act", *READERS[command]),
        f"no store at {tmp_path / 'lab.act'}",
        "`act ingest` makes one",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [*READERS, "ingest"])
def test_a_directory_and_a_file_that_are_no_store(
    act: Act, tmp_path: Path, checkpoints: Path, tasks: Path, command: str
):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("x")
    arguments = READERS.get(command, ["--model", checkpoints / "base", "--tasks", tasks])
    with unchanged(tmp_path):
        for path in (tmp_path / "notes", tmp_path / "notes" / "todo.txt"):
            assert_refused(
                act(command, path, *arguments), f"{path} is not an actlas store", "give the store's top directory"
            )


@pytest.mark.parametrize("command", [*READERS, "ingest"])
def test_a_newer_format(act: Act, copied: Path, checkpoints: Path, tasks: Path, command: str):
    root = json.loads((copied / "zarr.json").read_text())
    root["attributes"]["actlas"]["format"] = 2
    (copied / "zarr.json").write_text(json.dumps(root))
    arguments = READERS.get(command, ["--model", checkpoints / "base", "--tasks", tasks])
    with unchanged(copied):
        assert_refused(act(command, copied, *arguments), "format 2", "reads up to 1", "install a newer actlas")


def test_a_store_that_cannot_be_made(act: Act, checkpoints: Path, tasks: Path, tmp_path: Path):
    result = act("ingest", tmp_path / "no" / "lab.act", "--model", checkpoints / "base", "--tasks", tasks)
    assert_refused(
        result, f"{tmp_path / 'no' / 'lab.act'}: the store cannot be made there", "No such file or directory"
    )


@not_root
def test_a_store_that_cannot_be_written(act: Act, copied: Path, checkpoints: Path, tasks: Path):
    copied.chmod(0o555)
    result = act("ingest", copied, "--model", checkpoints / "base", "--tasks", tasks, "--layers", "0")
    copied.chmod(0o755)
    assert_refused(result, copied, "cannot be written to", "ask its owner")


# Names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info", "bas"], ["no model 'bas'", "did you mean 'base'?"]),
        (["info", "zzz"], ["no model 'zzz'", "there is: base, other, tuned"]),
        (["info", "base/rt"], ["no task 'rt'", "did you mean 'rte'?"]),
        (["info", "../base"], ["model name '..' is not a slug"]),
        (["info", "base/../../x"], ["task name '../../x' is not a slug", "'x' would do"]),
        (["info", "Base"], ["model name 'Base' is not a slug", "'base' would do"]),
        (["verify", "--model", "bas"], ["no model 'bas'", "did you mean 'base'?"]),
        (["compare", "base", "tunde"], ["no model 'tunde'", "did you mean 'tuned'?"]),
        (["compare", "base", "tuned/rte"], ["model name 'tuned/rte' is not a slug"]),
        (["compare", "base"], ["at least two models", "got 1"]),
        (["compare", "base", "tuned", "base"], ["asked for base twice", "name every model once"]),
        (["compare", "base", "base:raw"], ["asked for base twice"]),
        (["compare", "base:chat", "tuned"], ["rendering 'chat'", "it has base:raw on qa, rte, sst2"]),
        (["compare", "base:", "tuned"], ["rendering ''", "it has base:raw"]),
        (["compare", "base@float16", "tuned"], ["base@float16 has no entry", "it has base:raw@float32"]),
        (["compare", "base", "tuned", "--tasks", "rtf"], ["no task fits 'rtf'", "did you mean 'rte'?"]),
        (
            ["compare", "base", "tuned", "--tasks", "rte", "--tasks", "x*"],
            ["no task fits 'x*'", "there is: qa, rte, sst2"],
        ),
        (["compare", "base", "tuned", "--tasks", ""], ["no task fits ''", "there is: qa, rte, sst2"]),
    ],
)
def test_unknown_names_and_near_misses(act: Act, lab: Path, arguments: list[str], words: list[str]):
    with unchanged(lab):
        assert_refused(act(arguments[0], lab, *arguments[1:]), *words)


def test_several_entries_that_fit_are_listed(act: Act, copied: Path, checkpoints: Path, tasks: Path):
    call = ("ingest", copied, "--model", checkpoints / "base", "--tasks", tasks / "rte.jsonl", "--dtype", "bfloat16")
    assert act(*call).code == 0
    with unchanged(copied):
        result = act("compare", copied, "base", "tuned")
        assert_refused(result, "2 entries fit", "by its dtype or key, as in base@", "dtype=bfloat16", "dtype=float32")
    assert act("compare", copied, "base@float32", "tuned").code == 0


# Tasks


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.jsonl", b"", ["expected at least one example, got an empty file"]),
        ("blank.jsonl", b"\n\n", ["expected at least one example"]),
        ("broken.jsonl", b'{"inputs": "a", "targets": "b"}\n\n{oops\n', [", line 3: expected one JSON object a line", "oops"]),
        ("list.jsonl", b"[1, 2]\n", [", line 1: expected a JSON object, got list"]),
        ("latin.jsonl", b'{"inputs": "\xe9", "targets": "b"}\n', [", line 1: ", "utf-8"]),
        ("fields.jsonl", b'{"text": "a", "label": "b"}\n', [", line 1: ", "got text, label", "--field prompt=NAME"]),
        ("target.jsonl", b'{"inputs": "a"}\n', [", line 1: expected a field 'targets', got inputs", "--field"]),
        ("number.jsonl", b'{"inputs": 3, "targets": ""}\n', [", line 1: expected text in field 'inputs', got int: 3"]),
        ("name.jsonl", b'{"inputs": "a", "targets": "b", "task": "A/B"}\n', ["'A/B' is not a slug", "'a-b' would do"]),
        ("bad.parquet", b"PAR1", ["not a readable Parquet file"]),
        ("notes.txt", b"x", ["expected a name ending in .jsonl, .parquet or .csv"]),
    ],
)  # fmt: skip
def test_a_tasks_file_that_cannot_be_used(
    act: Act, lab: Path, checkpoints: Path, tmp_path: Path, name: str, content: bytes, words: list[str]
):
    (tmp_path / name).write_bytes(content)
    with unchanged(lab):
        result = act("ingest", lab, "--model", checkpoints / "base", "--tasks", tmp_path / name)
        assert_refused(result, tmp_path / name, *words)


def test_tasks_that_are_not_there(act: Act, lab: Path, checkpoints: Path, tmp_path: Path):
    call = ("ingest", lab, "--model", checkpoints / "base", "--tasks")
    (tmp_path / "none").mkdir()
    with unchanged(lab):
        assert_refused(act(*call, tmp_path / "x.jsonl"), f"no tasks file at {tmp_path / 'x.jsonl'}")
        assert_refused(act(*call, tmp_path / "none"), "files in this directory, FLAN's splits, or a dataset; got none")
        assert_refused(act(*call, f"A B={tmp_path / 'x.jsonl'}"), "task name 'A B' is not a slug", "'a-b' would do")


# Checkpoints


@pytest.fixture
def broken(checkpoints: Path, tmp_path: Path) -> Path:
    """A base to break."""
    return shutil.copytree(checkpoints / "base", tmp_path / "broken")


def refuse_model(act: Act, lab: Path, tasks: Path, model: Path, *words: object) -> None:
    with unchanged(lab):
        assert_refused(act("ingest", lab, "--model", model, "--tasks", tasks), model, *words)


def test_a_checkpoint_without_safetensors(act: Act, lab: Path, tasks: Path, broken: Path):
    (broken / "model.safetensors").unlink()
    refuse_model(act, lab, tasks, broken, "expected the weights of a model as .safetensors, got no weights")
    (broken / "pytorch_model.bin").write_bytes(b"x")
    refuse_model(act, lab, tasks, broken, "got pytorch_model.bin", "save_pretrained")


def test_a_checkpoint_with_missing_or_foreign_tensors(act: Act, lab: Path, tasks: Path, broken: Path):
    weights = load_file(broken / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    query = weights.pop(name)
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    refuse_model(act, lab, tasks, broken, f"missing {name}")
    save_file(weights | {name: query, "model.extra": query}, broken / "model.safetensors", {"format": "pt"})
    refuse_model(act, lab, tasks, broken, "unexpected model.extra")


def test_a_checkpoint_that_is_cut_off(act: Act, lab: Path, tasks: Path, broken: Path):
    data = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[: len(data) // 2])
    refuse_model(act, lab, tasks, broken)


def test_a_directory_that_is_no_checkpoint(act: Act, lab: Path, tasks: Path):
    refuse_model(act, lab, tasks, tasks, "not a model checkpoint", "config.json")
    refuse_model(act, lab, tasks, Path("nobody/here"), "in the local cache", "hf download nobody/here")


def test_an_adapter_for_another_base(act: Act, lab: Path, checkpoints: Path, tasks: Path):
    call = ("ingest", lab, "--model", checkpoints / "base", "--adapter", checkpoints / "other-tuned", "--tasks", tasks)
    with unchanged(lab):
        assert_refused(
            act(*call), f"was trained on {checkpoints / 'other'}, not on {checkpoints / 'base'}", "give --model"
        )


def test_an_adapter_that_is_none(act: Act, lab: Path, checkpoints: Path, tasks: Path):
    call = ("ingest", lab, "--model", checkpoints / "base", "--adapter", checkpoints / "other", "--tasks", tasks)
    with unchanged(lab):
        assert_refused(act(*call), checkpoints / "other", "not a PEFT adapter", "adapter_config.json")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--name", "tuned"], ["the name 'tuned' belongs to another checkpoint", "give this one another name"]),
        (["--name", "Llama 2"], ["model name 'Llama 2' is not a slug", "'llama-2' would do", "--name"]),
        (["--name", "a", "--name", "b"], ["--name: expected one for each of 1 checkpoints, got 2"]),
        (["--trained-on", "rtf"], ["trained on 'rtf'", "did you mean 'rte'?"]),
        (["--adapter", "a", "--adapter", "b", "--trained-on", "rte"], ["--trained-on speaks of one checkpoint"]),
        (["--layers", "7"], ["the model has layers 0 to 2, got 7"]),
        (["--layers", "upper"], ["expected numbers and slices", "got 'upper'"]),
        (["--layers", "2:1"], ["names no layer of 0 to 2"]),
        (["--dtype", "int8"], ["dtype 'int8': expected one of bfloat16, float16, float32"]),
        (["--device", "abacus"], ["device 'abacus' cannot be used"]),
        (["--revision", "main"], ["has no revisions", "leave --revision main out"]),
    ],
)
def test_options_that_do_not_fit(
    act: Act, lab: Path, checkpoints: Path, tasks: Path, options: list[str], words: list[str]
):
    with unchanged(lab):
        result = act("ingest", lab, "--model", checkpoints / "base", "--tasks", tasks, *options)
        assert_refused(result, *words)


# Comparing


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A store in which models a and b have nothing yet."""
    return create_store(tmp_path / "pair.act").root


def put(root: Path, name: str, n: int, *, start: int = 0, task: str = "rte", tokens: str | None = None) -> None:
    """Write an entry on examples start to start + n."""
    whole = tiny_task(start + n, task)
    spec = tiny_spec(
        model=tiny_model(name, norm_width=None, base="ab"[name == "b"] * 2),
        task=replace(whole, rows=whole.rows[start:]),
        dtype="float32",
    )
    if tokens is not None:
        spec = replace(spec, token_digests=[tokens * 32, *spec.token_digests[1:]])
    values = np.random.default_rng(n).normal(size=tiny_values(spec)[0].shape).astype("f4")
    write_tiny(open_writer(root), spec, (values, None))


def test_models_that_share_no_task(act: Act, pair: Path):
    put(pair, "a", 5)
    put(pair, "b", 5, task="boolq")
    with unchanged(pair):
        assert_refused(act("compare", pair, "a", "b"), "share no task", "a has rte", "b has boolq")


def test_models_that_share_no_examples(act: Act, pair: Path):
    put(pair, "a", 5)
    put(pair, "b", 5, start=5)
    with unchanged(pair):
        assert_refused(
            act("compare", pair, "a", "b"),
            "task 'rte'",
            "a and b share 0 examples",
            "ingest both from the same tasks file",
        )


def test_models_that_share_fewer_than_four_examples(act: Act, pair: Path):
    put(pair, "a", 5)
    put(pair, "b", 5, start=2)
    with unchanged(pair):
        assert_refused(act("compare", pair, "a", "b"), "share 3 examples, expected at least 4", "they have 5 and 5")


def test_models_that_saw_different_tokens(act: Act, pair: Path):
    put(pair, "a", 5)
    put(pair, "b", 5, tokens="f")
    with unchanged(pair):
        assert_refused(
            act("compare", pair, "a", "b"), "saw different tokens for 1 of 5 shared examples", "one tokenizer and rendering",
            pair / "models" / "a", "ingest the older entry again",
        )  # fmt: skip


def test_models_of_unequal_depth_under_matched_layers(act: Act, copied: Path, checkpoints: Path, tasks: Path):
    assert act("ingest", copied, "--model", checkpoints / "deeper", "--tasks", tasks / "rte.jsonl").code == 0
    with unchanged(copied):
        result = act("compare", copied, "base", "deeper")
        assert_refused(result, "base keeps 3 layers (0 to 2), deeper keeps 4", "use --layers relative, all")
    assert act("compare", copied, "base", "deeper", "--layers", "all").code == 0


def test_an_entry_that_is_damaged(act: Act, copied: Path):
    next(copied.glob("models/base/rte/*/hidden_states/c.*")).write_bytes(b"")
    with unchanged(copied):
        assert_refused(act("compare", copied, "base", "tuned"), "hidden_states", "expected", "got 0")
        assert act("compare", copied, "base", "tuned", "--tasks", "qa").code == 0


@pytest.mark.parametrize("option", ["--out", "--plot", "--plot-models"])
def test_an_output_that_cannot_be_written_is_found_before_the_work(
    act: Act, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
):
    monkeypatch.setattr("actlas.cli.compare.ask", lambda *_, **__: pytest.fail("the work began"))
    suffix = {"--out": ".nc", "--plot": ".svg", "--plot-models": ".svg"}[option]
    (tmp_path / f"directory{suffix}").mkdir()
    (tmp_path / "file").touch()
    places = {
        tmp_path / "x.docx": "expected a name ending in",
        tmp_path / f"x{suffix.upper()}": "expected a name ending in",
        tmp_path / "x": "expected a name ending in",
        tmp_path / "no" / f"x{suffix}": "No such file or directory",
        tmp_path / "file" / f"x{suffix}": "Not a directory",
        tmp_path / f"directory{suffix}": "is a directory",
        lab / f"x{suffix}": "inside the store",
    }
    with unchanged(lab), unchanged(tmp_path):
        for place, words in places.items():
            assert_refused(act("compare", lab, "base", "tuned", option, place), place, words)
        assert_refused(act("compare", lab, "base", "tuned", option, ""), "expected a name ending in")


@not_root
@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_an_output_without_permission_is_found_before_the_work(act: Act, lab: Path, tmp_path: Path, option: str):
    name = {"--out": "x.csv", "--plot": "x.png"}[option]
    tmp_path.chmod(0o555)
    assert_refused(act("compare", lab, "base", "tuned", option, tmp_path / name), "Permission denied", "another path")
    tmp_path.chmod(0o755)
    (tmp_path / name).touch(0o444)
    assert_refused(act("compare", lab, "base", "tuned", option, tmp_path / name), "Permission denied", "another path")


@not_root
def test_a_tasks_file_without_permission(act: Act, lab: Path, checkpoints: Path, tmp_path: Path):
    path = write_jsonl(tmp_path / "rte.jsonl", flan(5))
    path.chmod(0)
    assert_refused(act("ingest", lab, "--model", checkpoints / "base", "--tasks", path), path, "Permission denied")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["base", "tuned", "other", "--layers", "all", "--plot-models", "x.png"], ["needs --layers matched"]),
        (["base", "tuned", "--plot-models", "x.png"], ["needs at least 3 models", "got 2", "curves by layer"]),
        ([*"abcdefghij", "--layers", "all", "--plot", "x.png"], ["expected at most 45, got 55", "name fewer models"]),
        (["base", "tuned", "other", "--plot", "x.png", "--plot-models", "./x.png"], ["x.png", "a file of its own"]),
    ],
)
def test_pictures_that_cannot_be_drawn_are_refused_before_the_work(
    act: Act, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: list[str]
):
    monkeypatch.setattr("actlas.cli.compare.ask", lambda *_, **__: pytest.fail("the work began"))
    monkeypatch.chdir(tmp_path)
    assert_refused(act("compare", lab, *words), *said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("memory", ["lots", "", "5%", "nan", "inf", "1e400GB", "0", "-4GiB", "4 GiB GiB"])
def test_memory_that_is_no_size(act: Act, lab: Path, memory: str):
    assert_refused(
        act("compare", lab, "base", "tuned", f"--memory={memory}"), "--memory", repr(memory), "expected a size"
    )


def test_too_little_memory_says_how_much_would_do(act: Act, lab: Path):
    result = act("compare", lab, "base", "tuned", "--tasks", "rte", "--memory", "1KiB")
    assert_refused(
        result, "6 representations of 12 rows", "needs at least", "allowed are 0.001 MiB", "give --memory more"
    )
    needed = float(result.err.split("at least ")[1].split()[0])
    assert 0.001 < needed < 1
    assert act("compare", lab, "base", "tuned", "--tasks", "rte", "--memory", f"{needed + 0.001:.3f}MiB").code == 0


# Ctrl-C


def interrupt(store: Path, model: Path, tasks: Path, line: str) -> tuple[int, str]:
    """Send SIGINT to an ingest once it has written a line."""
    process = subprocess.Popen(
        [*ACT, "ingest", store, "--model", model, "--tasks", tasks],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A job in the background ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    for text in process.stderr:
        if line in text:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out == ""
    return process.returncode, err.strip()


def test_ctrl_c_leaves_nothing_half_written_and_the_next_run_completes(act: Act, checkpoints: Path, tmp_path: Path):
    store = create_store(tmp_path / "lab.act", batch_tokens=64).root
    path = write_jsonl(tmp_path / "long.jsonl", flan(3000))  # seconds, so that the signal comes in the middle
    code, message = interrupt(store, checkpoints / "base", path, "ingest base / long / raw")
    assert code == 1
    assert message == "Stopped. Nothing is half-written; the same command goes on where this one stopped."
    assert act("ls", store, "--json").json == []
    assert act("verify", store).code == 0
    assert [path for path in (store / ".staging").rglob("*") if path.is_file()] == []
    done = act("ingest", store, "--model", checkpoints / "base", "--tasks", path, "--json")
    assert done.code == 0
    whole = create_store(tmp_path / "whole.act", batch_tokens=64).root
    undisturbed = act("ingest", whole, "--model", checkpoints / "base", "--tasks", path, "--json")
    assert done.json["written"][0]["id"] == undisturbed.json["written"][0]["id"]


def test_ctrl_c_between_entries_keeps_those_that_are_complete(act: Act, checkpoints: Path, tmp_path: Path):
    store = create_store(tmp_path / "lab.act", batch_tokens=64).root
    for name, n in (("a", 5), ("b", 3000)):
        write_jsonl(tmp_path / f"{name}.jsonl", flan(n))
    code, _ = interrupt(store, checkpoints / "base", tmp_path, "ingest base / b / raw")
    assert code == 1
    assert [record["task"] for record in act("ls", store, "--json").json] == ["a"]
    again = act("ingest", store, "--model", checkpoints / "base", "--tasks", tmp_path, "--json")
    assert [record["task"] for record in again.json["present"]] == ["a"]
    assert [record["task"] for record in again.json["written"]] == ["b"]
