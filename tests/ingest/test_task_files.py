"""Tasks from files: three families of field names, names of tasks, and refusals that say where."""

import json
import os
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlas.ingest import Fields, load_tasks
from actlas.store import InvalidInput, NotFound, example_id

FLAN = [
    {"inputs": "Is it?", "targets": "yes", "template_id": 3, "source_id": "a", "label": 1, "weight": 0.5},
    {"inputs": "Was it?", "targets": "no", "template_id": 4, "source_id": "b", "label": 0, "weight": 1},
]


@pytest.fixture
def write(tmp_path):
    """Writes rows, or raw bytes, as a file of its suffix."""

    def writes(rows, name="rte.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        elif path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return writes


def load_one(source, **names):
    (task,) = load_tasks([source], Fields(names))
    return task


def content(task):
    return [{name: value for name, value in row.items() if name != "example_id"} for row in task.rows]


def test_flan_fields_with_columns_as_text_and_free_ones_as_they_are(write):
    task = load_one(write(FLAN))
    assert task.slug == "rte"
    assert content(task) == [
        {"prompt": "Is it?", "target": "yes", "template_id": "3", "source_id": "a", "label": "1", "weight": 0.5},
        {"prompt": "Was it?", "target": "no", "template_id": "4", "source_id": "b", "label": "0", "weight": 1.0},
    ]
    assert task.example_ids == [example_id("rte", "Is it?", "yes"), example_id("rte", "Was it?", "no")]


def test_alpaca_fields_join_instruction_and_input(write):
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Sing.", "input": "", "output": "la"},
        {"instruction": "Stop.", "output": "."},
    ]
    assert content(load_one(write(rows))) == [
        {"prompt": "Add.\n\n1 2", "target": "3"},
        {"prompt": "Sing.", "target": "la"},
        {"prompt": "Stop.", "target": "."},
    ]


def test_alpaca_turned_round_keeps_its_input_apart(write):
    task = load_one(
        write([{"instruction": "Add.", "input": "1 2", "output": "3"}]), prompt="output", target="instruction"
    )
    assert content(task) == [{"prompt": "3", "target": "Add.", "input": "1 2"}]


def test_prompt_and_target_are_taken_as_they_are(write):
    assert content(load_one(write([{"prompt": "a", "target": "b", "inputs_": 1}]))) == [
        {"prompt": "a", "target": "b", "inputs_": 1}
    ]


def test_fields_may_have_any_names(write):
    rows = [{"question": "a", "answer": "b", "kind": 7, "gold": True, "doc": "d", "inputs": "left", "task": "x"}]
    task = load_one(
        write(rows), prompt="question", target="answer", template_id="kind", label="gold", source_id="doc", task="task"
    )
    assert task.slug == "x"
    assert content(task) == [
        {"prompt": "a", "target": "b", "template_id": "7", "label": "true", "source_id": "d", "inputs": "left"}
    ]


def test_one_field_may_be_named_and_the_others_found(write):
    path = write([{"question": "a", "target": "b"}])
    assert content(load_one(path, prompt="question")) == [{"prompt": "a", "target": "b"}]
    path = write([{"inputs": "a", "answer": "b"}])
    assert content(load_one(path, target="answer")) == [{"prompt": "a", "target": "b"}]


def test_a_field_named_for_the_task_splits_the_file_and_must_be_there(write):
    rows = [
        {"prompt": "a", "target": "", "subset": "one"},
        {"prompt": "b", "target": "", "subset": "two", "task": "no"},
    ]
    assert [task.slug for task in load_tasks([write(rows)], Fields({"task": "subset"}))] == ["one", "two"]
    with pytest.raises(InvalidInput, match=r"line 1: expected a field 'corpus', got prompt, target, subset"):
        load_tasks([write(rows)], Fields({"task": "corpus"}))


