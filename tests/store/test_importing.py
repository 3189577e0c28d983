"""Importing: what others computed is found, checked, and kept bit by bit."""

import pickle
import resource
import shutil
import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from actlas.analyze import compare_table
from actlas.store import (
    AlreadyExists,
    Entry,
    InvalidInput,
    Mismatch,
    NotFound,
    ReadOnly,
    StoreWriter,
    create_store,
    export_entry,
    import_entries,
    make_task,
    open_store,
    store_exists,
    verify,
)
from actlas.store.arrivals import arrivals
from actlas.store.layout import STAGING
from actlas.store.pattern import PATTERN, parse_pattern
from tests.store.tiny import LEAF, REAL, same_bits, tiny_model, tiny_spec, tiny_task, tiny_values, write_tiny

Arrays = Mapping[tuple[str, int], np.ndarray]

PATTERNS = [
    PATTERN,
    "layer{layer}/{task}.npy",
    "{task}/{task}_{layer}.npy",
    "{task}.npz:{layer}",
    "deep/{layer}.npz:{task}",
    "{task}.safetensors:layers.{layer}",
    "{layer}/all.safetensors:{task}",
]


def states(n: int = 6, *, layers: tuple[int, ...] = (0, 1, 10), dtype: str = "float32", width: int = 8) -> Arrays:
    """Hidden states of random bits of two tasks, special values among them."""
    found = {}
    for seed, (task, n_rows) in enumerate({"rte": n, "boolq": n + 1}.items()):
        spec = tiny_spec(model=tiny_model(width=width), task=tiny_task(n_rows, task), dtype=dtype, layers=layers)
        found |= {(task, layer): rows for layer, rows in zip(layers, tiny_values(spec, seed)[0], strict=True)}
    return found


def save(directory: Path, pattern: str, arrays: Arrays, *, compressed: bool = False) -> Path:
    """Write arrays as a pattern says."""
    files: dict[str, dict[str, np.ndarray]] = {}
    for (task, layer), array in arrays.items():
        file, _, name = pattern.format(task=task, layer=layer).partition(":")
        files.setdefault(file, {})[name] = array
    for file, content in files.items():
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            np.save(path, content[""])
        elif path.suffix == ".npz":
            (np.savez_compressed if compressed else np.savez)(path, **content)
        else:
            save_file(content, path)
    return directory


def one(directory: Path, array: np.ndarray, *, layer: int = 0, task: str = "rte") -> Path:
    return save(directory, PATTERN, {(task, layer): array})


def rows(entry: Entry) -> dict[tuple[str, int], np.ndarray]:
    return {(entry.task, layer): entry.read(layer) for layer in entry.layers}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "new.act"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two tasks in the paper's layout."""
    return save(tmp_path / "source", PATTERN, states())


def refuse(error: type[Exception], match: str, store: Path, source: Path, **arguments: Any) -> None:
    """Nothing is made, and nothing is changed, when an import is refused."""
    before = {path for path in store.rglob("*") if STAGING not in path.parts} if store.exists() else None
    with pytest.raises(error, match=match):
        import_entries(store, source, **({"model": "mine", "row_ids": True} | arguments))
    assert before == ({path for path in store.rglob("*") if STAGING not in path.parts} if store.exists() else None)


# Layouts and dtypes


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_every_layout_gives_the_same_entries_bit_by_bit(tmp_path: Path, place: Path, pattern: str, dtype: str):
    arrays = states(dtype=dtype)
    source = save(tmp_path / "source", pattern, arrays)
    imported = import_entries(place, source, model="mine", pattern=pattern, row_ids=True, dtype=dtype)
    assert [(found.entry.task, found.entry.layers, found.outcome) for found in imported] == [
        ("boolq", (0, 1, 10), "imported"), ("rte", (0, 1, 10), "imported"),
    ]  # fmt: skip
    for found in imported:
        assert found.entry.identity.dtype == dtype
        for place_of, values in rows(found.entry).items():
            assert same_bits(values, arrays[place_of])
    again = save(tmp_path / "again", PATTERN, arrays)
    others = import_entries(place, again, model="mine", row_ids=True, dtype=dtype)
    assert [found.outcome for found in others] == ["present", "present"]
    assert [found.entry.id for found in others] == [found.entry.id for found in imported]
    assert all(not found.problems for found in verify(open_store(place)))


