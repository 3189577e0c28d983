"""Wrong names, wrong paths and wrong tasks: each is refused with what to do."""

import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import actlas.store
from actlas.store import (
    AlreadyExists,
    Corrupt,
    Incomplete,
    InvalidInput,
    Mismatch,
    NotFound,
    Store,
    StoreWriter,
    check_slug,
    create_store,
    make_task,
    near_misses,
    open_store,
    open_writer,
    suggest_slug,
    verify,
)
from actlas.store.digest import bytes_digest, canonical_json
from actlas.store.disk import Disk
from actlas.store.documents import read_json, seal
from actlas.store.model import check_name_is_free
from actlas.store.storage import LocalStorage
from actlas.store.task import read_task, write_task
from tests.store.tiny import folder, tiny_model, tiny_spec, tiny_values, unlock, write_tiny


def test_a_path_without_a_store_is_not_found(tmp_path: Path):
    with pytest.raises(NotFound, match="the path does not exist; `act ingest` makes one"):
        open_store(tmp_path / "nothing.act")
    with pytest.raises(NotFound, match=r"is not an actlas store: it has no readable zarr.json"):
        open_store(tmp_path)
    with pytest.raises(NotFound, match="is not an actlas store"):
        open_writer(str(tmp_path))
    (tmp_path / "file").write_text("text")
    with pytest.raises(NotFound, match="is not an actlas store"):
        open_store(tmp_path / "file")


def test_a_plain_zarr_group_is_not_a_store(tmp_path: Path):
    zarr.create_group(tmp_path / "plain.zarr", attributes={"title": "other"})
    with pytest.raises(NotFound, match="is a Zarr group but not an actlas store"):
        open_store(tmp_path / "plain.zarr")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('{"attributes": {"actlas": {"format": 2, "batch_tokens": 1}}}', InvalidInput, "format 2, .* up to 1; install"),
        ('{"attributes": {"actlas": {"format": 1, "batch_tokens": 9}}}', Corrupt, "its checksum does not fit"),
        (json.dumps({"attributes": {"actlas": seal({"format": 1, "batch_tokens": 0})}}), Corrupt, "positive batch"),
        ('{"attributes": {"actlas": {"format": "1"}}}', Corrupt, "expected format 1"),
        ("{not json", Corrupt, "not valid JSON"),
        ("[" * 100_000, Corrupt, "not valid JSON"),
        ("[1]", Corrupt, "expected a JSON object, got list"),
    ],
)
def test_a_root_that_cannot_be_understood_is_refused(
    store: StoreWriter, text: str, error: type[Exception], message: str
):
    (store.root / "zarr.json").write_text(text)
    with pytest.raises(error, match=message):
        open_store(store.root)


def test_a_huge_json_file_is_refused_before_it_is_parsed(tmp_path: Path):
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(Corrupt, match="expected a file of at most 67108864 bytes"):
        read_json(LocalStorage(tmp_path), "huge.json")


