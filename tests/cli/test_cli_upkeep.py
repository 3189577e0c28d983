"""act verify, doctor, label, limit, rm, gc, du and copy; and what ls, info, compare and ingest say of a kept store."""

import getpass
import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actlas.store import EntrySpec, Store, create_store, open_store, open_writer, read_limit, withdraw
from actlas.store.storage import LocalStorage
from tests.cli.conftest import Act, Result, tree_digest
from tests.store.tiny import (
    build_tiny_store,
    flipped,
    folder,
    long_spec,
    tiny_model,
    tiny_spec,
    tiny_task,
    tiny_values,
    unlock,
    write_superblocks,
    write_tiny,
)

ME = getpass.getuser()
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models on two tasks; not to be changed."""
    return Path(build_tiny_store(tmp_path_factory.mktemp("built") / "lab.act").location)


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A copy of two models on two tasks that may be damaged."""
    shutil.copytree(built, tmp_path / "lab.act")
    unlock(tmp_path / "lab.act")
    return tmp_path / "lab.act"


def path_of(root: Path, model: str = "pythia", task: str = "rte") -> str:
    return open_store(root).entry(model=model, task=task).path


def cells(text: str) -> list[list[str]]:
    """The rows of a table, without its rule."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "──" not in line]
    return [re.split(r"\s{2,}", line) for line in lines]


def refused(act: Act, root: Path, arguments: list[object], *words: object, code: int = 1) -> None:
    """One message on stderr, nothing on stdout, and the store as it was."""
    before = tree_digest(root)
    result = act(*arguments)
    assert (result.code, result.out) == (code, ""), result
    assert result.err.count("Error: ") == 1
    assert "Traceback" not in result.err
    for word in words:
        assert str(word) in result.err, result.err
    assert tree_digest(root) == before


def says(result: Result) -> str:
    """The results of a command that exits 0 without a message."""
    assert (result.code, result.err) == (0, ""), result
    return result.out


def finds(result: Result) -> Any:
    """The same, as JSON."""
    return json.loads(says(result))


# All of them


COMMANDS: dict[str, list[object]] = {
    "verify": [], "doctor": [], "label": ["pythia", "seed=1"], "limit": ["1GiB"], "rm": ["pythia"], "gc": [], "du": [],
    "copy": ["copy.act"],
}  # fmt: skip
WRITERS = ["label", "limit", "rm", "gc"]


@pytest.mark.parametrize("command", COMMANDS)
def test_where_no_store_is_none_is_made(act: Act, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("x")
    refused(act, tmp_path, [command, "lab.act", *COMMANDS[command]], "no store at lab.act: the path does not exist")
    for place in ("notes", "notes/todo.txt"):
        words = f"{place} is not an actlas store", "give the store's top directory"
        refused(act, tmp_path, [command, place, *COMMANDS[command]], *words)


@pytest.mark.parametrize("command", WRITERS)
def test_a_url_is_not_written_to(act: Act, tmp_path: Path, command: str):
    place = "https://example.org/lab.act"
    words = f"{place}: a store at a URL is read-only", "write to a local store"
    refused(act, tmp_path, [command, place, *COMMANDS[command]], *words)


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_store_of_others_is_not_written_to(act: Act, root: Path, command: str):
    root.chmod(0o555)
    refused(act, root, [command, root, *COMMANDS[command]], "this store cannot be written to", "ask its owner")
    root.chmod(0o755)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label", "lab.act"], "name a MODEL, or a task with --task"),
        (["label", "lab.act", "family=llama"], "name a MODEL, or a task with --task"),
        (["rm", "lab.act"], "Missing argument 'MODEL[/TASK]|PATH'"),
        (["rm", "lab.act", "a", "b"], "unexpected extra argument"),
        (["du", "lab.act", "--by", "colour"], "'colour' is not one of 'model', 'task', 'owner'"),
        (["limit", "lab.act", "1GiB", "2GiB"], "unexpected extra argument"),
        (["copy", "lab.act"], "Missing argument 'DESTINATION'"),
        (["gc", "lab.act", "trash"], "unexpected extra argument"),
        (["verify", "lab.act", "--seed", "x"], "'x' is not a valid integer"),
        (["compare", "lab.act", "a", "b", "--verify", "some"], "'some' is not one of 'size', 'sample', 'full'"),
        (
            ["ingest", "lab.act", "--model", "m", "--tasks", "t", "--codec", "gzip"],
            "'gzip' is not one of 'none', 'lz4'",
        ),
    ],
)
def test_wrong_usage_exits_2(act: Act, arguments: list[str], message: str):
    result = act(*arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert "Try 'act" in result.err


# verify


def test_verify_says_how_much_it_read_and_takes_a_sample(act: Act, built: Path):
    whole = act("verify", built)
    assert (whole.code, whole.err) == (0, "")
    assert re.fullmatch(r"4 entries, 72\.\d KiB read: none damaged\n", whole.out)
    records = finds(act("verify", built, "--json"))
    assert [set(record) for record in records] == [{"path", "n_bytes", "problems"}] * 4
    some = finds(act("verify", built, "--sample", "--json"))
    assert all(0 < few["n_bytes"] < all_["n_bytes"] for few, all_ in zip(some, records, strict=True))
    assert finds(act("verify", built, "--sample", "--seed", "0", "--json")) == some
    others = [finds(act("verify", built, "--sample", "--seed", seed, "--json")) for seed in (1, 2, 3)]
    assert any(other != some for other in others)
    assert len(finds(act("verify", built, "--model", "pythia", "--task", "rte", "--json"))) == 1


def test_verify_names_an_entry_without_a_manifest_and_what_belongs_to_no_entry(act: Act, root: Path):
    path = path_of(root)
    (root / path / "manifest.json").unlink()
    (root / "limit.json").write_text("{}")
    result = act("verify", root)
    assert (result.code, result.err) == (1, "")
    assert result.out.splitlines()[0].startswith(f"{root}/limit.json: its checksum does not fit its content")
    assert f"{root}/{path}/manifest.json: cannot be read" in result.out
    assert result.out.splitlines()[-1].startswith("4 entries, ")
    assert result.out.endswith("2 damaged\n")
    records = act("verify", root, "--json")
    assert records.code == 1
    assert [record["path"] for record in records.json if record["problems"]] == ["", path]


def test_verify_of_unknown_names_is_refused(act: Act, root: Path):
    refused(act, root, ["verify", root, "--task", "rtf"], "no task 'rtf'", "did you mean 'rte'?")
    refused(act, root, ["verify", root, "--model", "pithia", "--json"], "no model 'pithia'", "did you mean 'pythia'")
    refused(act, root, ["verify", root, "--model", "a/b"], "model name 'a/b' is not a slug")


# doctor


def test_the_doctor_of_a_sound_store_has_nothing_to_say(act: Act, built: Path):
    before = tree_digest(built)
    result = act("doctor", built)
    assert (result.code, result.out, result.err) == (0, "nothing found; act verify reads every byte\n", "")
    assert finds(act("doctor", built, "--json")) == []
    assert tree_digest(built) == before


def test_the_doctor_says_what_is_wrong_where_and_what_to_type(act: Act, built: Path, root: Path):
    path = path_of(root)
    (root / path / "manifest.json").unlink()
    before = tree_digest(root)
    result = act("doctor", root)
    assert (result.code, result.err) == (1, "")
    what = "no manifest: this is no entry, and in the way of one"
    remedy = f"act rm {root} {path}, then ingest it again; or restore it from a copy"
    assert f"error: {root}/{path}: {what}\n  -> {remedy}\n" in result.out
    found = act("doctor", root, "--json")
    assert found.code == 1
    assert found.json[0] == {"severity": "error", "where": f"{root}/{path}", "what": what, "remedy": remedy}
    assert tree_digest(root) == before


def test_warnings_and_notes_alone_exit_0(act: Act, root: Path):
    (root / "catalog.json").unlink()
    result = act("doctor", root)
    assert result.code == 0
    assert f"warning: {root}/catalog.json: missing; remote readers need it\n  -> act gc {root}\n" in result.out
    assert "note: " in result.out
    assert act("gc", root).code == 0
    assert "warning: " not in act("doctor", root).out


# label


def test_labels_are_set_shown_and_taken_away(act: Act, root: Path):
    assert says(act("label", root, "pythia")) == "family=pythia\n"
    result = act("label", root, "pythia", 'trained_on=["rte"]', "seed=1", "family=", "owner=ada l.", "note=größer")
    assert says(result) == 'note=größer\nowner=ada l.\nseed=1\ntrained_on=["rte"]\n'
    assert open_store(root).labels("pythia") == {"note": "größer", "owner": "ada l.", "seed": 1, "trained_on": ["rte"]}
    before = tree_digest(root)
    assert finds(act("label", root, "pythia", "--json")) == open_store(root).labels("pythia")
    assert tree_digest(root) == before
    assert act("label", root, "pythia", "note=", "owner=", "seed=", "trained_on=").out == ""


def test_a_task_is_labelled_with_task(act: Act, root: Path):
    assert says(act("label", root, "--task", "rte")) == ""
    for arguments in (
        ["--task", "rte", "restricted=true", "licence=LDC"],
        ["restricted=true", "licence=LDC", "--task=rte"],
    ):
        assert act("label", root, *arguments).out == "licence=LDC\nrestricted=true\n"
    assert open_store(root).task_labels("rte") == {"restricted": True, "licence": "LDC"}
    assert finds(act("info", root, "pythia/rte", "--json"))[0]["task labels"] == {"licence": "LDC", "restricted": True}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pithia", "seed=1"], ["no model 'pithia'", "did you mean 'pythia'"]),
        (["--task", "rtf", "licence=x"], ["no task 'rtf'", "did you mean 'rte'?"]),
        (["--task", "rtf"], ["no task 'rtf'"]),
        (["pythia", "seed"], ["label 'seed': expected NAME=VALUE"]),
        (["pythia", "=1"], ["label '=1': expected NAME=VALUE"]),
        (["pythia", "trained_on=rte"], ["label trained_on: expected a list of tasks such as '[\"rte\"]', got 'rte'"]),
        (["pythia", "trained_on=[1]"], ["label trained_on: expected a list of tasks"]),
        (["--task", "rte", "restricted=yes"], ["label restricted: expected true or false, got 'yes'"]),
        (["pythia", "checksum=1"], ["cannot be called 'checksum'", "choose another name"]),
        (["pythia", "lr=NaN"], ["cannot be kept as JSON"]),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_are_refused(act: Act, root: Path, arguments: list[str], words: list[str]):
    refused(act, root, ["label", root, *arguments], *words)


# limit


def test_a_limit_is_shown_set_and_taken_away(act: Act, root: Path):
    before = tree_digest(root)
    assert says(act("limit", root)) == "none\n"
    assert tree_digest(root) == before
    assert says(act("limit", root, "2GiB")) == "2147483648 bytes (2.0 GiB)\n"
    assert says(act("limit", root)) == "2147483648 bytes (2.0 GiB)\n"
    assert act("limit", root, "500MB").out == "500000000 bytes (476.8 MiB)\n"
    assert read_limit(LocalStorage(root)) == 500_000_000
    assert says(act("limit", root, "none")) == "none\n"
    assert tree_digest(root) == before


@pytest.mark.parametrize("size", ["lots", "", "0", "5%", "nan", "1e400GB", "4 GiB GiB", "None"])
def test_a_limit_that_is_no_size_is_refused(act: Act, root: Path, size: str):
    refused(act, root, ["limit", root, size], f"SIZE {size!r}: expected a size")


def test_a_limit_that_was_changed_is_refused_and_may_be_set_again(act: Act, root: Path):
    (root / "limit.json").write_text("{}")
    refused(act, root, ["limit", root], "limit.json: its checksum does not fit its content")
    assert act("limit", root, "1TiB").code == 0


def test_an_ingest_beyond_the_limit_does_not_begin(act: Act, checkpoints: Path, tasks: Path, tmp_path: Path):
    store = create_store(tmp_path / "lab.act").root
    assert act("limit", store, "1KiB").code == 0
    call = ["ingest", store, "--model", checkpoints / "base", "--tasks", tasks / "rte.jsonl"]
    refused(act, store, call, "would exceed its limit of 1,024", "`act rm`", "`act limit`")
    assert "ingest base" not in act(*call).err


def test_a_commit_beyond_the_limit_keeps_what_was_computed(act: Act, checkpoints: Path, tasks: Path, tmp_path: Path):
    store = create_store(tmp_path / "lab.act").root
    assert act("limit", store, "10KiB").code == 0  # more than the states need, less than the whole entry
    call = ["ingest", store, "--model", checkpoints / "base", "--tasks", tasks / "rte.jsonl"]
    stopped = act(*call)
    assert (stopped.code, stopped.out) == (1, "")
    assert "ingest base / rte / raw" in stopped.err
    assert "would exceed its limit of 10,240" in stopped.err
    assert finds(act("ls", store, "--json")) == []
    assert act("limit", store, "none").code == 0
    goes_on = act(*call)
    assert goes_on.code == 0
    assert "base/rte: 12 of 12 examples are there already" in goes_on.err
    assert [record["task"] for record in finds(act("ls", store, "--json"))] == ["rte"]
    assert act("verify", store).code == 0


# rm


def test_rm_says_what_it_withdrew_and_readers_say_why(act: Act, root: Path):
    path = path_of(root)
    assert says(act("rm", root, "pythia/rte", "--why", "wrong template")) == f"{path}\n"
    assert not (root / path).exists()
    line = rf"{path} was withdrawn on {STAMP} by {ME}: wrong template\n"
    listed = act("ls", root)
    assert listed.code == 0
    assert re.fullmatch(line, listed.err)
    shown = act("info", root, "pythia/rte")
    assert (shown.code, shown.out) == (1, "")
    assert re.fullmatch(rf"Error: {root}: model 'pythia' has no entry on 'rte'\n  {line}", shown.err)
    refused(
        act, root, ["compare", root, "pythia", "pythia-dpo", "--tasks=rte"], "pythia has no entry", "wrong template"
    )
    assert says(act("verify", root)).startswith("3 entries")


def test_rm_of_a_model_takes_all_its_entries(act: Act, root: Path):
    withdrawn = finds(act("rm", root, "pythia", "--json"))
    assert [set(one) for one in withdrawn] == [{"path", "id", "when", "who", "why"}] * 2
    assert [one["path"].split("/")[2] for one in withdrawn] == ["boolq", "rte"]
    assert [record["model"] for record in finds_in_spite_of_messages(act("ls", root, "--json"))] == ["pythia-dpo"] * 2
    refused(act, root, ["rm", root, "pythia"], "no model 'pythia'", "did you mean 'pythia-dpo'?")


def finds_in_spite_of_messages(result: Result) -> Any:
    assert result.code == 0
    return result.json


def test_a_dry_run_of_rm_names_what_would_go_and_changes_nothing(act: Act, root: Path):
    before = tree_digest(root)
    paths = [path_of(root, task=task) for task in ("boolq", "rte")]
    assert says(act("rm", root, "pythia", "--dry-run")) == "".join(f"{path}\n" for path in paths)
    assert finds(act("rm", root, "pythia", "--dry-run", "--json")) == paths
    assert tree_digest(root) == before


def test_one_of_several_entries_is_chosen_by_its_key(act: Act, root: Path):
    other = write_tiny(open_writer(root), tiny_spec(dtype="float16"))
    assert act("rm", root, "pythia/rte", "--key", other.key[:8]).out == f"{other.path}\n"
    assert [entry.path for entry in open_store(root).entries(model="pythia", task="rte")] == [path_of(root)]


@pytest.mark.parametrize("what", ["models/{}", "{}"])
def test_a_damaged_entry_is_named_by_its_path(act: Act, root: Path, what: str):
    path = path_of(root)
    (root / path / "manifest.json").write_text("{}")
    assert act("ls", root).code == 1
    result = act("rm", root, what.format(path.removeprefix("models/")), "--json")
    assert [(one["path"], one["id"]) for one in finds(result)] == [(path, "")]
    assert act("ls", root).code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pithia"], ["no model 'pithia'", "did you mean 'pythia'"]),
        (["pythia/rtf"], ["no task 'rtf'", "did you mean 'rte'?"]),
        (["pythia/rte", "--key", "zz"], ["no entry of 'pythia/rte' whose key begins with 'zz'", "`act ls --long`"]),
        (["models/pythia/rte/raw-last-00000000"], ["no entry of 'models/pythia/rte/raw-last-00000000'"]),
        (["pythia/rte/raw-last-00000000/mean"], ["expected MODEL, MODEL/TASK or the path of an entry"]),
        (["tasks/rte"], ["no model 'tasks'"]),
        ([""], ["model name '' is not a slug"]),
        (["../lab.act"], ["model name '..' is not a slug"]),
    ],
)
def test_what_rm_cannot_find_is_refused(act: Act, root: Path, arguments: list[str], words: list[str]):
    refused(act, root, ["rm", root, *arguments], *words)


# gc


def leave_rubbish(root: Path) -> None:
    """An entry in the trash, and one superblock of another in staging."""
    writer, spec = open_writer(root), long_spec()
    withdraw(writer, path_of(root))
    with writer.new_entry(spec) as staged:
        write_superblocks(staged, spec, 1)


def test_gc_deletes_what_is_old_enough_and_says_what(act: Act, root: Path):
    leave_rubbish(root)
    young = act("gc", root)
    assert (young.code, young.out, young.err) == (0, "", "nothing to delete; act doctor lists what is younger\n")
    before = tree_digest(root)
    announced = act("gc", root, "--older-than", "0s", "--dry-run")
    assert re.fullmatch(r"would free \d+\.\d KiB\n", announced.err)
    assert tree_digest(root) == before
    done = act("gc", root, "--older-than", "0s")
    assert done.err == announced.err.replace("would free", "freed")
    for result in (announced, done):
        (_, *rows) = cells(result.out)
        assert [row[1] for row in rows] == ["an entry under construction", "a withdrawn entry"]
        assert [Path(row[0]).parent for row in rows] == [root / ".staging", root / ".trash"]
    assert list((root / ".trash").iterdir()) == list((root / ".staging").iterdir()) == []
    assert len(finds_in_spite_of_messages(act("ls", root, "--json"))) == 3
    assert act("verify", root).code == 0


def test_gc_as_json(act: Act, root: Path):
    leave_rubbish(root)
    assert finds(act("gc", root, "--json")) == []
    for more in (["--dry-run"], []):
        found = finds(act("gc", root, "--older-than", "0s", "--json", *more))
        assert [set(one) for one in found] == [{"path", "what", "n_bytes", "age", "in_use"}] * 2
        assert all(Path(one["path"]).exists() == bool(more) for one in found)


def test_a_duration_may_be_said_in_many_ways(act: Act, root: Path):
    leave_rubbish(root)
    then = time.time() - 36 * 3600
    [trashed] = (root / ".trash").iterdir()
    os.utime(trashed, (then, then))
    for duration, n_old in (("7d", 0), ("2 days", 0), ("1d", 1), ("35h", 1), ("37h", 0), ("0.5h", 1), ("1w", 0)):
        found = finds(act("gc", root, "--older-than", duration, "--dry-run", "--json"))
        assert len(found) == n_old, duration


@pytest.mark.parametrize("duration", ["soon", "", "7", "-1d", "nan d", "1e400d", "1 year", "7d 7d"])
def test_what_is_no_duration_is_refused(act: Act, root: Path, duration: str):
    leave_rubbish(root)
    refused(act, root, ["gc", root, f"--older-than={duration}"], f"--older-than {duration!r}: expected a duration")


# du


def test_du_shows_what_takes_the_room_the_largest_first(act: Act, root: Path):
    write_tiny(open_writer(root), tiny_spec(dtype="float16"))
    act("label", root, "pythia", "owner=ada")
    sizes = {}
    for record in open_store(root).records():
        sizes[record.model] = sizes.get(record.model, 0) + record.n_bytes
    assert finds(act("du", root, "--json")) == [
        {"name": "pythia", "n_entries": 3, "n_bytes": sizes["pythia"]},
        {"name": "pythia-dpo", "n_entries": 2, "n_bytes": sizes["pythia-dpo"]},
    ]
    assert [(one["name"], one["n_entries"]) for one in finds(act("du", root, "--by", "task", "--json"))] == [
        ("rte", 3), ("boolq", 2),
    ]  # fmt: skip
    assert [(one["name"], one["n_entries"]) for one in finds(act("du", root, "--by", "owner", "--json"))] == [
        ("ada", 3), (ME, 2),
    ]  # fmt: skip
    table = cells(act("du", root).out)
    assert [row[:2] for row in table] == [["model", "entries"], ["pythia", "3"], ["pythia-dpo", "2"], ["all", "5"]]
    assert [row[3] for row in table] == ["share", "60%", "40%", "100%"]


def test_du_of_an_empty_store(act: Act, tmp_path: Path):
    store = create_store(tmp_path / "lab.act").root
    assert finds(act("du", store, "--json")) == []
    assert cells(act("du", store).out) == [["model", "entries", "size", "share"], ["all", "0", "0 B", "-"]]


# copy


def test_copy_says_what_it_copied_and_what_was_there(act: Act, built: Path, tmp_path: Path):
    first = act("copy", built, tmp_path / "copy.act", "--model", "pythia")
    assert re.fullmatch(r"2 entries copied, 36\.\d KiB; 0 were there already\n", first.out)
    assert [line.split()[:2] for line in first.err.splitlines()] == [
        ["copied", "pythia/boolq/raw-last"], ["copied", "pythia/rte/raw-last"],
    ]  # fmt: skip
    second = act("copy", built, tmp_path / "copy.act", "--json")
    assert {one["path"].split("/")[1]: one["outcome"] for one in second.json} == {
        "pythia": "present",
        "pythia-dpo": "copied",
    }
    assert [one["id"] for one in second.json] == [record.id for record in open_store(built).records()]
    assert act("copy", built, tmp_path / "copy.act").out == "0 entries copied, 0 B; 4 were there already\n"
    assert tree_digest(tmp_path / "copy.act") == tree_digest(built)


def test_some_layers_are_copied(act: Act, built: Path, tmp_path: Path):
    call = ("copy", built, tmp_path / "copy.act", "--model", "pythia*", "--task", "r?e", "--layers", "0,2")
    assert act(*call).out == "2 entries copied; 0 were there already\n"
    assert [entry.layers for entry in open_store(tmp_path / "copy.act").entries()] == [(0, 2)] * 2
    again = act(*call, "--json").json
    assert [one["outcome"] for one in again] == ["present"] * 2
    assert [one["id"] for one in again] == [record.id for record in open_store(tmp_path / "copy.act").records()]


def test_a_restricted_task_is_copied_only_when_that_is_asked_for(act: Act, root: Path, tmp_path: Path):
    act("label", root, "--task", "rte", "restricted=true", "licence=LDC")
    call = ["copy", root, tmp_path / "copy.act"]
    refused(act, tmp_path, call, "task 'rte'", "is restricted (licence: LDC)", "--allow-restricted")
    assert act(*call, "--task", "boolq").code == 0
    assert act(*call, "--allow-restricted").code == 0
    assert open_store(tmp_path / "copy.act").task_labels("rte") == {"restricted": True, "licence": "LDC"}
    refused(act, tmp_path, ["copy", tmp_path / "copy.act", tmp_path / "further.act"], "is restricted (licence: LDC)")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["new.act", "--model", "pithia"], ["no model fits 'pithia'", "did you mean 'pythia'"]),
        (["new.act", "--task", "x*"], ["no task fits 'x*'", "there is: boolq, rte"]),
        (["new.act", "--layers", "7"], ["the entry has layers 0, 1, 2, got 7"]),
        (["new.act", "--layers", "upper"], ["expected numbers and slices", "got 'upper'"]),
        (["lab.act"], ["lies in the store that is to be copied"]),
        (["notes"], ["notes is not an actlas store"]),
        (["no/new.act"], ["no/new.act: the store cannot be made there"]),
        (["https://example.org/new.act"], ["nothing can be written there", "s3:// URL"]),
        (["ftp://example.org/new.act"], ["expected a path, or a URL"]),
    ],
)
def test_copies_that_cannot_be_are_refused(
    act: Act, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("x")
    refused(act, tmp_path, ["copy", root, *arguments], *words)


def test_a_copy_of_a_damaged_entry_names_the_file_and_goes_on_when_it_is_mended(act: Act, root: Path, tmp_path: Path):
    shard = root / open_store(root).records()[-1].path / "hidden_states" / "c.0.0.0"
    before = shard.read_bytes()
    shard.write_bytes(flipped(before, 10, 3))
    result = act("copy", root, tmp_path / "copy.act", "--json")
    assert (result.code, result.out) == (1, "")
    assert f"Error: {shard}: its bytes are not those that were written" in result.err
    assert act("verify", tmp_path / "copy.act").out.startswith("3 entries")
    shard.write_bytes(before)
    assert act("copy", root, tmp_path / "copy.act").out.startswith("1 entries copied")
    assert act("verify", tmp_path / "copy.act").out.startswith("4 entries")


# ls and info


def test_ls_is_a_matrix_of_models_by_tasks(act: Act, root: Path):
    write_tiny(open_writer(root), tiny_spec(dtype="float16", layers=(0,)))
    withdraw(open_writer(root), path_of(root, "pythia-dpo", "boolq"))
    before = tree_digest(root)
    header, *rows = cells(act("ls", root).out)
    assert header == ["model", "layers", "dtype", "size", "tasks", "boolq", "rte"]
    assert [row[:3] + row[4:] for row in rows] == [
        ["pythia", "1, 3", "bfloat16, float16", "2 of 2", "3", "5, 5"],
        ["pythia-dpo", "3", "bfloat16", "1 of 2", "-", "5"],
    ]
    assert tree_digest(root) == before


def test_ls_long_and_json_have_one_row_an_entry(act: Act, built: Path):
    records = finds(act("ls", built, "--json"))
    header, *rows = cells(act("ls", built, "--long").out)
    assert header == ["model", "task", "rendering", "position", "n", "layers", "width", "dtype", "size", "id"]
    assert [row[:8] for row in rows] == [[str(record[name]) for name in header[:8]] for record in records]
    assert [row[9] for row in rows] == [record["id"][:12] for record in records]
    assert [record["n_bytes"] for record in records] == [record.n_bytes for record in open_store(built).records()]
    assert act("ls", built, "--long", "--json").json == records


def test_ls_of_some_models_and_tasks(act: Act, built: Path):
    for options, expected in (
        (["--model", "*-dpo"], [("pythia-dpo", "boolq"), ("pythia-dpo", "rte")]),
        (["--task", "r*"], [("pythia", "rte"), ("pythia-dpo", "rte")]),
        (["--model", "pythia", "--task", "b?olq"], [("pythia", "boolq")]),
    ):
        assert sorted((r["model"], r["task"]) for r in finds(act("ls", built, *options, "--json"))) == expected
        assert len(cells(act("ls", built, *options, "--long").out)) == 1 + len(expected)
    header, row = cells(act("ls", built, "--model", "pythia", "--task", "rte").out)
    assert (header[5:], row[5:]) == (["rte"], ["5"])
    refused(act, built, ["ls", built, "--model", "gpt*"], "no model fits 'gpt*'", "there is: pythia, pythia-dpo")
    refused(act, built, ["ls", built, "--task", "rtf", "--json"], "no task fits 'rtf'", "did you mean 'rte'?")


def test_many_tasks_are_summed_up(act: Act, tmp_path: Path):
    store = create_store(tmp_path / "lab.act")
    for number in range(12):
        write_tiny(store, tiny_spec(task=tiny_task(3, f"anli-{number}")))
    write_tiny(store, tiny_spec(model=tiny_model("other", base="0c"), task=tiny_task(3, "anli-0")))
    twelve = cells(act("ls", store.root).out)
    assert twelve[0][5:] == sorted(f"anli-{number}" for number in range(12))
    write_tiny(store, tiny_spec(task=tiny_task(3, "anli-12")))
    header, *rows = cells(act("ls", store.root).out)
    assert header == ["model", "layers", "dtype", "size", "tasks"]
    assert [(row[0], row[4]) for row in rows] == [("other", "1 of 13"), ("pythia", "13 of 13")]
    narrowed = cells(act("ls", store.root, "--task", "anli-1*").out)
    assert narrowed[0][5:] == ["anli-1", "anli-10", "anli-11", "anli-12"]


def test_ls_names_damaged_entries_and_lists_the_others(act: Act, root: Path):
    path = path_of(root)
    (root / path / "manifest.json").write_text("{}")
    for options in ([], ["--long"], ["--json"]):
        result = act("ls", root, *options)
        assert result.code == 1
        assert result.err.startswith(f"damaged: {root}/{path}/manifest.json: ")
        assert "boolq" in result.out


def write_finite(store: Path, *, model: str = "pythia", base: str = "ba", seed: int, bad: int = 0) -> EntrySpec:
    """An entry of numbers, in files of the same size whatever the numbers; some of layer 1 are not finite."""
    spec = replace(tiny_spec(model=tiny_model(model, base=base), task=tiny_task(12), dtype="float32"), codec="none")
    random = np.random.default_rng(seed)
    hidden, norm = (random.normal(size=array.shape).astype("f4") for array in tiny_values(spec))
    hidden[1, 3 : 3 + bad, :2] = np.nan, np.inf
    write_tiny(open_writer(store), spec, (hidden, norm))
    return spec


def test_info_keeps_a_ledger_of_non_finite_values(act: Act, tmp_path: Path):
    store = create_store(tmp_path / "lab.act").root
    spec = write_finite(store, seed=1, bad=2)
    [record] = finds(act("info", store, "pythia/rte", "--json"))
    assert record["rows with non-finite values"] == 2
    assert record["non-finite values"] == [
        {"layer": 1, "values": 4, "rows": 2, "first example": spec.task.example_ids[3]}
    ]
    text = act("info", store, "pythia/rte").out
    assert "non-finite values:\n  layer: 1\n  values: 4\n  rows: 2\n" in text
    write_finite(store, model="sound", base="0c", seed=2)
    assert finds(act("info", store, "sound/rte", "--json"))[0]["non-finite values"] == []
    assert "non-finite values: none\n" in act("info", store, "sound/rte").out


def test_info_of_what_is_not_there_says_so(act: Act, root: Path):
    withdraw(open_writer(root), path_of(root), why="wrong template")
    refused(
        act, root, ["info", root, "pythia/rte"], "model 'pythia' has no entry on 'rte'", "by " + ME, "wrong template"
    )
    withdraw(open_writer(root), path_of(root, "pythia-dpo"), why="wrong too")
    refused(act, root, ["info", root, "pythia/rte", "--json"], "no task 'rte'", "there is: boolq", "wrong template")
    withdraw(open_writer(root), path_of(root, task="boolq"))
    refused(act, root, ["info", root, "pythia"], "no model 'pythia'", "did you mean 'pythia-dpo'?", "wrong template")


# compare --verify


@pytest.fixture
def pair(tmp_path: Path) -> Store:
    """Two models on one task, in files of equal sizes."""
    store = create_store(tmp_path / "pair.act")
    write_finite(store.root, model="a", base="0a", seed=0)  # of these, a sample draws files of values
    write_finite(store.root, model="b", base="0b", seed=1)
    unlock(store.root)
    return store.reader


def swap(pair: Store, *names: str) -> list[Path]:
    """Exchange files of the two entries; return them."""
    entries = pair.entries()
    swapped = []
    for name in names:
        paths = [folder(entry) / name for entry in entries]
        first, second = (path.read_bytes() for path in paths)
        assert len(first) == len(second)
        paths[0].write_bytes(second)
        paths[1].write_bytes(first)
        swapped += paths
    return swapped


def test_compare_may_verify_first(act: Act, pair: Store):
    plain = finds(act("compare", pair.location, "a", "b", "--json"))
    for depth in ("size", "sample", "full"):
        assert finds(act("compare", pair.location, "a", "b", "--verify", depth, "--json")) == plain


def test_a_swapped_shard_is_seen_by_full_and_not_by_size(act: Act, pair: Store):
    before = finds(act("compare", pair.location, "a", "b", "--json"))
    mine, _ = swap(pair, "hidden_states/c.0.0.0")
    swapped = finds(act("compare", pair.location, "a", "b", "--verify", "size", "--no-cache", "--json"))
    assert [row["cka"] for row in swapped] != pytest.approx([row["cka"] for row in before])
    call = ["compare", pair.location, "a", "b", "--verify", "full"]
    refused(act, Path(pair.location), call, f"{mine}: its bytes are not those that were written")


def test_a_sample_sees_what_it_reads(act: Act, pair: Store):
    entry = pair.entries()[0]
    every = [name for name in entry.manifest.files if name != "zarr.json" and not name.endswith("/zarr.json")]
    swap(pair, *every)
    call = ["compare", pair.location, "a", "b", "--verify", "sample"]
    refused(act, Path(pair.location), call, "its bytes are not those that were written")


# ingest --codec


def test_a_codec_changes_the_files_and_not_the_entry(act: Act, checkpoints: Path, tasks: Path, tmp_path: Path):
    found = {}
    for codec in ("none", "lz4"):
        store = tmp_path / f"{codec}.act"
        call = ("ingest", store, "--model", checkpoints / "base", "--tasks", tasks / "rte.jsonl", "--codec", codec)
        assert act(*call).code == 0
        assert act("verify", store).code == 0
        found[codec] = open_store(store).entry(model="base", task="rte")
    plain, packed = found.values()
    assert (plain.id, plain.key) == (packed.id, packed.key)
    assert np.array_equal(plain.read(2), packed.read(2))
    codecs = [
        json.loads((folder(entry) / "hidden_states" / "zarr.json").read_text())["codecs"][0]["configuration"]["codecs"]
        for entry in (plain, packed)
    ]
    assert [[codec["name"] for codec in one] for one in codecs] == [["bytes", "crc32c"], ["bytes", "blosc", "crc32c"]]
    other = ("ingest", tmp_path / "none.act", "--model", checkpoints / "base", "--tasks", tasks / "rte.jsonl")
    assert act(*other, "--codec", "lz4", "--json").json["written"] == []  # what is there is not made anew