@pytest.mark.parametrize("suffix", [".npy", ".npz", "z.npz", ".safetensors"])
def test_many_superblocks_are_read_one_after_the_other(tmp_path: Path, place: Path, suffix: str):
    by_suffix = {".npy": PATTERN, ".safetensors": "{task}.safetensors:{layer}"}
    pattern = by_suffix.get(suffix, "{task}.npz:{layer}")
    arrays = states(3 * LEAF + 3, layers=(0, 1, 2, 3), width=64)
    source = save(tmp_path / "source", pattern, arrays, compressed=suffix.startswith("z"))
    [_, found] = arrivals(parse_pattern(pattern).find(source), None, row_ids=True, dtype=None)
    tracemalloc.start()
    found.leaves()
    assert [superblock.shape for superblock in found.superblocks(LEAF)] == [(4, n, 64) for n in (LEAF, LEAF, 3)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.8 * 4 * LEAF * 64 * 4  # a superblock, and a layer of the next; the entry is three of them
    [_, imported] = import_entries(place, source, model="mine", pattern=pattern, row_ids=True)
    for at, values in rows(imported.entry).items():
        assert same_bits(values, arrays[at])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_the_bits_they_are_kept(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    dtype = data.draw(st.sampled_from(sorted(REAL)))
    n, width = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    size = n * width * REAL[dtype].itemsize
    values = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), REAL[dtype]).reshape(n, width)
    kind = data.draw(st.sampled_from(["{task}.npz:{layer}", "{task}.safetensors:{layer}", PATTERN]))
    directory = tmp_path_factory.mktemp("bits")
    source = save(directory / "source", kind, {("rte", 3): values})
    [imported] = import_entries(directory / "x.act", source, model="mine", pattern=kind, row_ids=True, dtype=dtype)
    assert same_bits(imported.entry.read(3), values)


def test_an_axis_of_one_column_order_and_big_endian_numbers_are_the_same_values(tmp_path: Path, place: Path):
    values = states()["rte", 0]
    forms = {
        "paper": values[:, None, :],
        "columns": np.asfortranarray(values),
        "columns-paper": np.asfortranarray(values[:, None, :]),
        "big": values.astype(">f4"),
    }
    plain = import_entries(place, one(tmp_path / "plain", values), model="mine", row_ids=True)
    for name, array in forms.items():
        for pattern in (PATTERN, "{task}.npz:{layer}"):
            source = save(tmp_path / f"{name}{len(pattern)}", pattern, {("rte", 0): array})
            [found] = import_entries(place, source, model="mine", pattern=pattern, row_ids=True)
            assert (found.outcome, found.entry.id) == ("present", plain[0].entry.id), (name, pattern)


def test_headers_of_every_version_are_read(tmp_path: Path, place: Path):
    values = states()["rte", 0]
    (tmp_path / "rte").mkdir()
    with zipfile.ZipFile(tmp_path / "rte.npz", "w") as archive, archive.open("0.npy", "w") as member:
        np.lib.format.write_array(member, values, version=(2, 0))
    with (tmp_path / "rte" / "hidden_states_0.npy").open("wb") as file:
        np.lib.format.write_array(file, values, version=(3, 0))
    for pattern in (PATTERN, "{task}.npz:{layer}"):
        [found] = import_entries(place, tmp_path, model="mine", pattern=pattern, task="rte", row_ids=True)
        assert same_bits(found.entry.read(0), values)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("pattern", [PATTERN, "{task}-{layer}.npz:x", "{task}-{layer}.safetensors:x"])
def test_only_the_files_of_one_task_are_open_at_a_time(tmp_path: Path, place: Path, pattern: str):
    arrays = {(f"t{task}", layer): np.full((2, 3), task, "f4") for task in range(30) for layer in range(2)}
    source = save(tmp_path / "source", pattern, arrays)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
    twentieth_free = [number for number in range(len(used) + 20) if number not in used][19]
    resource.setrlimit(resource.RLIMIT_NOFILE, (twentieth_free + 1, hard))
    try:
        assert len(import_entries(place, source, model="mine", pattern=pattern, row_ids=True)) == 30
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_nothing_is_rounded_unless_it_is_said_to_what(tmp_path: Path, place: Path):
    doubles = np.random.default_rng(0).normal(size=(4, 3))
    source = one(tmp_path / "source", doubles)
    refuse(InvalidInput, r"0\.npy: expected .*got float64; nothing is rounded unless .*--dtype", place, source)
    [found] = import_entries(place, source, model="mine", row_ids=True, dtype="float32")
    assert same_bits(found.entry.read(0), doubles.astype("f4"))
    assert found.entry.provenance["dtype"] == "float64"
    [half] = import_entries(place, source, model="mine", row_ids=True, dtype="bfloat16")
    assert same_bits(half.entry.read(0), doubles.astype(REAL["bfloat16"]))
    assert len(open_store(place).entries()) == 2  # one dtype stands beside the other