def test_a_manifest_of_a_newer_format_is_refused(full: Store):
    entry = full.entry(model="pythia", task="rte")
    body = json.loads((folder(entry) / "manifest.json").read_text())
    (folder(entry) / "manifest.json").write_text(json.dumps(body | {"format": 2}))
    with pytest.raises(InvalidInput, match="written in store format 2, this actlas reads up to 1"):
        full.entry(model="pythia", task="rte")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body.update(id="0" * 64), "id or key does not follow from its content"),
        (lambda body: body["identity"].update(dtype="float16"), "id or key does not follow from its content"),
        (lambda body: body["identity"].pop("dtype"), "not a manifest of format 1"),
        (lambda body: body.pop("files"), "not a manifest of format 1"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(full: Store, change, message: str):
    path = folder(full.entry(model="pythia", task="rte")) / "manifest.json"
    body = json.loads(path.read_text())
    del body["checksum"]
    change(body)
    path.write_text(json.dumps(body | {"checksum": bytes_digest(canonical_json(body))}))
    with pytest.raises(Corrupt, match=message):
        full.entry(model="pythia", task="rte")


def test_a_manifest_with_nan_is_refused(full: Store):
    path = folder(full.entry(model="pythia", task="rte")) / "manifest.json"
    path.write_text('{"format": 1, "n": NaN}')
    with pytest.raises(Corrupt, match="its checksum does not fit"):
        full.entries()


def test_names_that_are_nearly_right_are_suggested(full: Store):
    with pytest.raises(NotFound, match="no model 'pithia'; did you mean 'pythia'"):
        full.entry(model="pithia", task="rte")
    with pytest.raises(NotFound, match="no task 'boolqq'; did you mean 'boolq'"):
        full.entries(task="boolqq")
    with pytest.raises(NotFound, match="no model 'gpt2'; there is: pythia, pythia-dpo"):
        full.model("gpt2")
    with pytest.raises(NotFound, match="no model 'gpt2'"):
        full.labels("gpt2")
    with pytest.raises(NotFound, match="no model 'gpt2'"):
        list(verify(full, model="gpt2"))
    with pytest.raises(InvalidInput, match=r"model name '\.\./pythia' is not a slug.*'pythia' would do"):
        full.entries(model="../pythia")
    assert near_misses("x", []) == "there is none yet"
    assert near_misses("zz", (f"a{n:02}" for n in range(12))).endswith("a09 and 2 more")
    assert str(NotFound("no 'x'")) == "no 'x'"


def test_no_entry_of_that_rendering_lists_what_there_is(full: Store):
    with pytest.raises(NotFound, match=r"rendering 'chat' and position 'last'; there is:\n  pythia/rte/raw-last key="):
        full.entry(model="pythia", task="rte", rendering="chat")


def test_a_store_lists_models_tasks_entries_and_labels(full: Store):
    assert (full.models(), full.tasks()) == (["pythia", "pythia-dpo"], ["boolq", "rte"])
    assert [(entry.model, entry.task) for entry in full.entries(task="rte")] == [
        ("pythia", "rte"),
        ("pythia-dpo", "rte"),
    ]
    assert full.entries(model="pythia", rendering="chat") == full.entries(position="mean") == []
    assert full.model("pythia") == tiny_model()
    assert full.labels("pythia-dpo") == {"family": "pythia"}
    assert repr(full) == f"<Store {Path(full.location)}>"
    assert repr(open_writer(Path(full.location))) == f"<StoreWriter {Path(full.location)}>"
    assert repr(full.entries()[0]).startswith("<Entry pythia/boolq/raw-last key=")
    assert full.batch_tokens == 16384


def test_where_several_entries_fit_the_error_lists_them(store: StoreWriter):
    first = write_tiny(store, tiny_spec(), labels={"a": 1})
    second = write_tiny(store, tiny_spec(dtype="float16", layers=(0,)), labels={"b": 2})
    with pytest.raises(InvalidInput, match="2 entries fit; choose one by its key or dtype") as caught:
        store.reader.entry(model="pythia", task="rte")
    for entry in (first, second):
        assert f"key={entry.key[:8]} dtype={entry.identity.dtype} layers={len(entry.layers)} n=5" in str(caught.value)
        assert store.reader.entry(model="pythia", task="rte", key=entry.key[:8]).id == entry.id
        assert store.reader.entry(model="pythia", task="rte", dtype=entry.identity.dtype).id == entry.id
    assert store.reader.labels("pythia") == {"a": 1, "b": 2}


def test_the_final_norm_of_a_model_without_one_is_not_found(store: StoreWriter):
    entry = write_tiny(store, tiny_spec(model=tiny_model(norm_width=None)))
    with pytest.raises(NotFound, match="has no array 'final_norm'"):
        entry.final_norm  # noqa: B018
    assert set(entry.to_xarray().data_vars) == {"hidden_states"}


def test_a_name_belongs_to_one_digest(store: StoreWriter):
    write_tiny(store, tiny_spec())
    other = tiny_model(base="cc")
    for refused in (
        lambda: store.find(tiny_spec(model=other)),
        lambda: write_tiny(store, tiny_spec(model=other)),
        lambda: check_name_is_free(LocalStorage(store.root), "pythia", other.identity),
    ):
        with pytest.raises(
            Mismatch, match=r"'pythia' belongs to another checkpoint .*some/base.*give this one another name"
        ):
            refused()
    assert len(store.reader.entries()) == 1
    check_name_is_free(LocalStorage(store.root), "free", other.identity)


def test_a_store_is_made_only_where_nothing_stands(store: StoreWriter, tmp_path: Path):
    with pytest.raises(AlreadyExists, match="expected a new path or an empty directory"):
        create_store(store.root)
    with pytest.raises(AlreadyExists, match="expected a new path or an empty directory"):
        create_store(store.root / "zarr.json")
    with pytest.raises(InvalidInput, match="expected a positive number of tokens, got 0"):
        create_store(tmp_path / "new.act", batch_tokens=0)
    with pytest.raises(InvalidInput, match="cannot be made there"):
        create_store(tmp_path / "missing" / "new.act")
    (tmp_path / "empty").mkdir()
    assert create_store(tmp_path / "empty", batch_tokens=100).reader.batch_tokens == 100


@given(st.text(max_size=120))
def test_a_refused_name_comes_with_a_slug_that_would_do(text: str):
    suggested = suggest_slug(text)
    assert check_slug(suggested, "model") == suggested
    try:
        assert check_slug(text, "model") == text
    except InvalidInput as error:
        assert f"{suggested!r} would do" in str(error)  # noqa: PT017


@pytest.mark.parametrize("text", ["", "..", "a/b", "A", ".hidden", "-x", "a" * 102, "a\n", "x.json", "a.json.json"])
def test_names_that_could_be_paths_or_files_are_no_slugs(text: str):
    with pytest.raises(InvalidInput, match="is not a slug"):
        check_slug(text, "task")
    assert check_slug(suggest_slug(text), "task")


def test_suggestions_read_like_the_name():
    assert suggest_slug("Llama 2 (7B)") == "llama-2-7b"
    assert suggest_slug("???") == "unnamed"


@pytest.mark.parametrize("names", [{"rendering": "A b"}, {"position": "../x"}])
def test_an_entry_of_a_bad_name_is_refused(store: StoreWriter, names: dict[str, str]):
    with pytest.raises(InvalidInput, match="is not a slug"):
        store.find(tiny_spec(**names))


def test_an_entry_of_another_dtype_or_uneven_columns_is_refused(store: StoreWriter):
    with pytest.raises(InvalidInput, match="dtype 'float64': expected one of bfloat16, float16, float32"):
        write_tiny(store, tiny_spec(dtype="float64"), (tiny_values(tiny_spec())))
    with pytest.raises(InvalidInput, match="codec 'gzip': expected one of none, lz4, "):
        dataclasses.replace(tiny_spec(), codec="gzip")
    with pytest.raises(InvalidInput, match=r"expected one value an example everywhere, got .*'n_tokens': 4"):
        dataclasses.replace(tiny_spec(), n_tokens=[1] * 4)


def test_a_task_keeps_exact_duplicates_once_and_counts_them():
    examples = [{"prompt": p, "target": "t", "row": n} for n, p in enumerate(["a", "b", "a", "c", "b", "a"])]
    task = make_task("rte", examples)
    assert (len(task), task.n_duplicates) == (3, 3)
    assert task.column("row") == [0, 1, 3]
    assert task.column("missing") is None
    assert make_task("rte", examples[:2]).example_ids == task.example_ids[:2]
    assert task.digest == make_task("rte", [examples[0], examples[1], examples[3]]).digest


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "task rte: expected at least one example, got none"),
        ([{"prompt": "a\ud800", "target": ""}], "task rte, example 1: its text is not valid Unicode"),
        ([{"prompt": "a", "target": "", "note": "\udfff"}], "task rte: a column cannot be kept .*surrogates"),
        ([{"prompt": "a", "target": "", "x": float("nan")}], "task rte: a column cannot be kept .*JSON compliant"),
        ([{"prompt": "a", "target": "", "x": [1]}], "column 'x': expected texts.*; got list"),
        ([{"prompt": "a", "target": "", "x": 2**63}], "column 'x': expected numbers of at most 63 bits"),
        (
            [{"prompt": "a", "target": "", "x": 1}, {"prompt": "b", "target": "", "x": "1"}],
            "column 'x': expected .* one of them throughout; got int, str",
        ),
    ],
)
def test_a_task_that_cannot_be_kept_is_refused(examples: list[dict[str, object]], message: str):
    with pytest.raises(InvalidInput, match=message):
        make_task("rte", examples)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