@pytest.mark.parametrize("name", ["prompt", "target", "label", "source_id"])
def test_a_named_field_that_is_missing_is_named_with_its_line(name, write):
    path = write([{"prompt": "a", "target": "b", "x": "c"}, {"prompt": "a", "target": "b"}])
    with pytest.raises(InvalidInput, match=r"rte\.jsonl, line 2: expected a field 'x', got prompt, target"):
        load_tasks([path], Fields({name: "x"}))


def test_parquet_holds_what_jsonl_holds(write):
    lines, table = write(FLAN), write(FLAN, "other/rte.parquet")
    assert load_one(lines).digest == load_one(table).digest


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "prompt": st.text(st.characters(codec="utf-8")),
                "target": st.text(st.characters(codec="utf-8"), max_size=5),
            },
            optional={"source_id": st.text(st.characters(codec="utf-8"), max_size=3), "size": st.integers(-9, 9)},
        ),
        min_size=1,
        max_size=20,
    )
)
def test_any_text_survives_and_both_formats_agree(tmp_path_factory, rows):
    directory = tmp_path_factory.mktemp("any")
    (directory / "rte.jsonl").write_text("".join(json.dumps(row) + "\r\n" for row in rows), encoding="utf-8")
    columns = {name: [row.get(name) for row in rows] for name in {name for row in rows for name in row}}
    pq.write_table(pa.table(columns), directory / "rte.parquet")
    (lines,), (table,) = load_tasks([str(directory / "rte.jsonl")]), load_tasks([str(directory / "rte.parquet")])
    distinct = {(row["prompt"], row["target"]) for row in rows}
    assert {(row["prompt"], row["target"]) for row in lines.rows} == distinct
    assert lines.n_duplicates == len(rows) - len(distinct)
    # a column that is None throughout is a column in one format and absent in the other
    full = [[{k: v for k, v in row.items() if v is not None} for row in task.rows] for task in (lines, table)]
    assert full[0] == full[1]


def test_ids_depend_on_neither_order_nor_file_and_duplicates_are_kept_once(write):
    rows = [{"prompt": f"p{n}", "target": "t"} for n in range(20)]
    ids = load_one(write(rows)).example_ids
    shuffled = random.Random(1).sample(rows, 20)
    again = load_one("rte=" + write(shuffled + rows[:3], "shuffled.parquet"))
    assert again.slug == "rte"
    assert again.example_ids != ids
    assert set(again.example_ids) == set(ids)
    assert (len(again), again.n_duplicates) == (20, 3)


def test_a_directory_gives_a_task_for_each_of_its_files(write, tmp_path):
    write(FLAN, "flan/sst2.parquet")
    write(FLAN, "flan/rte.jsonl")
    write(b"not a task", "flan/README.md")
    (tmp_path / "flan" / "old.jsonl").mkdir()
    assert [task.slug for task in load_tasks([str(tmp_path / "flan")])] == ["rte", "sst2"]
    assert [task.slug for task in load_tasks(["all=" + str(tmp_path / "flan")])] == ["all"]


def test_a_name_may_be_given_and_an_equals_sign_may_stand_in_a_path(write):
    assert load_one("other=" + write(FLAN)).slug == "other"
    assert load_one(write(FLAN, "a=b/rte.jsonl")).slug == "rte"
    assert load_one("x=" + write(FLAN, "a=b/rte.parquet")).slug == "x"
    assert "a" not in load_one(write(FLAN, "a=b/rte.parquet")).rows[0]


def test_the_task_field_splits_a_file_and_a_name_overrides_it(write):
    path = write([{"prompt": str(n), "target": "", "task": "even" if n % 2 == 0 else "odd"} for n in range(6)])
    assert [(task.slug, len(task)) for task in load_tasks([path])] == [("even", 3), ("odd", 3)]
    assert [(task.slug, len(task)) for task in load_tasks([f"all={path}"])] == [("all", 6)]


def test_two_files_of_one_task_are_one_task(write):
    left, right = write(FLAN[:1], "left/rte.jsonl"), write(FLAN[1:], "right/rte.jsonl")
    assert load_tasks([left, right])[0].example_ids == load_one(write(FLAN)).example_ids


