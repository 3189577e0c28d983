"""What was computed before is found again, and nothing else is."""

import subprocess
import sys
from pathlib import Path

import pytest

from actlas.analyze import compare_table
from actlas.analyze.cache import code_version, default_directory
from actlas.store import Entry, open_store
from tests.analyze.stores import put, related, store_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "lab.act"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models whose states are read."""
    models: list[str] = []
    plain = Entry.read

    def counting(entry: Entry, *arguments: object, **named: object) -> object:
        models.append(entry.model)
        return plain(entry, *arguments, **named)

    monkeypatch.setattr(Entry, "read", counting)
    return models


def test_the_same_question_reads_nothing_and_has_the_same_answer(root: Path, read: list[str]):
    x, y = related(60, 8, 8, n_layers=2)
    x[1, 3, 0] = float("nan")
    store = store_of(root, {"base": x, "tuned": y})
    options = {"metrics": ["procrustes"], "baselines": True}
    first = compare_table(store, ["base", "tuned"], **options)
    assert read
    read.clear()
    again = compare_table(store, ["base", "tuned"], **options)
    assert not read
    assert first.equals(again)
    assert first.dtypes.equals(again.dtypes)


@pytest.mark.parametrize(
    "other",
    [
        {"layers": "all"},
        {"match_n": 20},
        {"where": "prompt != ''"},
        {"metrics": ["rsa"]},
        {"cache": False},
        {"depth": "full"},
    ],
)
def test_another_question_is_computed(root: Path, read: list[str], other: dict):
    x, y = related(40, 8, 8)
    store = store_of(root, {"base": x, "tuned": y})
    compare_table(store, ["base", "tuned"])
    read.clear()
    compare_table(store, ["base", "tuned"], **other)
    assert read


def test_one_more_model_computes_only_its_own_pairs(root: Path, monkeypatch: pytest.MonkeyPatch):
    x, y = related(40, 8, 8)
    store = store_of(root, {"base": x, "tuned": y})
    compare_table(store, ["base", "tuned"])
    put(root, "third", x + y)
    kept = {path: path.stat().st_mtime_ns for path in default_directory().rglob("*") if path.is_file()}
    table = compare_table(open_store(root), ["base", "tuned", "third"])
    after = {path: path.stat().st_mtime_ns for path in default_directory().rglob("*") if path.is_file()}
    assert len(table) == 3
    assert len(after) == 3
    assert kept.items() <= after.items()


def test_a_damaged_file_is_computed_again(root: Path, read: list[str]):
    x, y = related(40, 8, 8)
    store = store_of(root, {"base": x, "tuned": y})
    first = compare_table(store, ["base", "tuned"])
    [kept] = [path for path in default_directory().rglob("*") if path.is_file()]
    data = kept.read_bytes()
    kept.write_bytes(data.replace(b'"cka":', b'"cka":1', 1))
    read.clear()
    assert compare_table(store, ["base", "tuned"]).equals(first)
    assert read
    assert kept.read_bytes() == data


def test_a_directory_that_cannot_be_written_to_keeps_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    x, y = related(40, 8, 8)
    store = store_of(root, {"base": x, "tuned": y})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACTLAS_CACHE", str(tmp_path / "file"))
    assert len(compare_table(store, ["base", "tuned"])) == 1
    monkeypatch.setenv("ACTLAS_CACHE", "")
    assert default_directory() is None
    assert len(compare_table(store, ["base", "tuned"])) == 1


def test_finished_tasks_are_kept_when_a_later_one_is_damaged(
    root: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
):
    x, y = related(40, 8, 8)
    for task in ("first", "second"):
        put(root, "base", x, task=task)
        put(root, "tuned", y, task=task)
    shard = next((root / "models/tuned/second").rglob("hidden_states/c.0.0.0"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(data)
    with pytest.raises(Exception, match="tuned/second"):
        compare_table(open_store(root), ["base", "tuned"])
    read.clear()
    compare_table(open_store(root), ["base", "tuned"], tasks="first")
    assert not read


def test_other_code_finds_nothing(root: Path, read: list[str], monkeypatch: pytest.MonkeyPatch):
    x, y = related(40, 8, 8)
    store = store_of(root, {"base": x, "tuned": y})
    compare_table(store, ["base", "tuned"])
    assert len(code_version()) == 64
    monkeypatch.setattr("actlas.analyze.cache.code_version", lambda: "another")
    read.clear()
    compare_table(store, ["base", "tuned"])
    assert read


def test_an_answer_that_is_known_needs_neither_dask_nor_xarray_nor_matplotlib(root: Path):
    x, y = related(40, 8, 8)
    store = store_of(root, {"base": x, "tuned": y})
    compare_table(store, ["base", "tuned"])
    script = f"""
import sys
from actlas.cli.main import main
try:
    main(["compare", {str(root)!r}, "base", "tuned"])
except SystemExit as done:
    assert not done.code
print(sorted({{"dask", "xarray", "matplotlib", "scipy"}} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