def test_values_that_the_dtype_cannot_hold_are_refused_and_infinities_kept(tmp_path: Path, place: Path):
    source = one(tmp_path / "large", np.array([[1, 1e6]], "f4"))
    refuse(InvalidInput, "a value is too large for float16; choose another --dtype", place, source, dtype="float16")
    source = one(tmp_path / "infinite", np.array([[1, np.inf, np.nan]], "f4"))
    [found] = import_entries(place, source, model="mine", row_ids=True, dtype="float16")
    assert found.entry.nonfinite.tolist() == [[2]]


@pytest.mark.parametrize("pattern", [PATTERN, "{task}.npz:{layer}"])
def test_bytes_that_lost_the_name_of_bfloat16_are_taken_when_it_is_said(tmp_path: Path, place: Path, pattern: str):
    values = states(dtype="bfloat16")["rte", 0]
    source = save(tmp_path / "source", pattern, {("rte", 0): values})
    call: dict[str, Any] = {"pattern": pattern}
    refuse(InvalidInput, "got two bytes without a dtype.*say --dtype bfloat16", place, source, **call)
    refuse(InvalidInput, "got two bytes without a dtype", place, source, dtype="float16", **call)
    [found] = import_entries(place, source, model="mine", row_ids=True, dtype="bfloat16", **call)
    assert same_bits(found.entry.read(0), values)


@pytest.mark.parametrize("kind", ["i4", "u2", "c8", "?", "V3", "V20"])
def test_what_are_no_floating_point_numbers_is_refused(tmp_path: Path, place: Path, kind: str):
    source = one(tmp_path / "source", np.zeros((4, 3), kind))
    refuse(InvalidInput, "expected floating-point numbers, got .*; convert the file", place, source)
    refuse(InvalidInput, "expected floating-point numbers", place, source, dtype="bfloat16")


@pytest.mark.parametrize("shape", [(), (4,), (0, 3), (4, 0), (4, 2, 3), (1, 4, 1, 3)])
def test_another_shape_than_rows_of_features_is_refused(tmp_path: Path, place: Path, shape: tuple[int, ...]):
    for pattern in (PATTERN, "{task}.npz:{layer}", "{task}.safetensors:{layer}"):
        source = save(tmp_path / "source", pattern, {("rte", 0): np.zeros(shape, "f4")})
        refuse(
            InvalidInput,
            r"rte.*0?.*expected an array of shape \(examples, features\)|cannot be read",
            place,
            source,
            pattern=pattern,
        )


# Files that cannot be read


def object_npy(path: Path) -> None:
    np.save(path, np.array([[1, None]], object), allow_pickle=True)


@pytest.mark.parametrize(
    "spoil",
    [
        object_npy,
        lambda path: path.write_bytes(pickle.dumps(np.zeros((4, 3)))),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:20]),
        lambda path: path.write_bytes(b""),
    ],
    ids=["objects", "pickle", "cut off", "header cut off", "empty"],
)
def test_a_npy_file_that_cannot_be_read_is_named(source: Path, place: Path, spoil: Any):
    path = source / "rte" / "hidden_states_1.npy"
    spoil(path)
    refuse(InvalidInput, rf"{path}: cannot be read .*check the file, or make it again", place, source)


def spoiled_npz(path: Path, how: str) -> None:
    values = np.zeros((4, 3), object if how == "objects" else "f4")
    np.savez_compressed(path, **{"0": values}) if how != "bits" else np.savez(path, **{"0": values})
    data = path.read_bytes()
    if how == "cut off":
        path.write_bytes(data[:-30])
    elif how == "bits":
        at = data.index(bytes(40))
        path.write_bytes(data[:at] + b"\x01" + data[at + 1 :])
    elif how == "short":
        with zipfile.ZipFile(path) as archive:
            member = archive.read("0.npy")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("0.npy", member[:-4])
    elif how == "no array":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("0.npy", b"nothing")


