"""Tasks from files: each source found, each row made an example, the examples of a task put together."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from actlas.ingest.fields import Fields, as_text, text_of
from actlas.ingest.readers import read_rows
from actlas.ingest.sources import Part, choose_split, exists, find_parts
from actlas.store import InvalidInput, Task, check_slug, make_task


def load_tasks(sources: Sequence[str], fields: Fields | None = None, *, split: str | None = None) -> list[Task]:
    """Load tasks from files and directories.

    Parameters
    ----------
    sources : sequence of str
        ``FILE`` (.jsonl, .parquet, .csv), ``DIRECTORY`` (every such file in it; FLAN's layout
        ``{split}/{task}_10templates_{split}.jsonl``; a dataset that `save_to_disk` wrote), or ``NAME=`` one of these. A
        task is called what the field ``task`` of a row says, else what its file or dataset is called; a file of FLAN's
        is called ``{task}``; ``NAME=`` overrides all.
    fields : Fields, optional
        Names of the fields.
    split : str, optional
        Which split to take of a directory that holds several.

    Returns
    -------
    list of Task
        In order of appearance; examples in the order of the files, exact duplicates kept once.

    Raises
    ------
    NotFound
        When a path or a split does not exist.
    InvalidInput
        For an empty file, a line that is not what the file's name says, a missing field, a name that is no slug, or a
        directory of several splits of which none was chosen.
    """
    examples: dict[str, list[dict[str, Any]]] = {}
    has_splits = False
    for source in sources:
        name, path = _split_name(source)
        parts = find_parts(path)
        has_splits = has_splits or any(part.split for part in parts)
        for part in choose_split(parts, split, path):
            for task, example in _read_part(part, name, fields or Fields()):
                examples.setdefault(task, []).append(example)
    if split is not None and not has_splits:
        raise InvalidInput(f"--split {split}: expected a directory with splits, got none among {', '.join(sources)}")
    return [make_task(task, _one_type_a_column(rows)) for task, rows in examples.items()]


def _split_name(source: str) -> tuple[str | None, Path]:
    name, equals, path = source.partition("=")
    if equals and not exists(Path(source)):
        return check_slug(name, "task"), Path(path)
    return None, Path(source)


def _read_part(part: Part, name: str | None, fields: Fields) -> Iterator[tuple[str, dict[str, Any]]]:
    task_field, empty = fields.names.get("task", "task"), True
    for where, row in read_rows(part.path):
        empty = False
        asks_row = "task" in fields.names or (task_field in row and not part.is_sure)
        task = text_of(row, task_field, where) if name is None and asks_row else name or part.task
        example = fields.example({key: value for key, value in row.items() if key != task_field}, where)
        example.pop("task", None)
        yield check_slug(task, f"{where}: task"), example
    if empty:
        raise InvalidInput(f"{part.path}: expected at least one example, got an empty file")


def _one_type_a_column(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make columns that mix types text, so that every column has one type wherever it is kept.

    Whole numbers among others become floats when the task is made.
    """
    kinds: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None:
                kinds.setdefault(name, set()).add(type(value))
    mixed = {name for name, types in kinds.items() if len(types) > 1 and types != {int, float}}
    return [{name: as_text(v) if name in mixed else v for name, v in row.items()} for row in rows] if mixed else rows