def test_columns_of_one_type_stay_and_mixed_ones_become_text(write):
    rows = [
        {"prompt": "a", "target": "", "n": 1, "x": 1, "mixed": 1, "flag": True, "deep": [1, {"b": 2}], "gone": None},
        {"prompt": "b", "target": "", "n": 2, "x": 0.5, "mixed": "two", "flag": False, "nan": float("nan")},
    ]
    first, second = content(load_one(write(rows)))
    assert first == {
        "prompt": "a", "target": "", "n": 1, "x": 1.0, "mixed": "1", "flag": True, "deep": '[1, {"b": 2}]',
        "gone": None, "nan": None,
    }  # fmt: skip
    assert (second["x"], second["mixed"], second["nan"], second["deep"]) == (0.5, "two", None, None)


def test_blank_lines_a_bom_and_windows_line_ends_do_no_harm(write):
    path = write(b'\xef\xbb\xbf{"prompt": "a", "target": "b"}\r\n\r\n  \n{"prompt": "c", "target": "d"}')
    assert [row["prompt"] for row in load_one(path).rows] == ["a", "c"]


ROW = b'{"prompt": "a", "target": "b"}\n'


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", r"rte\.jsonl: expected at least one example, got an empty file"),
        (b"\n \n", "got an empty file"),
        (ROW + b"not json\n", r"line 2: expected one JSON object a line, got b'not json"),
        (ROW + b'{"prompt": "a"', r"line 2: expected one JSON object a line"),
        (b'\n[{"prompt": "a", "target": "b"}]', "line 2: expected a JSON object, got list"),
        (b"[" * 100_000, "line 1: expected one JSON object a line"),
        (b"3", "line 1: expected a JSON object, got int"),
        (b"{}", "line 1: expected the fields inputs and targets .* got none; name them with --field prompt=NAME"),
        (ROW + b'{"question": "a"}', "line 2: expected the fields inputs .* got question"),
        (b'{"prompt": "a"}', "line 1: expected a field 'target', got prompt"),
        (b'{"inputs": "a", "target": "b"}', "line 1: expected a field 'targets', got inputs, target"),
        (b'{"prompt": ["a"], "target": "b"}', r"line 1: expected text in field 'prompt', got list: \['a'\]"),
        (b'{"prompt": "a", "target": null}', "line 1: expected text in field 'target', got NoneType: None"),
        (b'{"instruction": "a", "input": 3, "output": "b"}', "expected text in field 'input', got int: 3"),
        (b'{"prompt": "\xff\xfe", "target": "b"}', "line 1: expected one JSON object a line.*decode"),
        (rb'{"prompt": "\ud800", "target": "b"}', "task rte, example 1: its text is not valid Unicode"),
        (b'{"prompt": "\xed\xa0\x80", "target": "b"}', "task rte, example 1: its text is not valid Unicode"),
        (rb'{"prompt": "a", "target": "b", "free": "\udfff"}', "task rte: a column cannot be kept"),
        (b'{"prompt": "a", "target": "b", "free": Infinity}', "task rte: a column cannot be kept"),
        (b'{"prompt": "a", "target": "b", "free": 9999999999999999999}', "column 'free': expected numbers of at most 63"),
        (b'{"prompt": "a", "target": "b", "task": "No Slug"}', "line 1: task name 'No Slug' is not a slug.*'no-slug' would"),
        (b'{"prompt": "a", "target": "b", "task": "../up"}', r"task name '\.\./up' is not a slug"),
        (b'{"prompt": "a", "target": "b", "task": null}', "line 1: expected text in field 'task', got NoneType"),
    ],
    ids=range(23),
)  # fmt: skip
def test_a_file_that_is_no_task_is_refused_with_its_line(data, match, write):
    with pytest.raises(InvalidInput, match=match):
        load_tasks([write(data)])