@pytest.mark.parametrize("how", ["objects", "cut off", "bits", "short", "no array"])
def test_a_npz_file_that_cannot_be_read_is_named(tmp_path: Path, place: Path, how: str):
    path = tmp_path / "source" / "rte.npz"
    path.parent.mkdir()
    spoiled_npz(path, how)
    match = rf"{path}.*(cannot be read|expected floating-point numbers)"
    refuse(InvalidInput, match, place, path.parent, pattern="{task}.npz:{layer}")


@pytest.mark.parametrize("kept", [0, 7, 30, -1])
def test_a_safetensors_file_that_cannot_be_read_is_named(tmp_path: Path, place: Path, kept: int):
    path = tmp_path / "source" / "rte.safetensors"
    path.parent.mkdir()
    save_file({"0": np.zeros((4, 3), "f4")}, path)
    path.write_bytes(path.read_bytes()[:kept])
    refuse(InvalidInput, f"{path}: cannot be read", place, path.parent, pattern="{task}.safetensors:{layer}")


# Patterns


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("{task}/x.npy", "the field {layer} where the number of the layer stands"),
        ("hidden_states_{layer}.npy", "the field {task} .* or that name with --task"),
        ("{task}/{model}_{layer}.npy", "no fields but {task} and {layer}"),
        ("{task}/{layer.npy", "no fields but {task} and {layer}"),
        ("{task}{layer}.npy", "something between {task} and {layer}"),
        ("{task}/{layer}.pt", "a name that ends in .npy, .npz, .safetensors"),
        ("{task}/{layer}", "a name that ends in"),
        ("{task}/{layer}.npz", "FILE.npy, FILE.npz:ARRAY or FILE.safetensors:ARRAY"),
        ("{task}/{layer}.npy:x", "FILE.npy, FILE.npz:ARRAY or FILE.safetensors:ARRAY"),
        ("../{task}/{layer}.npy", "a path below the directory that is imported"),
        ("/x/{task}/{layer}.npy", "a path below the directory that is imported"),
        ("", "the field {layer}"),
    ],
)
def test_a_pattern_that_says_too_little_is_refused(source: Path, place: Path, pattern: str, match: str):
    refuse(InvalidInput, f"pattern '.*': expected {match}", place, source, pattern=pattern)


def test_a_pattern_that_fits_nothing_shows_what_there_is(source: Path, place: Path, tmp_path: Path):
    refuse(
        NotFound, r"no array fits the pattern '{task}_{layer}\.npy'; it holds .*hidden_states_", place, source,
        pattern="{task}_{layer}.npy",
    )  # fmt: skip
    (tmp_path / "empty").mkdir()
    refuse(
        NotFound,
        "no array fits the pattern .*/hidden_states_{layer}.npy'; say with --pattern",
        place,
        tmp_path / "empty",
    )
    for path in (tmp_path / "nowhere", source / "rte" / "hidden_states_0.npy"):
        refuse(NotFound, f"{path}: expected the directory in which the files are; --pattern says", place, path)


def test_two_arrays_of_one_layer_are_refused(source: Path, place: Path):
    shutil.copy(source / "rte" / "hidden_states_1.npy", source / "rte" / "hidden_states_01.npy")
    refuse(
        InvalidInput, r"hidden_states_01\.npy .*hidden_states_1\.npy .*are both layer 1 of task 'rte'", place, source
    )


def test_a_layer_that_no_model_has_is_refused(tmp_path: Path, place: Path):
    source = one(tmp_path / "source", np.zeros((4, 3), "f4"), layer=12345)
    refuse(InvalidInput, "expected a layer of at most 9999, got 12345", place, source)


def test_a_name_that_is_no_slug_is_refused_with_one_that_is(tmp_path: Path, place: Path):
    source = one(tmp_path / "source", np.zeros((4, 3), "f4"), task="My Task")
    refuse(InvalidInput, "'My Task' is not a slug.*'my-task' would do", place, source)
    refuse(InvalidInput, "model name 'A' is not a slug", place, source, model="A")
    refuse(InvalidInput, "rendering name 'A' is not a slug", place, source, rendering="A")
    refuse(InvalidInput, "task name 'A' is not a slug", place, source, task="A")
    [found] = import_entries(
        place, source, model="mine", row_ids=True, task="my-task", pattern="My Task/hidden_states_{layer}.npy",
        rendering="few-shot", position="mean",
    )  # fmt: skip
    assert found.entry.path.startswith("models/mine/my-task/few-shot-mean-")


