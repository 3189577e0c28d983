"""The lock of a result: what was asked, of which entries, on which rows, by which code, and the numbers that came out."""

import json
import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np

from actlas.analyze.blocks import Block, Kind
from actlas.analyze.cache import code_version
from actlas.analyze.choice import RowChoice
from actlas.analyze.comparison import Comparison
from actlas.analyze.question import Question
from actlas.analyze.results import RESULTS, TABLES, differences_path, replacing, write_results, write_table
from actlas.analyze.rows import Row
from actlas.store import InvalidInput, NotFound, Store
from actlas.store.digest import canonical_json, json_digest
from actlas.store.documents import json_bytes, seal, unseal

FORMAT = 1
_EXPECTED = "expected FILE.lock.json, which `act compare --out FILE` writes"


@dataclass(frozen=True, kw_only=True)
class LockedBlock:
    """What a lock says of one block.

    Attributes
    ----------
    kind : {"pair", "baseline", "difference"}
        As `Block.kind`.
    task : str
        The task.
    models : tuple of str
        Its models as they were asked for.
    entries, keys : tuple of str
        Ids and keys of their entries.
    rows : str
        Digest of the example ids, and of their groups, that each of its numbers was computed on.
    numbers : dict of list of float
        For each column of numbers its values, one a row.
    """

    kind: Kind
    task: str
    models: tuple[str, ...]
    entries: tuple[str, ...]
    keys: tuple[str, ...]
    rows: str
    numbers: dict[str, list[float]]

    @classmethod
    def of(cls, block: Block, rows: Sequence[Row]) -> "LockedBlock":
        """Return what a lock says of a block and its rows."""
        named = rows[0] if rows else ()
        columns = [name for name in named if all(isinstance(row[name], (int, float)) for row in rows)]
        return cls(
            kind=block.kind,
            task=block.task,
            models=tuple(str(ref) for ref in block.refs),
            entries=tuple(record.id for record in block.records),
            keys=tuple(record.key for record in block.records),
            rows=json_digest([row["rows"] for row in rows]),
            numbers={name: [row[name] for row in rows] for name in columns},
        )

    @property
    def document(self) -> dict[str, Any]:
        """The block as JSON, which has no NaN: what is not finite is its name."""
        numbers = {
            name: [value if math.isfinite(value) else repr(float(value)) for value in values]
            for name, values in self.numbers.items()
        }
        return asdict(self) | {"numbers": numbers}


@dataclass(frozen=True, kw_only=True)
class Lock:
    """The lock of a result.

    Attributes
    ----------
    store : str
        Where the store was, as it was named; for information.
    question : Question
        What was asked.
    blocks : tuple of LockedBlock
        What was answered.
    versions : dict of str
        Of actlas, NumPy and Python, and as ``code`` the digest of the code that makes the numbers.
    digest : str
        Digest of all numbers, whatever the order of models and tasks in the question.
    """

    store: str
    question: Question
    blocks: tuple[LockedBlock, ...]
    versions: dict[str, str]
    digest: str


def lock_of(comparison: Comparison, store: Store) -> dict[str, Any]:
    """Return the lock of a comparison as a JSON document with a checksum; `parse_lock` reads it.

    Parameters
    ----------
    comparison : Comparison
        The result.
    store : Store
        Where it was computed from; only its location is noted.
    """
    blocks = [LockedBlock.of(block, rows).document for block, rows in comparison.answers]
    names = [[block[name] for name in ("kind", "task", "models", "numbers")] for block in blocks]
    return seal(
        {
            "format": FORMAT,
            "store": store.location,
            "question": asdict(comparison.question),
            "blocks": blocks,
            "versions": versions(),
            "digest": json_digest(sorted(canonical_json(one).decode() for one in names)),
        }
    )


def versions() -> dict[str, str]:
    """Return what the numbers may depend on beside the entries and the question."""
    return {
        "actlas": version("actlas"),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "code": code_version(),
    }


def parse_lock(document: object, where: str = "lock") -> Lock:
    """Return a lock from its JSON document.

    Parameters
    ----------
    document : object
        As `lock_of` returns it.
    where : str
        What messages call it.

    Raises
    ------
    InvalidInput
        When it is no lock, or one of another format.
    Corrupt
        When it was changed.
    """
    if not isinstance(document, dict) or "format" not in document:
        raise InvalidInput(f"{where}: not the lock of a result; {_EXPECTED}")
    if document["format"] != FORMAT:
        raise InvalidInput(
            f"{where}: expected a lock of format {FORMAT}, got format {document['format']!r}; use the actlas that wrote it"
        )
    body = unseal(document, where)
    try:
        return Lock(
            store=body["store"],
            question=_question(body["question"]),
            blocks=tuple(_block(block) for block in body["blocks"]),
            versions=dict(body["versions"]),
            digest=body["digest"],
        )
    except InvalidInput:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"{where}: a lock with what this actlas does not know ({error}); use the actlas that wrote it"
        ) from error


def read_lock(path: str | Path) -> Lock:
    """Read a lock from its file.

    Raises
    ------
    NotFound
        When there is no such file.
    InvalidInput, Corrupt
        As `parse_lock`.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise NotFound(f"{path}: cannot be read ({error.strerror}); {_EXPECTED}") from error
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: not a JSON document ({error}); {_EXPECTED}") from error
    return parse_lock(document, str(path))


def lock_path(path: Path) -> Path:
    """Return where the lock of a result goes that goes to `path`."""
    return path.with_name(f"{path.name}.lock.json")


def paths_of(path: Path, question: Question) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield the files that `write_locked` writes, each with the endings that it may have; first the table, as it is named."""
    yield path, RESULTS
    if question.differences:
        yield differences_path(path), TABLES
    yield lock_path(path), (".json",)


def write_locked(comparison: Comparison, store: Store, path: str | Path) -> None:
    """Write a comparison, its differences where they were asked for, and its lock; each file is whole or not there.

    Parameters
    ----------
    comparison : Comparison
        The result.
    store : Store
        Where it was computed from.
    path : str or Path
        Where to, as in `write_results`; the lock is put beside it when all else is there.

    Raises
    ------
    InvalidInput
        As `check_output`.
    """
    path = Path(path)
    with replacing(lock_path(path)) as temporary:
        temporary.write_bytes(json_bytes(lock_of(comparison, store)))
        write_results(comparison.table, path, layers=comparison.question.layers)
        if comparison.question.differences:
            write_table(comparison.differences, differences_path(path))


def _question(raw: dict[str, Any]) -> Question:
    lists = {name: tuple(value) for name, value in raw.items() if isinstance(value, (list, tuple))}
    return Question(**raw | lists | {"rows": RowChoice(**raw["rows"])})


def _block(raw: dict[str, Any]) -> LockedBlock:
    if raw["kind"] not in get_args(Kind):
        raise KeyError(raw["kind"])
    return LockedBlock(
        **raw
        | {name: tuple(raw[name]) for name in ("models", "entries", "keys")}
        | {"numbers": {name: [float(value) for value in values] for name, values in raw["numbers"].items()}}
    )
