"""act import and act export."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from actlas.cli.main import run
from actlas.store import FORMS, Entry, Store, open_store, open_writer
from tests.cli.conftest import Act, Result, tree_digest, write_jsonl
from tests.store.tiny import build_tiny_store, same_bits, tiny_task


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two models on boolq and rte, in bfloat16."""
    return build_tiny_store(tmp_path / "lab.act")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two layers of rte and boolq, as the code of the paper writes them."""
    random = np.random.default_rng(0)
    for task, n in (("rte", 5), ("boolq", 3)):
        (tmp_path / "source" / task).mkdir(parents=True)
        for layer in (0, 12):
            values = random.normal(size=(n, 1, 4)).astype("f4")
            np.save(tmp_path / "source" / task / f"hidden_states_{layer}.npy", values)
    return tmp_path / "source"


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """The examples of both tasks."""
    (tmp_path / "examples").mkdir()
    for task in (tiny_task(), tiny_task(3, "boolq")):
        rows = [{"question": row["prompt"], "answer": row["target"]} for row in task.rows]
        write_jsonl(tmp_path / "examples" / f"{task.slug}.jsonl", rows)
    return tmp_path / "examples"


FIELDS = ("--field", "prompt=question", "--field", "target=answer")


def assert_refused(result: Result, *words: object) -> None:
    """One message on stderr behind what was announced, nothing on stdout, exit 1."""
    assert (result.code, result.out) == (1, ""), result
    assert result.err.count("Error: ") == 1
    assert "Traceback" not in result.err
    for word in words:
        assert str(word) in result.err, result.err


def imported(place: Path, task: str = "rte", model: str = "mine") -> Entry:
    return open_store(place).entry(model=model, task=task)


# Import


def test_import_with_examples_makes_the_store(act: Act, source: Path, examples: Path, tmp_path: Path):
    place = tmp_path / "new.act"
    result = act("import", place, source, "--model", "mine", "--tasks", examples, *FIELDS)
    assert (result.code, result.out) == (0, "2 entries imported; 0 were there already\n")
    assert [line.split()[:2] for line in result.err.splitlines()] == [
        ["imported", "mine/boolq/raw-last"], ["imported", "mine/rte/raw-last"],
    ]  # fmt: skip
    entry = imported(place)
    assert entry.example_ids == tiny_task().example_ids
    assert entry.layers == (0, 12)
    assert same_bits(entry.read(12), np.load(source / "rte" / "hidden_states_12.npy")[:, 0])
    assert act("verify", place).code == 0


def test_the_same_import_again_changes_nothing(act: Act, source: Path, tmp_path: Path):
    call = ("import", tmp_path / "new.act", source, "--model", "mine", "--row-ids", "--json")
    first = act(*call)
    before = tree_digest(tmp_path / "new.act" / "models")
    again = act(*call)
    assert (first.code, again.code) == (0, 0)
    assert [record["outcome"] for record in first.json] == ["imported", "imported"]
    assert [record["outcome"] for record in again.json] == ["present", "present"]
    assert [record["path"] for record in first.json] == [record["path"] for record in again.json]
    assert first.json[1] | {"outcome": ""} == {
        "model": "mine", "task": "rte", "rendering": "raw", "position": "last", "outcome": "",
        "id": imported(tmp_path / "new.act").id, "path": imported(tmp_path / "new.act").location,
    }  # fmt: skip
    assert tree_digest(tmp_path / "new.act" / "models") == before


def test_ids_from_row_numbers_are_announced_and_stay_visible(act: Act, source: Path, tmp_path: Path):
    place = tmp_path / "new.act"
    result = act("import", place, source, "--model", "mine", "--row-ids")
    assert "example ids are made from row numbers" in result.err
    assert open_store(place).task_labels("rte") == {"example_ids": "row numbers"}
    assert "example_ids: row numbers" in act("info", place, "mine/rte").out


def test_import_as_the_pattern_and_the_names_say(act: Act, tmp_path: Path):
    (tmp_path / "source").mkdir()
    save_file({f"layers.{layer}": np.zeros((4, 3), "f4") for layer in (1, 2)}, tmp_path / "source" / "all.safetensors")
    result = act(
        "import", tmp_path / "new.act", tmp_path / "source", "--model", "mine", "--row-ids", "--task", "sst2",
        "--pattern", "all.safetensors:layers.{layer}", "--rendering", "few-shot", "--position", "mean", "--dtype", "float16",
    )  # fmt: skip
    assert result.code == 0, result.err
    [entry] = open_store(tmp_path / "new.act").entries()
    assert (entry.task, entry.rendering, entry.position, entry.layers) == ("sst2", "few-shot", "mean", (1, 2))
    assert entry.identity.dtype == "float16"


def test_import_of_many_examples_says_how_far_it_is(act: Act, tmp_path: Path):
    (tmp_path / "source" / "rte").mkdir(parents=True)
    np.save(tmp_path / "source" / "rte" / "hidden_states_0.npy", np.zeros((3000, 3), "f4"))
    result = act("import", tmp_path / "new.act", tmp_path / "source", "--model", "mine", "--row-ids")
    assert "rte: 2048 of 3000 examples\n" in result.err


def test_import_that_cannot_be_done_makes_nothing(act: Act, source: Path, examples: Path, tmp_path: Path):
    np.save(source / "rte" / "hidden_states_13.npy", np.zeros((5, 4)))
    call = ("import", tmp_path / "new.act", source, "--model", "mine")
    before = tree_digest(tmp_path)
    assert_refused(act(*call), "expected what the rows are", "--tasks FILE", "--row-ids")
    assert_refused(act(*call, "--row-ids"), "hidden_states_13.npy", "float64", "one shape and dtype")
    assert_refused(act(*call, "--row-ids", "--task", "sst2"), "no array fits the pattern", "it holds")
    assert_refused(act(*call, "--row-ids", "--pattern", "x"), "pattern 'x'", "the field {layer}")
    assert_refused(act(*call, "--tasks", examples), "boolq.jsonl", "--field prompt=NAME")
    assert_refused(act(*call, "--tasks", tmp_path / "none.jsonl"), "no tasks file")
    assert_refused(act("import", "https://example.org/x", source, "--model", "mine", "--row-ids"), "is read-only")
    assert_refused(
        act("import", source, source, "--model", "mine", "--row-ids", "--task", "boolq"), "not an actlas store"
    )
    assert tree_digest(tmp_path) == before


def test_import_under_the_name_of_an_ingested_model_is_refused(act: Act, store: Store, source: Path, examples: Path):
    before = tree_digest(Path(store.location))
    call = ("import", store.location, source, "--model", "pythia")
    assert_refused(act(*call, "--tasks", examples, *FIELDS), "'pythia' belongs to another checkpoint")
    assert_refused(
        act("import", store.location, source, "--model", "x", "--row-ids"), "has example ids made from texts"
    )
    assert tree_digest(Path(store.location)) == before


def test_usage_errors_of_import_exit_2(act: Act):
    for words, message in {
        ("--row-ids",): "Missing option '--model'",
        ("--model", "m", "--dtype", "int8"): "'int8' is not one of 'bfloat16', 'float16', 'float32'",
        ("--model", "m", "--field", "prompt"): "expected NAME=FIELD",
    }.items():
        result = act("import", "lab.act", "source", *words)
        assert (result.code, result.out) == (2, "")
        assert message in result.err


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from actlas.cli.main import main
main(sys.argv[1:])
"""