def test_with_a_task_given_only_its_arrays_are_imported(source: Path, place: Path):
    assert [found.entry.task for found in import_entries(place, source, model="m", row_ids=True, task="rte")] == ["rte"]
    refuse(NotFound, "no array fits the pattern 'sst2/hidden", place, source, task="sst2")


def test_what_does_not_fit_the_pattern_is_left_alone(source: Path, place: Path):
    (source / "rte" / "hidden_states_x.npy").write_bytes(b"no array")
    (source / "rte" / "final_norm.npy").write_bytes(b"no array")
    (source / ".cache").mkdir()
    (source / ".cache" / "hidden_states_0.npy").write_bytes(b"no array")
    (source / "rte" / "hidden_states_7.npy").mkdir()
    assert [found.entry.layers for found in import_entries(place, source, model="m", row_ids=True)] == [(0, 1, 10)] * 2


SLUGS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,12}", fullmatch=True).filter(lambda slug: not slug.endswith(".json"))


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.tuples(SLUGS, st.integers(0, 99)), st.none(), min_size=1, max_size=4), st.sampled_from(
    [PATTERN, "{task}_{layer}.npy", "l{layer}-{task}.npy", "[x]*/{task}/{task}.{layer}.npy"]
))  # fmt: skip
def test_names_that_a_pattern_made_are_found_by_it(tmp_path_factory: pytest.TempPathFactory, wanted, pattern):
    directory = tmp_path_factory.mktemp("names")
    for task, layer in wanted:
        path = directory / pattern.format(task=task, layer=layer)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = parse_pattern(pattern).find(directory)
    assert {(task, layer) for task, layers in found.items() for layer in layers} == set(wanted)


# What belongs together


def test_layers_of_another_shape_or_dtype_are_refused(tmp_path: Path, place: Path):
    source = one(tmp_path / "source", np.zeros((4, 3), "f4"))
    for other in (np.zeros((5, 3), "f4"), np.zeros((4, 2), "f4"), np.zeros((4, 3), "f2")):
        one(source, other, layer=1)
        match = (
            r"one shape and dtype in all layers, got \(4, 3\) float32 in .*0.npy and \(\d, \d\) float\d\d in .*1.npy"
        )
        refuse(InvalidInput, match, place, source)


def test_tasks_of_another_width_are_refused(tmp_path: Path, place: Path):
    source = one(tmp_path / "source", np.zeros((4, 3), "f4"))
    one(source, np.zeros((4, 5), "f4"), task="sst2")
    refuse(InvalidInput, "model 'mine': expected one width, got 3 features in .* and 5 in", place, source)
    import_entries(place, source, model="mine", row_ids=True, task="rte")
    refuse(Mismatch, "model 'mine' of .* has 3 features .*got 5; give this model", place, source, task="sst2")


def test_it_must_be_said_what_the_rows_are(source: Path, place: Path):
    tasks = [tiny_task(6), tiny_task(7, "boolq")]
    refuse(
        InvalidInput,
        "examples of boolq, rte: expected what the rows are.*--tasks FILE.*--row-ids",
        place,
        source,
        row_ids=False,
    )
    refuse(InvalidInput, "one of the two", place, source, tasks=tasks)
    refuse(
        InvalidInput, "task 'boolq': .*no examples of it; there is: rte", place, source, row_ids=False, tasks=tasks[:1]
    )
    refuse(
        InvalidInput, "task 'boolq': expected one row an example, got 7 rows in .* and 6 examples in --tasks; give", place,
        source, row_ids=False, tasks=[tiny_task(6), tiny_task(6, "boolq")],
    )  # fmt: skip
    twice = make_task("boolq", [*tiny_task(6, "boolq").rows, tiny_task(6, "boolq").rows[0]])
    refuse(
        InvalidInput,
        r"7 rows .* and 6 examples in --tasks \(1 that stand there twice",
        place,
        source,
        row_ids=False,
        tasks=[tiny_task(6), twice],
    )


def test_examples_of_a_task_give_its_ids_and_texts(source: Path, place: Path):
    tasks = [tiny_task(6), tiny_task(7, "boolq"), tiny_task(3, "unused")]
    for found, task in zip(import_entries(place, source, model="mine", tasks=tasks), (tasks[1], tasks[0]), strict=True):
        assert found.entry.example_ids == task.example_ids
        assert found.entry.read_task() == task
        assert found.entry.provenance["example_ids"] == "from tasks"
    assert open_store(place).task_labels("rte") == {}


