"""act demo with a handful of training steps: the same path, minus the minutes."""

import json
from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoTokenizer

from actlas.cli.demo import command, training
from actlas.cli.demo.corpus import TASKS, base_lines, examples, task_words
from actlas.cli.main import run
from actlas.store import open_store, verify


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo of two training steps each."""
    directory = tmp_path_factory.mktemp("demo") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BASE_STEPS", "MULTITASK_STEPS", "ADAPTER_STEPS"):
            patch.setattr(command, name, 2)
        patch.setattr(training, "BASE_STEPS", 2)
        patch.setattr(command, "N_TRAINING_SOURCES", 20)
        assert run(["demo", str(directory)]) == 0
    return directory


def test_it_leaves_checkpoints_a_sound_store_a_table_and_a_picture(short: Path):
    store = open_store(short / "lab.act")
    controls = [f"control-{task}" for task in TASKS]
    assert store.models() == sorted(["base", "multitask", *controls])
    assert [entry.task for entry in store.entries(model="base")] == sorted(TASKS)
    assert [entry.task for entry in store.entries(model=controls[0])] == [next(iter(TASKS))]
    assert not [problem for found in verify(store) for problem in found.problems]
    assert (short / "checkpoints" / "base" / "model.safetensors").exists()
    assert (short / "checkpoints" / controls[0] / "adapter_model.safetensors").exists()
    table = pd.read_parquet(short / "comparison.parquet")
    assert set(table["model_a"]) == {"base", "multitask"}
    assert set(table["model_b"]) == set(controls)
    assert len(table) == 2 * len(TASKS) * 9
    assert (table["groups"] < table["n"]).all()
    assert (short / "cka.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_reuses_what_is_there(short: Path, capsys: pytest.CaptureFixture[str]):
    before = {path: path.stat().st_mtime_ns for path in (short / "checkpoints").rglob("*")}
    ids = [entry.id for entry in open_store(short / "lab.act").entries()]
    assert run(["demo", str(short)]) == 0
    assert {path: path.stat().st_mtime_ns for path in (short / "checkpoints").rglob("*")} == before
    assert [entry.id for entry in open_store(short / "lab.act").entries()] == ids
    output = capsys.readouterr()
    assert "0 entries to compute, 12 there already" in output.err
    assert "multitask and the controls" in output.out


def test_another_seed_needs_another_directory(short: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["demo", str(short), "--seed", "1"]) == 1
    assert "holds a demo with {'seed': 0}, asked for {'seed': 1}" in capsys.readouterr().err


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "thesis.tex").write_text("")
    assert run(["demo", str(tmp_path)]) == 1
    assert "expected a new directory or an earlier demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert run(["demo", str(tmp_path / "no" / "demo")]) == 1
    assert "cannot be made (No such file or directory)" in capsys.readouterr().err


def test_the_text_depends_on_the_seed_alone():
    for make in (base_lines, lambda seed: list(examples("sentiment", seed, 30))):
        assert make(0) == make(0)
        assert make(0) != make(1)


def test_every_word_of_the_tasks_has_a_token(short: Path):
    tokenizer = AutoTokenizer.from_pretrained(short / "checkpoints" / "base")
    rows = [row for task in TASKS for row in examples(task, 0, 50)]
    assert tokenizer.unk_token_id not in tokenizer(" ".join(task_words()))["input_ids"]
    for row in rows:
        assert tokenizer.unk_token_id not in tokenizer(row["inputs"] + " " + row["targets"])["input_ids"]


def test_the_tasks_files_are_in_flan_s_fields(short: Path):
    for task in TASKS:
        row = json.loads((short / "tasks" / f"{task}.jsonl").read_text().splitlines()[0])
        assert set(row) == {"inputs", "targets", "task", "source_id", "template_id"}