def test_import_needs_torch_for_tasks_files_alone(source: Path, examples: Path, tmp_path: Path):
    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-c",
            WITHOUT_TORCH,
            "import",
            tmp_path / "new.act",
            source,
            "--model",
            "mine",
            *words,
        ]
        return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)

    done = call("--tasks", examples, *FIELDS)
    assert (done.returncode, done.stdout) == (1, "")
    wanted = "Error: act import --tasks needs torch; install it with: pip install 'actlas[ingest]'"
    assert done.stderr.splitlines()[-1] == wanted  # transformers has a word before it
    assert not (tmp_path / "new.act").exists()
    assert call("--row-ids").returncode == 0


# Export


@pytest.mark.parametrize("form", FORMS)
def test_export_writes_every_task_of_a_model(act: Act, store: Store, tmp_path: Path, form: str):
    before = tree_digest(Path(store.location))
    result = act("export", store.location, "pythia", tmp_path / "out", "--format", form)
    places = [tmp_path / "out" / "pythia" / f"{task}{FORMS[form].suffix}" for task in ("boolq", "rte")]
    assert (result.code, result.out) == (0, "".join(f"{place}\n" for place in places))
    assert [line.split()[:2] for line in result.err.splitlines()] == [
        ["exported", "pythia/boolq/raw-last"], ["exported", "pythia/rte/raw-last"],
    ]  # fmt: skip
    assert sorted((tmp_path / "out" / "pythia").iterdir()) == places
    assert tree_digest(Path(store.location)) == before


def test_export_of_one_task_and_some_layers(act: Act, store: Store, tmp_path: Path):
    call = (
        "export",
        store.location,
        "pythia/rte",
        tmp_path / "out",
        "--layers",
        "0,-1",
        "--format",
        "safetensors",
        "--json",
    )
    [record] = act(*call).json
    entry = store.entry(model="pythia", task="rte")
    assert record == {
        **entry.manifest.names,
        "id": entry.id,
        "path": str(tmp_path / "out" / "pythia" / "rte.safetensors"),
    }
    tensors = load_file(record["path"])
    assert tensors.keys() == {"hidden_states.0", "hidden_states.2", "final_norm", "n_tokens", "example_id"}
    assert same_bits(tensors["hidden_states.2"], entry.read(2))