def test_row_numbers_make_ids_and_the_task_says_so(source: Path, place: Path):
    found = import_entries(place, source, model="mine", row_ids=True)[1]
    assert open_store(place).task_labels("rte") == {"example_ids": "row numbers"}
    assert [row["prompt"] for row in found.entry.read_task().rows] == [f"row {row}" for row in range(6)]
    provenance = found.entry.provenance
    assert provenance["example_ids"] == "row numbers"
    assert provenance["files"] == {f"rte/hidden_states_{layer}.npy": 128 + 6 * 8 * 4 for layer in (0, 1, 10)}
    assert (provenance["imported_from"], provenance["pattern"]) == (str(source), PATTERN)
    model = open_store(place).model("mine")
    assert (model.architecture, model.n_layers, model.width, model.norm_width) == ("imported", 10, 8, None)


def test_row_numbers_do_not_stand_in_for_examples_that_are_known(source: Path, store: StoreWriter):
    write_tiny(store, tiny_spec())
    refuse(InvalidInput, "task 'rte' of .* has example ids made from texts", store.root, source)
    import_entries(store.root, source, model="mine", row_ids=True, task="boolq")
    import_entries(store.root, source, model="other", row_ids=True, task="boolq")


# Identity


def test_the_same_data_is_there_already_and_other_data_lives_beside_it(source: Path, place: Path, tmp_path: Path):
    first = import_entries(place, source, model="mine", row_ids=True)
    again = import_entries(place, shutil.copytree(source, tmp_path / "copy"), model="mine", row_ids=True)
    assert [found.outcome for found in again] == ["present", "present"]
    assert [found.entry.path for found in again] == [found.entry.path for found in first]
    path = source / "rte" / "hidden_states_10.npy"
    changed = np.load(path)
    changed[-1, -1] += 1
    np.save(path, changed)
    others = import_entries(place, source, model="mine", row_ids=True)
    assert [found.outcome for found in others] == ["present", "imported"]
    assert same_bits(others[1].entry.read(10), changed)
    assert len(open_store(place).entries()) == 3
    with pytest.raises(InvalidInput, match="2 entries fit; choose one by its key"):
        open_store(place).entry(model="mine", task="rte")


def test_the_name_of_an_ingested_checkpoint_is_refused(source: Path, store: StoreWriter):
    write_tiny(store, tiny_spec())
    tasks = [tiny_task(6), tiny_task(7, "boolq")]
    refuse(
        Mismatch, "the name 'pythia' belongs to another checkpoint", store.root, source, model="pythia", row_ids=False,
        tasks=tasks,
    )  # fmt: skip


def test_a_url_and_what_is_no_store_are_refused(source: Path, tmp_path: Path):
    with pytest.raises(ReadOnly, match="a store at a URL is read-only"):
        import_entries("https://example.org/lab.act", source, model="mine", row_ids=True)
    refuse(NotFound, "is not an actlas store", source, source)
    refuse(InvalidInput, "dtype 'int8': expected one of", tmp_path / "x.act", source, dtype="int8")


def test_imports_are_compared_with_each_other_and_with_what_was_ingested(tmp_path: Path, store: StoreWriter):
    task = tiny_task(30)
    values = {name: np.random.default_rng(seed).normal(size=(3, 30, 8)).astype("f4") for seed, name in enumerate("abc")}
    for name in "ab":
        source = save(tmp_path / name, PATTERN, {("rte", layer): values[name][layer] for layer in range(3)})
        import_entries(store.root, source, model=name, tasks=[task])
    shuffled = make_task("rte", reversed(task.rows))
    write_tiny(
        store,
        tiny_spec(model=tiny_model("c", norm_width=None), task=shuffled, dtype="float32"),
        (values["c"][:, ::-1], None),
    )
    table = compare_table(store.reader, ["a", "b", "c"], tasks="rte")
    assert table["n"].tolist() == [30] * 9
    straight = create_store(tmp_path / "straight.act")
    for name in "abc":
        spec = tiny_spec(model=tiny_model(name, norm_width=None, base=f"{name}0"), task=task, dtype="float32")
        write_tiny(straight, spec, (values[name], None))
    np.testing.assert_allclose(table["cka"], compare_table(straight.reader, ["a", "b", "c"])["cka"], atol=1e-6)


# Interruptions


