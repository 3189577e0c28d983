"""act tasks, and the clusters, splits and samples that act ingest takes."""

import shutil
from pathlib import Path

from tests.cli.conftest import Act, flan, write_jsonl
from tests.store.tiny import unlock


def test_tasks_lists_what_a_store_holds_of_each(act: Act, lab: Path):
    listed = act("tasks", lab, "--json")
    assert (listed.code, listed.err) == (0, "")
    assert [(one["task"], one["cluster"], one["n_examples"], one["n_models"]) for one in listed.json] == [
        ("qa", None, [8], 3), ("rte", "nli", [12], 3), ("sst2", "sentiment", [9], 3),
    ]  # fmt: skip
    assert {(*one["renderings"], *one["positions"], one["restricted"]) for one in listed.json} == {
        ("raw", "last", False)
    }
    table = act("tasks", lab, "--task", "r*")
    header, _, row = (line.split() for line in table.out.splitlines() if line.strip())
    assert header == ["task", "cluster", "n", "models", "renderings", "positions", "restricted"]
    assert row == ["rte", "nli", "12", "3", "raw", "last", "-"]


def test_what_is_restricted_and_what_is_damaged_is_told(act: Act, lab: Path, tmp_path: Path):
    store = tmp_path / "lab.act"
    shutil.copytree(lab, store)
    unlock(store)
    assert act("label", store, "--task", "qa", "restricted=true", "cluster=arithmetic").code == 0
    next(store.glob("models/base/rte/*/manifest.json")).write_text("{}")
    result = act("tasks", store)
    assert result.code == 1
    _, _, *rows = (line.split() for line in result.out.splitlines() if line.strip())
    assert rows[0] == ["qa", "arithmetic", "8", "3", "raw", "last", "yes"]
    assert rows[1] == ["rte", "nli", "12", "2", "raw", "last", "-"]
    assert result.err.startswith("damaged: ")


def test_no_task_that_fits_is_refused_with_the_nearest(act: Act, lab: Path):
    result = act("tasks", lab, "--task", "rtf")
    assert (result.code, result.out) == (1, "")
    assert "no task fits 'rtf'; did you mean 'rte'?" in result.err


def test_a_split_of_flans_layout_is_ingested_under_its_tasks_names_and_clusters(
    act: Act, checkpoints: Path, tmp_path: Path
):
    for split, n in (("train", 5), ("test", 4)):
        (tmp_path / "flan" / split).mkdir(parents=True)
        write_jsonl(tmp_path / "flan" / split / f"cb_10templates_{split}.jsonl", flan(n))
    call = ("ingest", tmp_path / "lab.act", "--model", checkpoints / "base", "--tasks", tmp_path / "flan")
    refused = act(*call)
    assert refused.code == 1
    assert "holds the splits test, train; choose one with --split" in refused.err
    (tmp_path / "clusters.tsv").write_text("task\tcluster\ncb\tentailment\n")
    assert act(*call, "--split", "test", "--clusters", tmp_path / "clusters.tsv").code == 0
    [cb] = act("tasks", tmp_path / "lab.act", "--json").json
    assert (cb["task"], cb["cluster"], cb["n_examples"]) == ("cb", "entailment", [4])


def test_a_clusters_file_that_is_not_there_is_refused_before_the_tasks_are_read(act: Act, tmp_path: Path):
    result = act("ingest", tmp_path / "x", "--model", "m", "--tasks", "t", "--clusters", tmp_path / "gone.csv")
    assert result.code == 1
    assert "no clusters file at" in result.err


def test_a_sample_of_each_task_that_has_more_is_taken_and_said(
    act: Act, checkpoints: Path, tasks: Path, tmp_path: Path
):
    call = ("ingest", tmp_path / "lab.act", "--model", checkpoints / "base", "--tasks", tasks, "--max-examples", 9)
    done = act(*call, "--seed", "4", "--json")
    assert done.code == 0
    assert done.json["forecast"]["n_examples"] == 8 + 9 + 9
    assert "task rte: 9 of 12 examples are taken, drawn with seed 4" in done.err
    assert "task sst2" not in done.err
    assert len(act(*call, "--seed", "4", "--json").json["present"]) == 3
    assert [entry["task"] for entry in act(*call, "--seed", "5", "--json").json["written"]] == ["rte"]


def test_renderings_are_raw_chat_with_a_system_turn_and_jinja_files(
    act: Act, checkpoints: Path, tasks: Path, tmp_path: Path
):
    (tmp_path / "qa.jinja").write_text("Q: {{ prompt }} ({{ source_id }})\nA:")
    call = ("ingest", tmp_path / "lab.act", "--model", checkpoints / "base", "--tasks", tasks / "rte.jsonl")
    several = act(*call, "--render", "raw", "--render", tmp_path / "qa.jinja", "--render", "chat", "--json")
    assert [entry["rendering"] for entry in several.json["written"]] == ["raw", "qa", "chat"]
    # the template of these checkpoints has no BOS, their tokenizer gives one
    refused = act(*call, "--render", "chat", "--system", "Be brief.", "--render", "raw")
    assert refused.code == 1
    assert "--system: expected the rendering chat alone, got raw" in refused.err
    assert act(*call, "--render", "chat", "--system", "Be brief.").code == 0
    [rte] = act("tasks", tmp_path / "lab.act", "--json").json
    assert rte["renderings"] == ["chat", "qa", "raw"]
    listed = [entry for entry in act("ls", tmp_path / "lab.act", "--json").json if entry["rendering"] == "chat"]
    assert len({entry["id"] for entry in listed}) == 2


def test_a_template_that_cannot_be_used_leaves_no_store(act: Act, checkpoints: Path, tasks: Path, tmp_path: Path):
    call = ("ingest", tmp_path / "lab.act", "--model", checkpoints / "base", "--tasks", tasks / "rte.jsonl")
    path = tmp_path / "qa.jinja"
    for template, words in (
        ("{% if %}", "line 1: Expected an expression"),
        ("{{ nobody }}", "'nobody' is undefined; it sees the columns prompt, source_id"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "did not end within 2 s"),
    ):
        path.write_text(template)
        result = act(*call, "--render", path)
        assert (result.code, result.out) == (1, "")
        assert result.err.startswith(f"Error: {path}: the template cannot be rendered for task rte")
        assert words in result.err
    assert [one.name for one in tmp_path.iterdir()] == ["qa.jinja"]
