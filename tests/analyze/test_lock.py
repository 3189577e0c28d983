"""A lock holds all that it takes to compute a result again, and replaying says whether its numbers come out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from actlas.analyze import (
    Means,
    Question,
    ask,
    lock_of,
    locked_records,
    parse_lock,
    read_lock,
    replay,
    write_locked,
)
from actlas.analyze.lock import lock_path
from actlas.store import (
    Corrupt,
    InvalidInput,
    Mismatch,
    NotFound,
    Store,
    copy_records,
    find_withdrawable,
    open_store,
    open_writer,
    withdraw,
)
from actlas.store.documents import json_bytes, seal
from tests.analyze.stores import put, related, store_of

MODELS = ("base", "tuned", "control")
QUESTIONS = [
    Question.of(MODELS),
    Question.of(MODELS, tasks="r*", pairs="ref:control", differences=True, baselines=True, match_n=20, seed=3),
    Question.of(MODELS[:2], tasks=["rte"], layers="all", metrics=["procrustes", "mutual-knn:k=5"], min_shared=0.5),
    Question.of(MODELS[:2], layers="0", where="kind == 'a'"),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three models on one task, with a row that is not finite in one layer."""
    x, y = related(40, 8, 6, n_layers=2)
    x[1, 3, 0] = np.nan
    kinds = {"kind": ["a" if row % 3 else "b" for row in range(40)]}
    return store_of(tmp_path / "lab.act", {"base": x, "tuned": y, "control": x[..., :6] + y}, columns=kinds)


def locked(store: Store, question: Question = QUESTIONS[0]) -> dict[str, Any]:
    return json.loads(json_bytes(lock_of(ask(store, question), store)))


