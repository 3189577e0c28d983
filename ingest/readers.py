"""Readers: the rows of a tasks file, each with the place that a message names."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actlas.store import InvalidInput

Rows = Iterator[tuple[str, dict[str, Any]]]

_STATE = ("dataset_info.json", "state.json")  # what `save_to_disk` of the library datasets leaves beside its tables


def read_rows(path: Path) -> Rows:
    """Yield the rows of a file, or of a saved dataset, each with the place where it stands.

    Raises
    ------
    InvalidInput
        When the file cannot be read, or is not what its name says; the message names the line.
    """
    return _READERS[path.suffix](path) if path.is_file() else _read_saved(path)


def is_saved_dataset(path: Path) -> bool:
    """Return whether a directory was written by `Dataset.save_to_disk` of the library datasets."""
    return all((path / name).is_file() for name in _STATE)


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a small file that describes a dataset.

    Raises
    ------
    InvalidInput
        When it cannot be read, or is something else.
    """
    try:
        value = json.loads(_read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: expected a JSON object ({error}); save the dataset again") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{path}: expected a JSON object, got {type(value).__name__}; save the dataset again")
    return value


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from error


def _read_jsonl(path: Path) -> Rows:
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


def _read_parquet(path: Path) -> Rows:
    try:
        rows = pq.ParquetFile(path).read().to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidInput(f"{path}: not a readable Parquet file ({error})") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row


def _read_csv(path: Path) -> Rows:
    """A cell may hold commas and line ends in quotes; a row's place is the line on which it begins."""
    header: list[str] | None = None
    for where, cells in read_cells(path, ","):
        if header is None:
            header = _check_header(cells, where)
        elif len(cells) != len(header):
            raise InvalidInput(
                f"{where}: expected {len(header)} cells, as in the header, got {len(cells)}; put text that holds commas, "
                "quotes or line ends in double quotes"
            )
        else:
            yield where, dict(zip(header, cells, strict=True))


def read_cells(path: Path, delimiter: str) -> list[tuple[str, list[str]]]:
    """Return the lines of cells of a file in UTF-8, blank ones aside, each with the place where it begins.

    Raises
    ------
    InvalidInput
        When it cannot be read, is not UTF-8, or a quote does not end.
    """
    data = _read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"{path}, line {line}: expected UTF-8 ({error.reason}); save the file as UTF-8") from error
    limit = csv.field_size_limit(sys.maxsize)  # the module's own is below the length of long prompts
    try:
        return _parse_cells(path, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    finally:
        csv.field_size_limit(limit)


def _parse_cells(path: Path, reader: Any) -> list[tuple[str, list[str]]]:
    found, first = [], 1
    try:
        for cells in reader:
            if cells:
                found.append((f"{path}, line {first}", cells))
            first = reader.line_num + 1
    except csv.Error as error:
        raise InvalidInput(f"{path}, line {first}: expected cells in quotes that end ({error})") from error
    return found


def _check_header(cells: list[str], where: str) -> list[str]:
    if wrong := sorted({name or "(no name)" for name in cells if not name or cells.count(name) > 1}):
        raise InvalidInput(
            f"{where}: expected a header with a name of its own for each column; look at {', '.join(wrong)}"
        )
    if len(cells) == 1 and any(sign in cells[0] for sign in "\t;"):
        raise InvalidInput(
            f"{where}: expected a header with commas between the names, got {cells[0]!r:.60}; convert the file"
        )
    return cells


def _read_saved(path: Path) -> Rows:
    """`save_to_disk` writes Arrow streams, and their names and order into state.json."""
    state = read_json_object(path / "state.json")
    if any(value for name, value in state.items() if name.startswith("_indices")):
        raise InvalidInput(
            f"{path}: its rows are chosen by an index of an old version of datasets; load and save it again"
        )
    try:
        names = [str(file["filename"]) for file in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise InvalidInput(
            f"{path / 'state.json'}: expected the names of its tables; save the dataset again"
        ) from error
    number = 0
    for name in names:
        if Path(name).name != name:
            raise InvalidInput(f"{path / 'state.json'}: expected files of this directory, got {name!r}")
        for row in _read_stream(path / name):
            number += 1
            yield f"{path}, row {number}", row


def _read_stream(path: Path) -> list[dict[str, Any]]:
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
            rows: list[dict[str, Any]] = stream.read_all().to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidInput(f"{path}: not a readable Arrow stream ({error}); save the dataset again") from error
    return rows


_READERS: dict[str, Callable[[Path], Rows]] = {".jsonl": _read_jsonl, ".parquet": _read_parquet, ".csv": _read_csv}
SUFFIXES = tuple(_READERS)