class Stop(Exception):
    """What a progress callback raises."""


def test_an_interrupted_import_goes_on_where_it_stopped(tmp_path: Path, place: Path):
    source = save(tmp_path / "source", PATTERN, states(2 * LEAF + 3))

    def stop(task: str, n_done: int, n: int) -> None:
        assert (task, n_done, n) == ("boolq", LEAF, 2 * LEAF + 4)
        raise Stop

    with pytest.raises(Stop):
        import_entries(place, source, model="mine", row_ids=True, progress=stop)
    assert open_store(place).entries() == []
    told: list[tuple[str, int, int]] = []
    resumed = import_entries(place, source, model="mine", row_ids=True, progress=lambda *line: told.append(line))
    assert told[0] == ("boolq", 2 * LEAF, 2 * LEAF + 4)
    straight = import_entries(tmp_path / "straight.act", source, model="mine", row_ids=True)
    assert [found.entry.id for found in resumed] == [found.entry.id for found in straight]
    assert [path for path in (place / STAGING).iterdir() if path.is_dir() or path.suffix == ".journal"] == []


@pytest.mark.parametrize("pattern", [PATTERN, "{task}.npz:{layer}", "{task}.safetensors:{layer}"])
def test_a_file_that_is_written_while_it_is_read_is_not_imported(tmp_path: Path, place: Path, pattern: str):
    source = save(tmp_path / "source", pattern, {("rte", 0): np.zeros((3 * LEAF, 4), "f4")})
    [path] = (path for path in source.rglob("*") if path.is_file())

    def write(*_: object) -> None:
        with path.open("r+b") as file:
            file.seek(2 * LEAF * 4 * 4 + 2000)
            file.write(b"\x01")

    with pytest.raises((Mismatch, InvalidInput), match=r"changed while it was read; import it again|cannot be read"):
        import_entries(place, source, model="mine", pattern=pattern, row_ids=True, progress=write)
    assert open_store(place).entries() == []


@pytest.mark.parametrize("pattern", [PATTERN, "{task}.npz:{layer}", "{task}.safetensors:{layer}"])
def test_a_file_that_is_another_one_when_it_is_read_again_is_not_imported(tmp_path: Path, place: Path, pattern: str):
    source = save(tmp_path / "source", pattern, {("rte", 0): np.zeros((4, 3), "f4")})
    [found] = arrivals(parse_pattern(pattern).find(source), None, row_ids=True, dtype=None)
    for n_rows in (2, 5):
        save(source, pattern, {("rte", 0): np.zeros((n_rows, 3), "f4")})
        with pytest.raises(Mismatch, match="changed while it was read; import it again"):
            next(found.superblocks(0))


def test_nothing_is_made_before_everything_is_checked(source: Path, place: Path):
    np.save(source / "rte" / "hidden_states_1.npy", np.full((6, 8), 1e9))
    np.save(source / "rte" / "hidden_states_0.npy", np.zeros((6, 8)))
    np.save(source / "rte" / "hidden_states_10.npy", np.zeros((6, 8)))
    refuse(InvalidInput, "too large for float16", place, source, task="rte", dtype="float16")
    assert not store_exists(place)


# There and back


@pytest.mark.parametrize(("form", "pattern"), [
    ("npy", "pythia/{task}/hidden_states_{layer}.npy"), ("safetensors", "pythia/{task}.safetensors:hidden_states.{layer}"),
])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_what_is_exported_and_imported_again_has_the_same_bits(
    tmp_path: Path, store: StoreWriter, form: str, pattern: str, dtype: str
):
    entry = write_tiny(store, tiny_spec(dtype=dtype, task=tiny_task(LEAF + 1)))
    export_entry(store.reader, entry, tmp_path / "out", form=form)
    with pytest.raises(AlreadyExists, match=r"is there already"):
        export_entry(store.reader, entry, tmp_path / "out", form=form)
    kept = "float32" if (form, dtype) == ("npy", "bfloat16") else dtype
    [found] = import_entries(store.root, tmp_path / "out", model="back", pattern=pattern, tasks=[entry.read_task()])
    assert found.entry.identity.dtype == kept
    assert found.entry.example_ids == entry.example_ids
    back = found.entry.hidden_states[...]
    if kept != dtype:  # bfloat16 is the upper half of float32
        back = (back.view("u4") >> 16).astype("u2").view(REAL[dtype])
    assert same_bits(back, entry.hidden_states[...])
