"""Where tasks come from beside JSONL and Parquet: CSV, FLAN's layout, saved datasets, and their splits."""

import csv
import json

import pyarrow as pa
import pytest

from actlas.ingest import Fields, load_tasks
from actlas.store import InvalidInput, NotFound

ROW = {"inputs": "Is it?", "targets": "yes"}


def write_jsonl(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(path, data):
    path.write_bytes(data)
    return str(path)


def save_dataset(directory, rows, *, n_files=1, **state):
    """What `Dataset.save_to_disk` leaves: Arrow streams, and two files that describe them."""
    directory.mkdir(parents=True, exist_ok=True)
    schema = pa.Table.from_pylist(rows).schema
    names = [f"data-{number:05d}-of-{n_files:05d}.arrow" for number in range(n_files)]
    for number, name in enumerate(names):
        with pa.OSFile(str(directory / name), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
            for row in rows[number * len(rows) // n_files : (number + 1) * len(rows) // n_files]:
                stream.write_table(pa.Table.from_pylist([row], schema))
    (directory / "dataset_info.json").write_text("{}")
    described = {"_data_files": [{"filename": name} for name in names], "_split": "train"} | state
    (directory / "state.json").write_text(json.dumps(described))
    return directory


def save_splits(directory, *splits):
    for split in splits:
        save_dataset(directory / split, [ROW | {"inputs": split}])
    (directory / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return directory


def loaded(*sources, **options):
    return [
        (task.slug, [row["prompt"] for row in task.rows]) for task in load_tasks(list(map(str, sources)), **options)
    ]


# CSV


def test_a_csv_file_holds_what_jsonl_holds(tmp_path):
    rows = [ROW | {"source_id": "a"}, {"inputs": 'A "quote",\na line\r\nand 是', "targets": "", "source_id": "b"}]
    with (tmp_path / "rte.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (table,), (lines,) = (
        load_tasks([str(tmp_path / "rte.csv")]),
        load_tasks([str(write_jsonl(tmp_path / "rte.jsonl", *rows))]),
    )
    assert table.digest == lines.digest


def test_a_bom_blank_lines_and_long_cells_do_no_harm(tmp_path):
    limit = csv.field_size_limit()
    prompt = "x" * (limit + 1)
    path = write_csv(tmp_path / "rte.csv", f"\ufeffprompt,target\r\n\r\n{prompt},b\r\n".encode())
    assert loaded(path) == [("rte", [prompt])]
    assert csv.field_size_limit() == limit


def test_the_task_column_of_a_csv_file_splits_it(tmp_path):
    path = write_csv(tmp_path / "all.csv", b"question,target,task\na,b,one\nc,d,two\n")
    assert loaded(path, fields=Fields({"prompt": "question"})) == [("one", ["a"]), ("two", ["c"])]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", r"rte\.csv: expected at least one example, got an empty file"),
        (b"prompt,target\n", r"rte\.csv: expected at least one example, got an empty file"),
        (b"prompt,target\na,b\n\nc,d,e\n", r"rte\.csv, line 4: expected 2 cells, as in the header, got 3; put text"),
        (b'prompt,target\n"a\nb",c\nd\n', r"rte\.csv, line 4: expected 2 cells, as in the header, got 1"),
        (b'prompt,target\n"a,b\n', r"rte\.csv, line 2: expected cells in quotes that end \(unexpected end of data\)"),
        (b'prompt,target\n"a"b,c\n', r"rte\.csv, line 2: expected cells in quotes that end"),
        (b"prompt,prompt\na,b\n", r"line 1: expected a header with a name of its own for each column; look at prompt"),
        (b",prompt,target\n0,a,b\n", r"line 1: expected a header .* look at \(no name\)"),
        (b"prompt\ttarget\na\tb\n", r"line 1: expected a header with commas between the names, got 'prompt\\ttarget'"),
        (b"prompt;target\na;b\n", r"line 1: expected a header with commas between the names"),
        (b"prompt,target\na,b\n\xff,d\n", r"rte\.csv, line 3: expected UTF-8 \(invalid start byte\); save the file"),
        (b"a,b\n1,2\n", r"rte\.csv, line 2: expected the fields inputs and targets .* got a, b"),
    ],
    ids=range(12),
)
def test_a_csv_file_that_is_no_task_is_refused_with_its_line(data, match, tmp_path):
    with pytest.raises(InvalidInput, match=match):
        load_tasks([write_csv(tmp_path / "rte.csv", data)])


# FLAN's layout


@pytest.fixture
def flan(tmp_path):
    """A directory of FLAN's layout with two splits."""
    for split, names in {"train": ("rte", "wmt14_enfr"), "test": ("rte",)}.items():
        for name in names:
            row = {"inputs": f"{name} {split}", "targets": "yes", "task": f"{name}_10templates"}
            write_jsonl(tmp_path / "flan" / split / f"{name}_10templates_{split}.jsonl", row)
    return tmp_path / "flan"


def test_flans_files_name_their_tasks_and_a_split_is_chosen(flan):
    assert loaded(flan, split="train") == [("rte", ["rte train"]), ("wmt14_enfr", ["wmt14_enfr train"])]
    assert loaded(flan, split="test") == [("rte", ["rte test"])]
    assert loaded(flan / "train") == loaded(flan, split="train")
    assert loaded(flan / "test" / "rte_10templates_test.jsonl") == [("rte", ["rte test"])]
    assert loaded(f"other={flan / 'test'}") == [("other", ["rte test"])]


def test_the_only_split_needs_no_choice(flan):
    (flan / "test" / "rte_10templates_test.jsonl").unlink()
    (flan / "test" / "README.jsonl").write_text("of no task")
    assert loaded(flan) == loaded(flan, split="train")


def test_several_splits_without_a_choice_and_splits_that_are_not_there_are_refused(flan):
    with pytest.raises(InvalidInput, match=r"flan: holds the splits test, train; choose one with --split"):
        load_tasks([str(flan)])
    with pytest.raises(NotFound, match=r"flan: no split 'tran'; did you mean 'train'\?"):
        load_tasks([str(flan)], split="tran")
    with pytest.raises(NotFound, match="test: no split 'train'; there is: test"):
        load_tasks([str(flan / "test")], split="train")


def test_splits_in_one_directory_are_told_apart_and_files_without_one_are_kept(tmp_path):
    for split in ("train", "validation"):
        write_jsonl(tmp_path / f"rte_10templates_{split}.jsonl", {"inputs": split, "targets": ""})
    write_jsonl(tmp_path / "own.jsonl", {"inputs": "mine", "targets": ""})
    assert loaded(tmp_path, split="validation") == [("own", ["mine"]), ("rte", ["validation"])]
    with pytest.raises(InvalidInput, match="holds the splits train, validation"):
        load_tasks([str(tmp_path)])


def test_a_directory_of_two_layouts_is_refused(flan):
    write_jsonl(flan / "own.jsonl", ROW)
    with pytest.raises(InvalidInput, match=r"flan: holds \.jsonl, .* files and directories of FLAN's splits; name the"):
        load_tasks([str(flan)], split="train")


def test_a_split_of_sources_that_have_none_is_refused(tmp_path, flan):
    own = write_jsonl(tmp_path / "own.jsonl", ROW)
    with pytest.raises(InvalidInput, match=r"--split train: expected a directory with splits, got none among .*own"):
        load_tasks([str(own)], split="train")
    assert [slug for slug, _ in loaded(own, flan, split="test")] == ["own", "rte"]


def test_a_field_named_for_the_task_is_asked_in_flans_files_too(tmp_path):
    path = write_jsonl(tmp_path / "rte_10templates_train.jsonl", ROW | {"task": "mine"})
    assert loaded(path, fields=Fields({"task": "task"})) == [("mine", ["Is it?"])]
    assert loaded(path) == [("rte", ["Is it?"])]


# datasets that were saved


def test_a_saved_dataset_is_read_in_the_order_of_its_files(tmp_path):
    rows = [{"inputs": f"p{number}", "targets": "t", "label": number} for number in range(5)]
    (task,) = load_tasks([str(save_dataset(tmp_path / "rte", rows, n_files=2))])
    assert (task.slug, task.column("prompt")) == ("rte", ["p0", "p1", "p2", "p3", "p4"])
    assert task.column("label") == ["0", "1", "2", "3", "4"]


def test_a_split_of_saved_splits_is_chosen_by_option_or_by_path(tmp_path):
    saved = save_splits(tmp_path / "rte", "train", "test")
    assert loaded(saved, split="test") == loaded(saved / "test") == [("rte", ["test"])]
    assert loaded(f"mine={saved / 'train'}") == [("mine", ["train"])]
    with pytest.raises(InvalidInput, match="rte: holds the splits test, train; choose one with --split"):
        load_tasks([str(saved)])
    with pytest.raises(NotFound, match="rte: no split 'dev'; there is: test, train"):
        load_tasks([str(saved)], split="dev")
    assert loaded(save_splits(tmp_path / "cb", "train")) == [("cb", ["train"])]


def test_a_saved_dataset_that_is_damaged_is_refused(tmp_path):
    saved = save_dataset(tmp_path / "rte", [ROW])
    (table,) = saved.glob("*.arrow")
    whole = table.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"ARROW1\0\0"):
        table.write_bytes(damaged)
        with pytest.raises(InvalidInput, match=r"data-00000.*: not a readable Arrow stream .*; save the dataset again"):
            load_tasks([str(saved)])
    table.unlink()
    with pytest.raises(InvalidInput, match=r"data-00000.*: not a readable Arrow stream"):
        load_tasks([str(saved)])


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"_data_files": [{"filename": "../up.arrow"}]}, r"expected files of this directory, got '\.\./up\.arrow'"),
        ({"_data_files": None}, r"state\.json: expected the names of its tables; save the dataset again"),
        ({"_data_files": []}, "rte: expected at least one example"),
        ({"_indices_data_files": [{"filename": "indices.arrow"}]}, "chosen by an index of an old version of datasets"),
    ],
)
def test_a_saved_dataset_that_says_what_cannot_be_is_refused(state, match, tmp_path):
    with pytest.raises(InvalidInput, match=match):
        load_tasks([str(save_dataset(tmp_path / "rte", [ROW], **state))])


def test_descriptions_of_saved_datasets_that_are_none_are_refused(tmp_path):
    saved = save_splits(tmp_path / "rte", "train")
    for content, match in (
        ("[", "expected a JSON object"),
        ("[]", "expected a JSON object, got list"),
        ('{"splits": ["../x"]}', r"expected the names of its splits, got \['\.\./x'\]"),
        ('{"splits": ["gone"]}', "gone: expected the saved dataset of this split"),
    ):
        (saved / "dataset_dict.json").write_text(content)
        with pytest.raises(InvalidInput, match=match):
            load_tasks([str(saved)])
