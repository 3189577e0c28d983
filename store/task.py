"""Tasks: ordered sets of examples with stable ids, kept as Parquet and named by their content."""

import contextlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actlas.store.digest import bytes_digest, json_digest, text_digest
from actlas.store.disk import Disk
from actlas.store.documents import json_bytes, read_json, seal, unseal
from actlas.store.errors import Corrupt, Incomplete, InvalidInput
from actlas.store.layout import task_directory
from actlas.store.slug import check_slug
from actlas.store.storage import LocalStorage, Storage

Value = str | int | float | bool | None

REQUIRED = ("example_id", "prompt", "target")
_TABLE_BYTES = 1 << 30

GROUPING = "source_id"  # the column that says which examples render one source


def example_id(task: str, prompt: str, target: str) -> str:
    """Return the id of an example: 32 hexadecimal digits that depend on task, prompt and target alone."""
    return text_digest(task, prompt, target)


@dataclass(frozen=True, kw_only=True)
class Task:
    """An ordered set of distinct examples.

    Attributes
    ----------
    slug : str
        Its name.
    rows : tuple of dict
        One mapping an example: ``example_id``, ``prompt``, ``target``, then free columns in sorted order, the same in
        every row.
    n_duplicates : int
        How many exact duplicates were left out when the task was made; not part of its content.
    n_available, seed : int or None
        Of a sample: how many examples there were, and what it was drawn with; not part of its content either.
    """

    slug: str
    rows: tuple[Mapping[str, Value], ...]
    n_duplicates: int = 0
    n_available: int | None = None
    seed: int | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def example_ids(self) -> list[str]:
        """Ids in task order."""
        return [str(row["example_id"]) for row in self.rows]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical content: the slug and every row with all its columns."""
        return json_digest([self.slug, [dict(row) for row in self.rows]])

    def column(self, name: str) -> list[Value] | None:
        """Return one column in task order, or None where the task has no such column."""
        return [row[name] for row in self.rows] if self.rows and name in self.rows[0] else None


def make_task(slug: str, examples: Iterable[Mapping[str, Value]]) -> Task:
    """Build a task from examples that hold ``prompt``, ``target`` and any other columns.

    Exact duplicates (same prompt and target) are kept once, at their first place, and counted. A column that some
    examples lack is None there.

    Raises
    ------
    InvalidInput
        When the name is no slug, there is no example, a text cannot be encoded as UTF-8, a number is not finite, or a
        column holds values of several types (whole numbers among others become floats).
    """
    check_slug(slug, "task")
    kept: dict[str, Mapping[str, Value]] = {}
    total = 0
    for total, example in enumerate(examples, start=1):
        try:
            identity = example_id(slug, str(example["prompt"]), str(example["target"]))
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"task {slug}, example {total}: its text is not valid Unicode ({error.reason})"
            ) from error
        kept.setdefault(identity, example)
    if not kept:
        raise InvalidInput(f"task {slug}: expected at least one example, got none")
    free = sorted({name for example in kept.values() for name in example} - set(REQUIRED))
    rows = tuple(
        {"example_id": identity, "prompt": example["prompt"], "target": example["target"]}
        | {name: example.get(name) for name in free}
        for identity, example in kept.items()
    )
    task = Task(slug=slug, rows=_with_one_type_a_column(slug, rows), n_duplicates=total - len(rows))
    try:
        task.digest  # noqa: B018  what JSON cannot hold is refused now, not after the model has run
    except ValueError as error:
        raise InvalidInput(f"task {slug}: a column cannot be kept ({error})") from error
    return task


def _with_one_type_a_column(slug: str, rows: tuple[dict[str, Value], ...]) -> tuple[dict[str, Value], ...]:
    # Parquet would turn [1, 2.5] into [1.0, 2.5], and the table would then have another digest than the task.
    for name in rows[0]:
        types = {type(row[name]) for row in rows} - {type(None)}
        if types == {int, float}:
            rows = tuple(row | {name: None if (value := row[name]) is None else float(value)} for row in rows)
        elif len(types) > 1 or not types <= {str, int, float, bool}:
            found = ", ".join(sorted(kind.__name__ for kind in types))
            raise InvalidInput(
                f"task {slug}, column {name!r}: expected texts, whole numbers, numbers or booleans, and one of them "
                f"throughout; got {found}"
            )
        if types == {int} and any(isinstance(value := row[name], int) and abs(value) >> 63 for row in rows):
            raise InvalidInput(f"task {slug}, column {name!r}: expected numbers of at most 63 bits; make them text")
    return rows


def task_path(slug: str, digest: str) -> str:
    """Return the name of a task's table, relative to the store."""
    return f"{task_directory(slug)}/{digest[:12]}.parquet"


