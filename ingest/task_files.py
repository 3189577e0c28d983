"""Tasks from files: JSONL and Parquet, with the field names of FLAN, of Alpaca, or as the user says."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actlas.store import InvalidInput, NotFound, Task, check_slug, make_task

SUFFIXES = (".jsonl", ".parquet")

_TEXT_COLUMNS = ("source_id", "template_id", "label")


@dataclass(frozen=True)
class Fields:
    """Which field of a file holds what.

    Attributes
    ----------
    names : mapping
        From ``prompt``, ``target``, ``task``, ``source_id``, ``template_id``, ``label`` to the field that holds it;
        empty for FLAN's and Alpaca's own names.
    """

    names: Mapping[str, str] = field(default_factory=dict)

    def example(self, row: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return a row as an example: prompt, target, and every other column under its own name.

        Raises
        ------
        InvalidInput
            When prompt or target is missing or no text.
        """
        used = self._find(row, where)
        example: dict[str, Any] = {name: _text(row, source, where) for name, source in used.items()}
        is_alpaca = used["prompt"] == "instruction"
        if is_alpaca and row.get("input"):  # Alpaca's optional second half of the prompt
            example["prompt"] += "\n\n" + _text(row, "input", where)
        taken = {*used.values(), *self.names.values(), *(("input",) if is_alpaca else ())}
        for name, value in row.items():
            if name not in taken and name not in ("example_id", *used):
                example[name] = _as_text(value) if name in _TEXT_COLUMNS else _scalar(value)
        for name, source in self.names.items():
            if name not in used and name != "task":
                example[name] = _as_text(_field(row, source, where))
        return example

    def _find(self, row: Mapping[str, Any], where: str) -> dict[str, str]:
        if "prompt" in self.names:
            return {"prompt": self.names["prompt"], "target": self.names.get("target", "target")}
        known = {"inputs": "targets", "instruction": "output", "prompt": "target"}
        for prompt, target in known.items():
            if prompt in row:
                return {"prompt": prompt, "target": self.names.get("target", target)}
        raise InvalidInput(
            f"{where}: expected the fields inputs and targets (FLAN), instruction and output (Alpaca) or prompt and "
            f"target, got {', '.join(row) or 'none'}; name them with --field prompt=NAME --field target=NAME"
        )


def _field(row: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise InvalidInput(
            f"{where}: expected a field {name!r}, got {', '.join(row) or 'none'}; mend the file, or name another with --field"
        )
    return row[name]


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = _field(row, name, where)
    if not isinstance(value, str):
        raise InvalidInput(f"{where}: expected text in field {name!r}, got {type(value).__name__}: {value!r:.60}")
    return value


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _scalar(value: Any) -> Any:
    # Free columns keep numbers and text; what JSON or Arrow cannot hold in one column becomes text.
    if isinstance(value, float) and value != value:
        return None
    return value if value is None or isinstance(value, (str, bool, int, float)) else _as_text(value)


def load_tasks(sources: Sequence[str], fields: Fields = Fields()) -> list[Task]:
    """Load tasks from files and directories.

    Parameters
    ----------
    sources : sequence of str
        ``FILE``, ``DIRECTORY`` (every .jsonl and .parquet file in it) or ``NAME=FILE``. A file's task is the value of
        its field ``task`` where it has one, else the file's name; ``NAME=`` overrides both.
    fields : Fields
        Names of the fields.

    Returns
    -------
    list of Task
        In order of appearance; examples in the order of the files, exact duplicates kept once.

    Raises
    ------
    NotFound
        When a path does not exist.
    InvalidInput
        For an empty file, a line that is not JSON, a missing field, or a name that is no slug.
    """
    examples: dict[str, list[dict[str, Any]]] = {}
    for source in sources:
        name, path = _split_name(source)
        for file in _files(path):
            for task, example in _read_file(file, name, fields):
                examples.setdefault(task, []).append(example)
    return [make_task(task, _one_type_a_column(rows)) for task, rows in examples.items()]


def _split_name(source: str) -> tuple[str | None, Path]:
    name, equals, path = source.partition("=")
    if equals and not _exists(Path(source)):
        return check_slug(name, "task"), Path(path)
    return None, Path(source)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a loop of links
        return False


def _files(path: Path) -> list[Path]:
    if not _exists(path):
        raise NotFound(f"no tasks file at {path}: expected a .jsonl or .parquet file, or a directory of such")
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
        if not files:
            raise InvalidInput(f"{path}: expected .jsonl or .parquet files in this directory, got none")
        return files
    if path.suffix not in SUFFIXES:
        raise InvalidInput(f"{path}: expected a name ending in .jsonl or .parquet; convert the file")
    return [path]


def _read_file(path: Path, name: str | None, fields: Fields) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = _read_jsonl(path) if path.suffix == ".jsonl" else _read_parquet(path)
    task_field, empty = fields.names.get("task", "task"), True
    for where, row in rows:
        empty = False
        is_split = name is None and (task_field in row or "task" in fields.names)
        task = _text(row, task_field, where) if is_split else name or path.stem
        example = fields.example({key: value for key, value in row.items() if key != task_field}, where)
        example.pop("task", None)
        yield check_slug(task, f"{where}: task"), example
    if empty:
        raise InvalidInput(f"{path}: expected at least one example, got an empty file")


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from error
    with file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InvalidInput(f"{where}: expected one JSON object a line, got {line[:60]!r} ({error})") from error
            if not isinstance(row, dict):
                raise InvalidInput(f"{where}: expected a JSON object, got {type(row).__name__}")
            yield where, row


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        rows = pq.ParquetFile(path).read().to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidInput(f"{path}: not a readable Parquet file ({error})") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row


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
    return [{name: _as_text(v) if name in mixed else v for name, v in row.items()} for row in rows] if mixed else rows