def test_export_that_cannot_be_done_writes_nothing(act: Act, store: Store, tmp_path: Path):
    call = ("export", store.location, "pythia/rte", tmp_path / "out")
    (tmp_path / "file").touch()
    before = tree_digest(tmp_path)
    assert_refused(
        act("export", store.location, "pythai", tmp_path / "out"), "no model 'pythai'", "did you mean 'pythia'"
    )
    assert_refused(
        act("export", store.location, "pythia/rtf", tmp_path / "out"), "no task 'rtf'", "did you mean 'rte'?"
    )
    assert_refused(act(*call, "--rendering", "chat"), "with rendering 'chat'", "pythia/rte/raw-last")
    assert_refused(
        act("export", store.location, "pythia", tmp_path / "out", "--position", "mean"),
        "position 'mean'",
        "there is:\n  ",
    )
    assert_refused(act(*call, "--layers", "3"), "the entry has layers 0, 1, 2, got 3")
    assert_refused(act(*call, "--layers", "x"), "expected numbers and slices")
    assert_refused(act(*call, "--key", "ffffffff"), "no entry of model 'pythia' on task 'rte'")
    assert_refused(
        act("export", store.location, "pythia", tmp_path / "file"), "expected a directory to export to, got a file"
    )
    assert_refused(act("export", store.location, "pythia", Path(store.location) / "out"), "is inside the store")
    assert_refused(act("export", tmp_path / "none.act", "pythia", tmp_path / "out"), "no store at")
    assert tree_digest(tmp_path) == before


def test_export_of_a_restricted_task_must_be_asked_for(act: Act, store: Store, tmp_path: Path):
    open_writer(store.location).label_task("rte", {"restricted": True, "licence": "LDC"})
    refused = act("export", store.location, "pythia", tmp_path / "out")
    assert_refused(refused, "'rte'", "is restricted", "licence: LDC", "--allow-restricted")
    assert not (tmp_path / "out").exists()  # nor the task before it, that is free
    assert act("export", store.location, "pythia", tmp_path / "out", "--allow-restricted").code == 0
    assert act("export", store.location, "pythia-dpo/boolq", tmp_path / "out").code == 0


def test_export_to_where_something_is_changes_nothing(act: Act, store: Store, tmp_path: Path):
    assert act("export", store.location, "pythia/rte", tmp_path / "out").code == 0
    before = tree_digest(tmp_path)
    refused = act("export", store.location, "pythia", tmp_path / "out")
    assert_refused(refused, tmp_path / "out" / "pythia" / "rte", "is there already", "export to another directory")
    assert tree_digest(tmp_path) == before


def test_one_of_several_entries_is_chosen_by_its_key(act: Act, source: Path, tmp_path: Path):
    place = tmp_path / "new.act"
    for factor in (1, 2):
        for path in source.rglob("*.npy"):
            np.save(path, factor * np.load(path))
        assert act("import", place, source, "--model", "mine", "--row-ids").code == 0
    refused = act("export", place, "mine/rte", tmp_path / "out")
    assert_refused(refused, "2 entries fit; choose one by its key")
    entry = open_store(place).entries(task="rte")[1]
    assert act("export", place, "mine/rte", tmp_path / "out", "--key", entry.key[:8]).code == 0
    assert same_bits(np.load(tmp_path / "out" / "mine" / "rte" / "hidden_states_12.npy"), entry.read(12))


def test_there_and_back_again(act: Act, store: Store, examples: Path, tmp_path: Path):
    for form, pattern in {
        "npy": "pythia/{task}/hidden_states_{layer}.npy", "safetensors": "pythia/{task}.safetensors:hidden_states.{layer}",
    }.items():  # fmt: skip
        assert act("export", store.location, "pythia", tmp_path / form, "--format", form).code == 0
        call = ("import", store.location, tmp_path / form, "--model", f"back-{form}", "--pattern", pattern)
        assert act(*call, "--tasks", examples, *FIELDS).code == 0
    entry, back = (store.entry(model=model, task="rte") for model in ("pythia", "back-safetensors"))
    assert same_bits(back.hidden_states[...], entry.hidden_states[...])
    wide = store.entry(model="back-npy", task="rte").hidden_states[...]
    assert (wide.dtype, same_bits((wide.view("u4") >> 16).astype("u2"), entry.hidden_states[...].view("u2"))) == (
        "f4",
        True,
    )


def test_an_interrupted_import_leaves_nothing_half_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.rmtree(source / "boolq")
    np.save(source / "rte" / "hidden_states_0.npy", np.zeros((3000, 3), "f4"))
    np.save(source / "rte" / "hidden_states_12.npy", np.zeros((3000, 3), "f4"))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    call = ["import", str(tmp_path / "new.act"), str(source), "--model", "mine", "--row-ids"]
    with monkeypatch.context() as patched:
        patched.setattr("actlas.cli.exchange._say_progress", interrupt)
        assert run(call) == 1
    assert open_store(tmp_path / "new.act").entries() == []
    assert run(call) == 0
    assert imported(tmp_path / "new.act").n_examples == 3000
