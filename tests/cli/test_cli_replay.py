"""act replay and act export --for: a result, the store that it needs, and whether its numbers come out."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from actlas.store import open_store, open_writer
from actlas.store.documents import seal
from tests.analyze.stores import put, related
from tests.cli.conftest import Act, tree_digest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three models on two tasks, and one model and one task that no result here needs."""
    x, y = related(30, 8, 6, n_layers=3)
    models = {"base": x, "tuned": y, "control": x[..., :6] + y, "unused": -x}
    for task in ("rte", "sst2", "unused"):
        for model, states in models.items():
            put(tmp_path / "lab.act", model, states, task=task)
    return tmp_path / "lab.act"


@pytest.fixture
def lock(act: Act, root: Path, tmp_path: Path) -> Path:
    """The lock of differences and baselines on two layers of two tasks."""
    asked = ("--tasks", "rte", "--tasks", "sst2", "--pairs", "ref:control", "--layers", "0,2", "--match-n", 20)
    call = ("compare", root, "control", "base", "tuned", *asked, "--differences", "--baselines")
    assert act(*call, "--out", tmp_path / "cka.csv").code == 0
    return tmp_path / "cka.csv.lock.json"


def edited(lock: Path, **fields: object) -> None:
    """Change fields of a lock and seal it anew."""
    body = json.loads(lock.read_text("utf-8")) | fields
    lock.write_text(json.dumps(seal({name: value for name, value in body.items() if name != "checksum"})), "utf-8")


def test_the_smallest_store_gives_the_same_numbers(act: Act, root: Path, lock: Path, tmp_path: Path):
    before, small = tree_digest(root), tmp_path / "published.act"
    exported = act("export", root, "--for", lock, small)
    assert (exported.code, exported.out.split(", ")[0]) == (0, "6 entries copied"), exported.err
    names = {(record.model, record.task) for record in open_store(small).records()}
    assert names == {(model, task) for model in ("base", "tuned", "control") for task in ("rte", "sst2")}
    assert tree_digest(root) == before
    root.rename(tmp_path / "gone.act")
    replayed = act("replay", lock, small, "--out", tmp_path / "again.csv")
    assert (replayed.code, replayed.out) == (0, "36 rows: the same numbers, bit for bit\n"), replayed.err
    for name in ("{}.csv", "{}.differences.csv"):
        assert (tmp_path / name.format("again")).read_bytes() == (tmp_path / name.format("cka")).read_bytes()
    assert act("replay", tmp_path / "again.csv.lock.json", "--json").json["identical"] is True
    assert (
        act("export", tmp_path / "gone.act", "--for", lock, small).out
        == "0 entries copied, 0 B; 6 were there already\n"
    )


def test_other_numbers_are_told_with_where_and_exit_1(act: Act, root: Path, lock: Path):
    blocks = json.loads(lock.read_text("utf-8"))["blocks"]
    chosen = next(block for block in blocks if block["kind"] == "difference" and block["task"] == "sst2")
    chosen["numbers"]["difference"][1] += 0.5
    edited(lock, blocks=blocks)
    told = act("replay", lock)
    assert told.code == 1
    assert told.out.splitlines()[-1] == "36 rows: other numbers, beyond 1e-06"
    assert "differences: difference" in told.out
    assert "5.0e-01" in told.out
    assert "sst2, control with base minus tuned, layer 2" in told.out
    found = act("replay", lock, root, "--json")
    assert (found.code, found.json["within"]) == (1, False)
    [one] = found.json["deviations"]
    assert (one["table"], one["column"]) == ("differences", "difference")
    assert one["difference"] == pytest.approx(0.5)


def test_the_last_digits_of_another_processor_are_within(act: Act, lock: Path):
    body = json.loads(lock.read_text("utf-8"))
    cka = body["blocks"][0]["numbers"]["cka"]
    cka[0] = float(np.nextafter(cka[0], 2))
    edited(lock, blocks=body["blocks"], versions=body["versions"] | {"numpy": "1.0"})
    told = act("replay", lock)
    assert (told.code, told.out.splitlines()[-1]) == (0, "36 rows: other numbers, within 1e-06")
    assert f"numpy: the lock was made with 1.0, this is {np.__version__}" in told.err


