"""act ingest, from files to entries."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actlas.store import open_store
from tests.cli.conftest import Act, flan, tree_digest, write_jsonl


def test_a_base_and_adapters_under_it_from_jsonl_and_parquet(act: Act, checkpoints: Path, tasks: Path, tmp_path: Path):
    store = tmp_path / "lab.act"
    base = act("ingest", store, "--model", checkpoints / "base", "--tasks", tasks, "--json")
    assert base.code == 0
    assert base.json["forecast"]["n_entries"] == 3
    assert base.json["present"] == []
    assert [record["task"] for record in base.json["written"]] == ["qa", "rte", "sst2"]
    assert {"model", "task", "rendering", "position", "id", "path"} == set(base.json["written"][0])
    adapter = act(
        "ingest", store, "--model", checkpoints / "base", "--adapter", checkpoints / "tuned", "--name", "tuned-rte",
        "--trained-on", "rte", "--tasks", tasks,
    )  # fmt: skip
    assert adapter.code == 0
    assert [line.split()[:2] for line in adapter.out.splitlines() if "tuned-rte" in line] == [["tuned-rte", "rte"]]
    opened = open_store(store)
    assert opened.labels("tuned-rte") == {"trained_on": ["rte"]}
    assert {entry.task: entry.n_examples for entry in opened.entries(model="base")} == {"qa": 8, "rte": 12, "sst2": 9}
    assert opened.entry(model="base", task="rte").read_task().column("source_id")[:3] == ["s0", "s0", "s1"]
    assert opened.entry(model="base", task="qa").read_task().rows[1]["prompt"] == "Add 1 and 1\n\nIt is 1"


def test_a_control_goes_on_all_tasks_when_asked(act: Act, checkpoints: Path, tasks: Path, tmp_path: Path):
    result = act(
        "ingest", tmp_path / "lab.act", "--model", checkpoints / "base", "--adapter", checkpoints / "tuned",
        "--trained-on", "rte", "--all-tasks", "--tasks", tasks, "--dry-run", "--json",
    )  # fmt: skip
    assert result.json["forecast"]["n_entries"] == 3


def test_results_go_to_stdout_and_all_else_to_stderr(act: Act, checkpoints: Path, tasks: Path, tmp_path: Path):
    result = act("ingest", tmp_path / "lab.act", "--model", checkpoints / "base", "--tasks", tasks / "rte.jsonl")
    assert "1 entries to compute" in result.err
    assert "ingest base / rte / raw" in result.err
    assert "compute" not in result.out
    assert result.out.split()[:3] == ["model", "task", "rendering"]


def test_the_same_again_runs_nothing_and_says_so(act: Act, lab: Path, checkpoints: Path, tasks: Path):
    before = tree_digest(lab)
    result = act("ingest", lab, "--model", checkpoints / "base", "--tasks", tasks, "--json")
    assert result.code == 0
    assert result.err.count("already there, not computed again: base/") == 3
    assert "ingest base" not in result.err
    assert result.json["written"] == []
    assert len(result.json["present"]) == 3
    assert tree_digest(lab) == before
    assert act("ingest", lab, "--model", checkpoints / "base", "--tasks", tasks).out == ""


def test_other_dtype_layers_and_examples_live_beside_it(act: Act, checkpoints: Path, tmp_path: Path):
    store, rte = tmp_path / "lab.act", write_jsonl(tmp_path / "rte.jsonl", flan(6))
    fewer = write_jsonl(tmp_path / "fewer.jsonl", flan(4))
    call = ("ingest", store, "--model", checkpoints / "base", "--tasks")
    for more in ([rte], [rte, "--dtype", "bfloat16"], [rte, "--layers", "0,2"], [f"rte={fewer}"]):
        assert act(*call, *more).code == 0
    listed = act("ls", store, "--json").json
    assert sorted((record["dtype"], record["layers"], record["n"]) for record in listed) == [
        ("bfloat16", 3, 6),
        ("float32", 2, 6),
        ("float32", 3, 4),
        ("float32", 3, 6),
    ]


def test_a_dry_run_writes_nothing(act: Act, checkpoints: Path, tasks: Path, tmp_path: Path):
    result = act(
        "ingest", tmp_path / "lab.act", "--model", checkpoints / "base", "--tasks", tasks, "--dry-run", "--json"
    )
    assert result.code == 0
    assert result.json["forecast"]["n_examples"] == 29
    assert "3 entries to compute, 0 there already: 29 examples" in result.err
    assert list(tmp_path.iterdir()) == []


def test_duplicates_are_kept_once_and_counted(act: Act, checkpoints: Path, tmp_path: Path):
    path = write_jsonl(tmp_path / "rte.jsonl", [*flan(5), *flan(2), *flan(2)])
    result = act("ingest", tmp_path / "lab.act", "--model", checkpoints / "base", "--tasks", path)
    assert result.code == 0
    assert "task rte: 4 exact duplicates kept once, 5 examples remain" in result.err
    assert act("info", tmp_path / "lab.act", "base/rte", "--json").json[0]["provenance"]["n_duplicates"] == 4


def test_fields_may_have_any_name(act: Act, checkpoints: Path, tmp_path: Path):
    rows = [{"question": f"What is {n}?", "answer": "fizz" * (n % 3 == 0), "group": n // 2} for n in range(5)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "quiz.parquet")
    result = act(
        "ingest", tmp_path / "lab.act", "--model", checkpoints / "base", "--tasks", tmp_path / "quiz.parquet",
        "--field", "prompt=question", "--field", "target=answer", "--field", "source_id=group",
    )  # fmt: skip
    assert result.code == 0
    task = open_store(tmp_path / "lab.act").entry(model="base", task="quiz").read_task()
    assert task.rows[4]["prompt"] == "What is 4?"
    assert task.column("source_id") == ["0", "0", "1", "1", "2"]


def test_chat_is_another_rendering(act: Act, checkpoints: Path, tmp_path: Path):
    path = write_jsonl(tmp_path / "rte.jsonl", flan(6))
    store = tmp_path / "lab.act"
    done = act(
        "ingest",
        store,
        "--model",
        checkpoints / "base",
        "--tasks",
        path,
        "--render",
        "raw",
        "--render",
        "chat",
        "--json",
    )
    assert [record["rendering"] for record in done.json["written"]] == ["raw", "chat"]
    compared = act("compare", store, "base", "base:chat", "--json")
    assert {(row["model_a"], row["model_b"]) for row in compared.json} == {("base", "base:chat")}


def test_names_in_any_script_stay_whole(act: Act, act_process: Act, checkpoints: Path, tmp_path: Path):
    directory = tmp_path / "tâches 中"
    directory.mkdir()
    rows = [{"inputs": f"Ist {n} größer als π? 是 🙂 \x00", "targets": "はい"} for n in range(5)]
    write_jsonl(directory / "größe.jsonl", rows)
    store = directory / "lab ü.act"
    refused = act("ingest", store, "--model", checkpoints / "base", "--tasks", directory)
    assert refused.code == 1
    assert "task name 'größe' is not a slug" in refused.err
    assert "'gr-e' would do" in refused.err
    done = act("ingest", store, "--model", checkpoints / "base", "--tasks", f"size={directory / 'größe.jsonl'}")
    assert done.code == 0
    assert open_store(store).entry(model="base", task="size").read_task().rows[0]["prompt"] == rows[0]["inputs"]
    listed = act_process("ls", store, PYTHONIOENCODING="ascii")
    assert (listed.code, listed.err) == (0, "")
    missing = act_process("ls", directory / "ö.act", PYTHONIOENCODING="ascii")
    assert missing.code == 1
    assert missing.err.startswith("Error: no store at ")


@pytest.mark.parametrize("suffix", ["", "/"])
def test_a_directory_of_a_base_may_end_in_a_slash(
    act: Act, checkpoints: Path, tasks: Path, tmp_path: Path, suffix: str
):
    result = act("ingest", tmp_path / "x", "--model", f"{checkpoints / 'base'}{suffix}", "--tasks", tasks, "--dry-run")
    assert result.code == 0


def test_prompts_longer_than_the_context_are_cut_and_counted(act: Act, checkpoints: Path, tmp_path: Path):
    path = write_jsonl(tmp_path / "long.jsonl", [{"inputs": "x" * 200, "targets": ""}, *flan(4)])
    result = act("ingest", tmp_path / "lab.act", "--model", checkpoints / "base", "--tasks", path)
    assert "task long (raw): 1 prompts cut at their beginning to 128 tokens" in result.err


def test_json_stands_alone_on_stdout(act_process: Act, checkpoints: Path, tasks: Path):
    done = act_process("ingest", "lab.act", "--model", checkpoints / "base", "--tasks", tasks / "rte.jsonl", "--json")
    assert done.code == 0
    assert json.loads(done.out)["written"][0]["path"].startswith("lab.act/models/base/rte/raw-last-")