COLUMN = st.sampled_from(
    [TEXT, st.integers(-(2**63) + 1, 2**63 - 1), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)]
)


EXAMPLES = COLUMN.flatmap(
    lambda column: st.lists(
        st.fixed_dictionaries({"prompt": TEXT, "target": TEXT}, optional={"Größe": column | st.none()}),
        min_size=1,
        max_size=6,
    )
)


@settings(deadline=None)
@given(examples=EXAMPLES)
def test_any_task_comes_back_from_its_table(examples: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.getbasetemp()
    task = make_task("rte", examples)
    write_task(Disk(), root, task)
    write_task(Disk(), root, task)
    assert read_task(LocalStorage(root), "rte", task.digest).rows == task.rows


def test_whole_numbers_among_others_become_floats(tmp_path: Path):
    task = make_task("rte", [{"prompt": str(x), "target": "", "x": x} for x in (1, 2.5, None)])
    assert [repr(value) for value in task.column("x")] == ["1.0", "2.5", "None"]
    write_task(Disk(), tmp_path, task)
    assert read_task(LocalStorage(tmp_path), "rte", task.digest).digest == task.digest


def test_a_missing_file_of_a_model_is_incomplete_and_a_changed_one_corrupt(full: Store):
    path = Path(full.location) / "models" / "pythia" / "model.json"
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"width": 9}))
    with pytest.raises(Corrupt, match="its checksum does not fit"):
        full.model("pythia")
    body.pop("checksum")
    body.pop("width")
    path.write_text(json.dumps(seal(body)))
    with pytest.raises(Corrupt, match="not the identity of a model"):
        full.model("pythia")
    path.unlink()
    with pytest.raises(Incomplete, match=r"model.json: cannot be read \(No such file"):
        full.model("pythia")


def test_importing_the_store_loads_nothing_heavy():
    code = "import sys, actlas.store; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "zarr" in loaded
    assert {"torch", "transformers", "dask", "click", "xarray", "pandas"} & set(loaded) == set()


def test_every_public_name_exists_and_is_documented():
    names = actlas.store.__all__
    assert len(set(names)) == len(names)
    for name in names:
        public = getattr(actlas.store, name)
        if isinstance(public, type) or inspect.isfunction(public):
            assert public.__doc__, name
            for method, value in vars(public).items() if isinstance(public, type) else ():
                assert method.startswith("_") or not callable(value) or value.__doc__, f"{name}.{method}"


def test_a_reader_has_no_method_that_writes(full: Store):
    for reader in (full, full.entries()[0]):
        public = [name for name in dir(reader) if not name.startswith("_")]
        assert not [name for name in public if name.startswith(("write", "commit", "new", "delete", "set"))]
    with pytest.raises(TypeError, match="does not support item assignment"):
        full.entries()[0].hidden_states[0] = 0
    unlock(Path(full.location))