def test_names_that_are_no_slugs_are_refused_with_one_that_would_do(write):
    with pytest.raises(InvalidInput, match=r"task name 'My Task' is not a slug.*'my-task' would do"):
        load_tasks([write(FLAN, "My Task.jsonl")])
    with pytest.raises(InvalidInput, match=r"task name 'RTE' is not a slug.*'rte' would do"):
        load_tasks(["RTE=" + write(FLAN)])


def test_paths_that_hold_no_tasks_are_refused(write, tmp_path):
    with pytest.raises(NotFound, match=r"no tasks file at .*gone\.jsonl: expected a \.jsonl, \.parquet or \.csv file"):
        load_tasks([str(tmp_path / "gone.jsonl")])
    with pytest.raises(NotFound, match=r"no tasks file at .*gone\.jsonl"):
        load_tasks([f"rte={tmp_path / 'gone.jsonl'}"])
    with pytest.raises(InvalidInput, match=r"rte\.tsv: expected a name ending in \.jsonl, \.parquet or \.csv; convert"):
        load_tasks([write(b"a,b", "rte.tsv")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InvalidInput,
        match=r"expected \.jsonl, \.parquet or \.csv files in this directory, FLAN\'s splits, or a dataset; got none",
    ):
        load_tasks([str(tmp_path / "empty")])
    with pytest.raises(NotFound, match="no tasks file at"):
        load_tasks(["x" * 5000])


def test_a_loop_of_links_is_no_file(tmp_path):
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    with pytest.raises(NotFound, match=r"no tasks file at .*loop\.jsonl"):
        load_tasks([str(tmp_path / "loop.jsonl")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(write):
    path = write(FLAN)
    Path(path).chmod(0)
    with pytest.raises(InvalidInput, match=r"rte\.jsonl: cannot be read \(Permission denied\)"):
        load_tasks([path])


def test_a_broken_parquet_file_is_refused(write, tmp_path):
    whole = write(FLAN, "rte.parquet")
    data = (tmp_path / "rte.parquet").read_bytes()
    for damaged in (b"", b"PAR1", data[:-20], data[: len(data) // 2], data[:20] + bytes(60) + data[80:]):
        with pytest.raises(InvalidInput, match=r"broken\.parquet: not a readable Parquet file"):
            load_tasks([write(damaged, "broken.parquet")])
    assert len(load_one(whole)) == 2


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path):
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"], pa.binary()).buffers())
    pq.write_table(pa.table({"prompt": text, "target": ["b"]}), tmp_path / "rte.parquet")
    with pytest.raises(InvalidInput, match=r"rte\.parquet: not a readable Parquet file"):
        load_tasks([str(tmp_path / "rte.parquet")])


def test_an_empty_table_and_one_without_the_fields_are_refused(write, tmp_path):
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "rte.parquet")
    with pytest.raises(InvalidInput, match=r"rte\.parquet: expected at least one example, got an empty file"):
        load_tasks([str(tmp_path / "rte.parquet")])
    with pytest.raises(InvalidInput, match=r"other\.parquet, row 1: expected the fields inputs and targets"):
        load_tasks([write([{"a": 1}], "other.parquet")])


def test_parquet_columns_of_other_types_become_text(tmp_path):
    columns = {"prompt": ["a"], "target": ["b"], "raw": [b"\x00"], "day": pa.array([0], pa.date32()), "list": [[1, 2]]}
    pq.write_table(pa.table(columns), tmp_path / "rte.parquet")
    assert content(load_one(str(tmp_path / "rte.parquet")))[0] == {
        "prompt": "a", "target": "b", "raw": '"b\'\\\\x00\'"', "day": '"1970-01-01"', "list": "[1, 2]",
    }  # fmt: skip


def test_a_copy_of_a_file_is_all_duplicates(write, tmp_path):
    path = write(FLAN, "a/rte.jsonl")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert load_tasks([path, str(tmp_path / "b" / "rte.jsonl")])[0].n_duplicates == 2