def write_task(disk: Disk, root: Path, task: Task) -> None:
    """Keep a task in the store, unless a sound table of its digest is there already."""
    with contextlib.suppress(Incomplete, Corrupt):
        check_table(LocalStorage(root), task.slug, task.digest)
        return
    disk.make_directories(root / task_directory(task.slug))
    for name, data in task_files(task).items():
        disk.write_atomically(root / name, data)
        disk.set_writable(root / name, False)


def task_files(task: Task) -> dict[str, bytes]:
    """Return the files of a task, by name in the order in which they are written: its table, and what its bytes are."""
    path, data = task_path(task.slug, task.digest), table_bytes(task)
    described = {"digest": task.digest, "size": len(data), "xxh3_128": bytes_digest(data)}
    return {path: data, f"{path}.json": json_bytes(seal(described))}


def check_table(storage: Storage, slug: str, digest: str) -> None:
    """Compare every byte of a task's table: its digest is of the rows, and some bits of Parquet bear on no row.

    Raises
    ------
    Incomplete, Corrupt
        When the table, or the file that describes it, is missing or was changed.
    """
    read_task(storage, slug, digest)
    name = task_path(slug, digest)
    where = storage.where(f"{name}.json")
    described = unseal(read_json(storage, f"{name}.json"), where)
    if described.get("digest") != digest:
        raise Corrupt(f"{where}: describes another task; ingest the task again")
    if bytes_digest(storage.read(name, limit=_TABLE_BYTES)) != described.get("xxh3_128"):
        raise Corrupt(f"{storage.where(name)}: its bytes are not those that were written; ingest the task again")


def table_bytes(task: Task) -> bytes:
    """Return a task's table as it is written."""
    columns = {name: _arrow_column([row[name] for row in task.rows]) for name in task.rows[0]}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


def _arrow_column(values: list[Any]) -> pa.Array:
    # A column that mixes types has no Arrow type; the task loader makes such columns text.
    return pa.array(values, type=pa.string()) if all(value is None for value in values) else pa.array(values)


def read_task(storage: Storage, slug: str, digest: str) -> Task:
    """Read a task and prove that it is the one that was asked for.

    Raises
    ------
    Incomplete
        When its table is missing.
    Corrupt
        When the table cannot be read or its content has another digest.
    """
    name = task_path(slug, digest)
    where = storage.where(name)
    try:
        table = storage.read(name, limit=_TABLE_BYTES)
    except Incomplete as error:
        raise Incomplete(
            f"{where}: the table of task {slug!r} is missing; restore it, or ingest the task again"
        ) from error
    try:
        # One thread: a thread of Arrow's that still holds a buffer of Python's when Python ends makes it abort.
        rows = pq.read_table(pa.BufferReader(table), use_threads=False, pre_buffer=False).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Corrupt(
            f"{where}: not a readable Parquet file ({error}); restore it, or ingest the task again"
        ) from error
    task = Task(slug=slug, rows=tuple(rows))
    try:
        found = task.digest
    except (ValueError, TypeError) as error:
        raise Corrupt(f"{where}: its rows are no examples ({error}); restore it, or ingest the task again") from error
    if found != digest:
        raise Corrupt(f"{where}: expected a task of digest {digest[:12]}, got {found[:12]}; the file was changed")
    return task