def changed(lock: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a lock with other content, sealed anew."""
    return seal({name: value for name, value in (lock | fields).items() if name != "checksum"})


def remove(store: Store, what: str, why: str = "") -> None:
    writer = open_writer(store.location)
    for path in find_withdrawable(writer, what):
        withdraw(writer, path, why=why)


@pytest.mark.parametrize("question", QUESTIONS, ids=["plain", "everything", "all layers", "where"])
def test_what_is_replayed_is_the_same_bit_for_bit(store: Store, question: Question):
    first = ask(store, question)
    lock = parse_lock(json.loads(json_bytes(lock_of(first, store))))
    assert lock.question == question
    found = replay(store, lock)
    assert (found.is_identical, found.is_within, found.other_versions) == (True, True, {})
    pd.testing.assert_frame_equal(found.comparison.table, first.table, check_exact=True)
    pd.testing.assert_frame_equal(found.comparison.differences, first.differences, check_exact=True)


def test_a_result_from_the_cache_has_the_same_lock(store: Store):
    question = QUESTIONS[1]
    assert locked(store, question) == locked(store, question)
    assert lock_of(ask(store, question, Means(cache=False)), store) == lock_of(ask(store, question), store)


def test_the_digest_is_that_of_the_numbers(store: Store, tmp_path: Path):
    lock = locked(store)
    copied = tmp_path / "copy.act"
    list(copy_records(store, copied, locked_records(store, parse_lock(lock))))
    again = locked(open_store(copied))
    assert again["store"] != lock["store"]
    assert again["digest"] == lock["digest"]
    assert locked(store, Question.of(MODELS, match_n=20))["digest"] != lock["digest"]


def test_the_cache_is_neither_read_nor_written(store: Store, monkeypatch: pytest.MonkeyPatch):
    lock = parse_lock(locked(store))

    def refuse(*_: object) -> None:
        raise AssertionError("the cache was used")

    monkeypatch.setattr("actlas.analyze.cache.Cache._path", refuse)
    assert replay(store, lock).is_identical


def test_what_came_later_changes_nothing(store: Store):
    lock = parse_lock(locked(store))
    x, y = related(40, 8, 6, seed=9, n_layers=2)
    for model, states in (("base", x), ("tuned", y)):
        put(Path(store.location), model, states, task="another")
        put(Path(store.location), model, states, plan="another")  # now two entries fit the name
    with pytest.raises(InvalidInput, match="entries fit"):
        ask(store, lock.question)
    assert replay(open_store(store.location), lock).is_identical


def test_an_entry_under_another_name_is_found_by_its_id(store: Store, tmp_path: Path):
    x, y = related(40, 8, 6, n_layers=2)
    first = store_of(tmp_path / "first.act", {"base": x, "tuned": y})
    lock = parse_lock(locked(first, Question.of(["base", "tuned"])))
    path = next((tmp_path / "first.act/models/tuned/rte").iterdir())
    target = tmp_path / "first.act/models/renamed/rte" / path.name
    target.parent.mkdir(parents=True)
    path.rename(target)
    found = replay(open_store(tmp_path / "first.act"), lock)
    assert found.is_identical
    assert set(found.comparison.table["model_b"]) == {"tuned"}


def test_every_missing_entry_is_named(store: Store):
    lock = parse_lock(locked(store))
    ids = {record.model: record.id for record in store.records()}
    remove(store, "tuned", "the wrong checkpoint")
    remove(store, "control")
    with pytest.raises(NotFound, match="2 of the entries") as error:
        replay(open_store(store.location), lock)
    lines = str(error.value).splitlines()[1:]
    assert [line.split(" (")[0].strip() for line in lines] == [
        f"tuned on rte, id {ids['tuned'][:12]}",
        f"control on rte, id {ids['control'][:12]}",
    ]
    assert "the wrong checkpoint" in lines[0]


def test_other_values_under_the_same_names_are_not_taken(store: Store):
    lock = parse_lock(locked(store))
    remove(store, "tuned")
    put(Path(store.location), "tuned", related(40, 8, 6, seed=1, n_layers=2)[1])
    with pytest.raises(NotFound, match="tuned on rte, id"):
        replay(open_store(store.location), lock)


def test_a_damaged_manifest_is_the_error_and_not_a_missing_entry(store: Store):
    lock = parse_lock(locked(store))
    [manifest] = Path(store.location).glob("models/tuned/rte/*/manifest.json")
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace("tuned", "tnued"))
    with pytest.raises(Corrupt, match="models/tuned/rte"):
        replay(open_store(store.location), lock)


def test_the_furthest_number_of_each_column_is_told(store: Store):
    lock = locked(store)
    other = json.loads(json.dumps(lock))
    other["blocks"][0]["numbers"]["cka"][0] += 0.25
    other["blocks"][1]["numbers"]["cka"][1] -= 0.5
    other["blocks"][2]["numbers"]["n"][0] += 1
    found = replay(store, parse_lock(changed(other)))
    assert not found.is_within
    cka, n = found.deviations
    assert (cka.column, cka.where) == ("cka", "rte, base and control, layer 1")
    assert cka.difference == pytest.approx(0.5)
    assert cka.recomputed == lock["blocks"][1]["numbers"]["cka"][1]
    assert (n.column, n.difference, n.where) == ("n", 1.0, "rte, tuned and control, layer 0")


@pytest.mark.parametrize(
    ("change", "is_within"),
    [(lambda cka: cka + 5e-7, True), (lambda cka: cka + 2e-6, False), (lambda cka: "nan", False)],
    ids=["within", "beyond", "undefined"],
)
def test_numbers_are_the_same_within_a_millionth(store: Store, change: Any, is_within: bool):
    lock = locked(store)
    values = lock["blocks"][0]["numbers"]["cka"]
    values[0] = change(values[0])
    found = replay(store, parse_lock(changed(lock)))
    assert (found.is_identical, found.is_within) == (False, is_within)


@pytest.mark.parametrize(("share", "is_within"), [(5e-7, True), (5e-6, False)], ids=["within", "beyond"])
def test_a_number_over_1_is_judged_by_its_size(store: Store, share: float, is_within: bool):
    lock = locked(store)
    values = lock["blocks"][0]["numbers"]["participation_a"]
    assert values[0] > 3
    values[0] *= 1 + share
    found = replay(store, parse_lock(changed(lock)))
    assert [(one.column, one.difference > 1e-6) for one in found.deviations] == [("participation_a", True)]
    assert found.is_within is is_within


def test_another_seed_of_match_n_is_other_rows(store: Store):
    lock = locked(store, Question.of(MODELS[:2], match_n=20, seed=1))
    lock["question"]["rows"]["seed"] = 2
    with pytest.raises(Mismatch, match="base and tuned: expected the rows of the lock"):
        replay(store, parse_lock(changed(lock)))


def test_a_column_that_is_no_longer_computed_is_named(store: Store):
    lock = locked(store)
    lock["blocks"][0]["numbers"]["entropy"] = [0.0, 0.0]
    with pytest.raises(Mismatch, match="for entropy; use the actlas that wrote it"):
        replay(store, parse_lock(changed(lock)))


def test_other_versions_are_told(store: Store):
    lock = locked(store)
    lock["versions"]["numpy"] = "1.0"
    assert replay(store, parse_lock(changed(lock))).other_versions == {"numpy": ("1.0", np.__version__)}


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (lambda lock: lock | {"store": "other.act"}, Corrupt, "its checksum does not fit"),
        (lambda lock: changed(lock, format=2), InvalidInput, "expected a lock of format 1, got format 2"),
        (lambda lock: {"cka": 1.0}, InvalidInput, "not the lock of a result"),
        (lambda lock: [lock], InvalidInput, "not the lock of a result"),
        (lambda lock: changed(lock, question=lock["question"] | {"kernel": "rbf"}), InvalidInput, "kernel"),
        (lambda lock: changed(lock, blocks=[{"kind": "triple"}]), InvalidInput, "triple"),
        (lambda lock: changed(lock, question=lock["question"] | {"layers": "odd"}), InvalidInput, "layers: expected"),
    ],
    ids=["edited", "format", "other JSON", "list", "question", "block", "layers"],
)
def test_what_is_no_lock_of_ours_is_refused(store: Store, tmp_path: Path, edit: Any, error: type, message: str):
    path = tmp_path / "cka.csv.lock.json"
    path.write_text(json.dumps(edit(locked(store))))
    with pytest.raises(error, match=message):
        read_lock(path)


def test_a_file_that_is_missing_or_cut_off_is_refused(store: Store, tmp_path: Path):
    with pytest.raises(NotFound, match=r"cka\.lock\.json: cannot be read"):
        read_lock(tmp_path / "cka.lock.json")
    write_locked(ask(store, QUESTIONS[0]), store, tmp_path / "cka.csv")
    path = lock_path(tmp_path / "cka.csv")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidInput, match="not a JSON document"):
        read_lock(path)


def test_a_result_that_cannot_be_written_leaves_the_old_one_with_its_lock(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    out.mkdir()
    write_locked(ask(store, QUESTIONS[0]), store, out / "cka.csv")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before) == ["cka.csv", "cka.csv.lock.json"]

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    with pytest.raises(OSError, match="disk full"):
        write_locked(ask(store, QUESTIONS[3]), store, out / "cka.csv")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
