"""act ls, act info and act verify."""

import json
import shutil
from pathlib import Path

from actlas.store import create_store, open_store
from tests.cli.conftest import Act, tree_digest
from tests.store.tiny import unlock


def test_ls_lists_every_entry(act: Act, lab: Path):
    records = act("ls", lab, "--json").json
    assert [(record["model"], record["task"]) for record in records] == [
        (model, task) for model in ("base", "other", "tuned") for task in ("qa", "rte", "sst2")
    ]
    first = records[0]
    assert {name: first[name] for name in ("rendering", "position", "n", "layers", "width", "dtype")} == {
        "rendering": "raw", "position": "last", "n": 8, "layers": 3, "width": 16, "dtype": "float32",
    }  # fmt: skip
    assert first["id"] == open_store(lab).entry(model="base", task="qa").id
    table = act("ls", lab, "--long")
    assert (table.code, table.err) == (0, "")
    assert sum(line.split()[:1] == ["base"] for line in table.out.splitlines()) == 3
    assert first["id"][:12] in table.out
    matrix = act("ls", lab)
    assert (matrix.code, matrix.err) == (0, "")
    header, _, *rows = (line.split() for line in matrix.out.splitlines() if line.strip())
    assert header == ["model", "layers", "dtype", "size", "tasks", "qa", "rte", "sst2"]
    assert [(row[0], row[-3:]) for row in rows] == [(name, ["8", "12", "9"]) for name in ("base", "other", "tuned")]


def test_ls_of_an_empty_store_is_empty(act: Act, tmp_path: Path):
    create_store(tmp_path / "lab.act")
    assert act("ls", tmp_path / "lab.act", "--json").json == []
    assert act("ls", tmp_path / "lab.act").code == 0


def test_info_says_who_a_model_is(act: Act, lab: Path, checkpoints: Path):
    record = act("info", lab, "tuned", "--json").json
    model = open_store(lab).model("tuned")
    assert record["digest"] == model.identity.digest
    assert record["identity"]["adapter_digest"] == model.identity.adapter_digest
    assert record["adapter"] == str(checkpoints / "tuned")
    assert (record["architecture"], record["n_layers"], record["width"]) == ("LlamaForCausalLM", 2, 16)
    assert [entry["task"] for entry in record["entries"]] == ["qa", "rte", "sst2"]
    text = act("info", lab, "tuned")
    assert text.code == 0
    assert f"  adapter_digest: {model.identity.adapter_digest}" in text.out.splitlines()


def test_info_of_a_model_on_a_task_shows_identity_provenance_and_numerics(act: Act, lab: Path):
    [record] = act("info", lab, "tuned/rte", "--json").json
    entry = open_store(lab).entry(model="tuned", task="rte")
    assert (record["id"], record["key"]) == (entry.id, entry.key)
    assert record["identity"] == entry.identity.as_json()
    assert record["provenance"]["conformance"]["norm_width"] == 16
    assert record["rows with non-finite values"] == 0
    assert record["largest magnitude"] > 0
    text = act("info", lab, "tuned/rte").out
    assert "layers: 0, 1, 2" in text
    assert "    padded_against_alone: " in text


def test_verify_of_a_sound_store_finds_nothing(act: Act, lab: Path):
    before = tree_digest(lab)
    result = act("verify", lab)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("9 entries, ")
    assert result.out.endswith("none damaged\n")
    assert [record["problems"] for record in act("verify", lab, "--model", "base", "--json").json] == [[], [], []]
    assert tree_digest(lab) == before


def test_verify_names_what_is_damaged_and_exits_1(act: Act, lab: Path, tmp_path: Path):
    store = tmp_path / "lab.act"
    shutil.copytree(lab, store)
    unlock(store)
    chunk = next(store.glob("models/base/rte/*/hidden_states/c.*"))
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    next(store.glob("models/tuned/qa/*/mean/c.*")).unlink()
    result = act("verify", store)
    assert (result.code, result.err) == (1, "")
    assert f"{chunk}: its bytes are not those that were written" in result.out
    assert result.out.endswith("2 damaged\n")
    records = act("verify", store, "--json")
    assert records.code == 1
    damaged = {record["path"].rpartition("/")[0] for record in records.json if record["problems"]}
    assert damaged == {"models/base/rte", "models/tuned/qa"}


def test_every_json_is_one_document_of_utf_8(act_process: Act, lab: Path):
    done = act_process("info", lab, "base", "--json")
    assert done.err == ""
    assert json.loads(done.out)["name"] == "base"


def test_a_verified_store_may_be_read_by_a_stranger(act: Act, tmp_path: Path):
    # a store that another version wrote
    frozen = Path(__file__).parents[1] / "data" / "store-v1"
    assert [(r["model"], r["task"], r["n"]) for r in act("ls", frozen, "--json").json] == [
        ("base", "boolq", 3), ("base", "rte", 5), ("tuned", "boolq", 3), ("tuned", "rte", 5),
    ]  # fmt: skip