def test_an_entry_that_was_withdrawn_is_named_with_the_reason(act: Act, root: Path, lock: Path, tmp_path: Path):
    [record] = open_store(root).records(model="tuned", task="rte")
    assert act("rm", root, "tuned/rte", "--why", "wrong revision").code == 0
    for call in (("replay", lock), ("export", root, "--for", lock, tmp_path / "published.act")):
        refused = act(*call)
        assert (refused.code, refused.out) == (1, "")
        assert f"tuned on rte, id {record.id[:12]}" in refused.err
        assert "wrong revision" in refused.err
        assert "sst2" not in refused.err
    assert not (tmp_path / "published.act").exists()
    put(root, "tuned", related(30, 8, 6, seed=5, n_layers=3)[1], task="rte")
    assert f"tuned on rte, id {record.id[:12]}" in act("replay", lock).err


def test_a_store_that_has_moved_must_be_named(act: Act, root: Path, lock: Path, tmp_path: Path):
    root.rename(tmp_path / "moved.act")
    refused = act("replay", lock)
    assert refused.code == 1
    assert "no store at" in refused.err
    assert "act replay LOCK STORE" in refused.err
    assert act("replay", lock, tmp_path / "moved.act").code == 0


def test_locks_that_cannot_be_used_are_one_message_each(act: Act, lock: Path):
    text = lock.read_text("utf-8")
    body = json.loads(text)
    for damage, message in (
        (text.replace('"seed": 0', '"seed": 1'), "its checksum does not fit its content"),
        (text[:500], "not a JSON document"),
        (json.dumps(body | {"format": 2}), "expected a lock of format 1, got format 2"),
    ):
        lock.write_text(damage, "utf-8")
        refused = act("replay", lock)
        assert (refused.code, refused.out, len(refused.err.splitlines())) == (1, "", 1)
        assert f"{lock}: {message}" in refused.err
    lock.write_text(text, "utf-8")
    edited(lock, question=body["question"] | {"rows": body["question"]["rows"] | {"seed": 1}})
    assert "expected the rows of the lock" in act("replay", lock).err


def test_the_lock_that_is_replayed_is_not_overwritten(act: Act, lock: Path, tmp_path: Path):
    before = lock.read_bytes()
    refused = act("replay", lock, "--out", tmp_path / "cka.csv")
    assert (refused.code, "choose another name" in refused.err) == (1, True)
    assert lock.read_bytes() == before
    assert len(pd.read_csv(tmp_path / "cka.csv")) == 32


def test_a_restricted_task_leaves_only_when_that_is_asked_for(act: Act, root: Path, lock: Path, tmp_path: Path):
    open_writer(root).label_task("sst2", {"restricted": True})
    call = ("export", root, "--for", lock, tmp_path / "published.act")
    refused = act(*call)
    assert (refused.code, "'sst2'" in refused.err, "--allow-restricted" in refused.err) == (1, True, True)
    assert not (tmp_path / "published.act").exists()
    assert act(*call, "--allow-restricted").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["base", "out", "--for", "x.lock.json"], "leave out base"),
        (["out", "--for", "x.lock.json", "--layers", "0"], "leave out --layers"),
        (["out", "--for", "x.lock.json", "--format", "npy"], "leave out --format"),
        (["out"], "expected STORE MODEL[/TASK] DIRECTORY"),
        (["base", "tuned", "out"], "expected STORE MODEL[/TASK] DIRECTORY"),
    ],
)
def test_what_does_not_go_with_a_lock_is_wrong_usage(act: Act, arguments: list[str], message: str):
    refused = act("export", "lab.act", *arguments)
    assert (refused.code, message in refused.err) == (2, True), refused.err
