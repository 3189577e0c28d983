"""Sweeps: many checkpoints said at once, in a CSV file, as a pattern of adapters or as revisions of one model."""

import csv
import glob
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from actlas.ingest.checkpoint import Checkpoint
from actlas.store import InvalidInput, NotFound

COLUMNS = ("name", "base", "revision", "adapter", "random_init", "stack", "trained_on")  # any other is a label
_INTEGERS = ("seed", "step")
_NO_LABELS = ("checksum", "restricted")  # the first seals the labels' file, the second speaks of tasks
_STEP = re.compile(r"(?<![a-z])step[-_]?([0-9]{1,18})(?![0-9])")


def read_sweep(path: str | Path) -> list[Checkpoint]:
    """Read a table of checkpoints: one a row, with the columns of `COLUMNS`, of which only ``base`` is required.

    Any other column is a label, such as seed, step, family and owner. A relative base or adapter is looked for in the
    table's own directory first. An empty cell says nothing.

    Parameters
    ----------
    path : path
        A CSV file in UTF-8, with commas; several tasks in ``trained_on`` are separated by semicolons.

    Returns
    -------
    list of Checkpoint
        In the order of the rows.

    Raises
    ------
    NotFound
        When there is no such file.
    InvalidInput
        When it is no such table; the message names the line.
    """
    path = Path(path)
    lines: dict[str, int] = {}
    checkpoints = []
    for line, cells in _rows(path):
        where = f"{path}, line {line}"
        checkpoint = _checkpoint(cells, path.parent, where)
        try:
            slug = checkpoint.slug
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error}; choose one in the column name") from error
        if slug in lines:
            raise InvalidInput(
                f"{where}: {slug} is the name of line {lines[slug]} already; give each its own in the column name"
            )
        lines[slug] = line
        checkpoints.append(checkpoint)
    if not checkpoints:
        raise InvalidInput(f"{path}: expected a row for each checkpoint below the header, got none")
    return checkpoints


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line and the cells that hold something, by column, of every row that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header)
            for row in reader:
                cells = [cell.strip() for cell in row]
                if not any(cells):
                    continue
                if len(cells) != len(header):
                    raise InvalidInput(
                        f"{path}, line {reader.line_num}: expected {len(header)} cells as in the header, got {len(cells)}; "
                        "quote a cell that holds a comma"
                    )
                yield reader.line_num, {name: cell for name, cell in zip(header, cells, strict=True) if cell}
    except FileNotFoundError as error:
        raise NotFound(f"{path}: there is no such file; expected a CSV file with a row for each checkpoint") from error
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror}); expected a CSV file") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as CSV UTF-8") from error
    except csv.Error as error:
        raise InvalidInput(f'{path}, line {reader.line_num}: not CSV ({error}); quote cells with "') from error


def _check_header(path: Path, header: Sequence[str]) -> None:
    if "base" not in header:
        separators = " (columns are separated by commas)" if re.search(r"[\t;]", "".join(header)) else ""
        raise InvalidInput(
            f"{path}, line 1: expected a column 'base', got {', '.join(map(repr, header)) or 'an empty file'}{separators}; "
            f"the columns are {', '.join(COLUMNS)}, and any other is a label"
        )
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise InvalidInput(f"{path}, line 1: two columns are called {twice[0]!r}; give each its own name")
    if unusable := [name for name in header if not name or name in _NO_LABELS]:
        raise InvalidInput(f"{path}, line 1: {unusable[0]!r} cannot be a label of a model; rename the column")


def _checkpoint(cells: Mapping[str, str], folder: Path, where: str) -> Checkpoint:
    if "base" not in cells:
        raise InvalidInput(f"{where}: expected a base, got an empty cell; every checkpoint has one")
    labels = {name: _label(name, text, where) for name, text in cells.items() if name not in COLUMNS}
    trained_on = [task.strip() for task in cells.get("trained_on", "").split(";")]
    return Checkpoint(
        base=_place(cells["base"], folder),
        revision=cells.get("revision"),
        adapter=_place(cells["adapter"], folder) if "adapter" in cells else None,
        random_init=_integer("random_init", cells["random_init"], where) if "random_init" in cells else None,
        stack=cells.get("stack"),
        name=cells.get("name"),
        trained_on=tuple(dict.fromkeys(task for task in trained_on if task)),
        labels={name: value for name, value in labels.items() if value is not None},
        origin=where,
    )


def _place(text: str, folder: Path) -> str:
    near = folder / text
    return str(near) if os.path.exists(near) else text  # noqa: PTH110  Path.exists raises for a name that is too long


def _label(name: str, text: str, where: str) -> Any:
    if name in _INTEGERS:
        return _integer(name, text, where)
    try:  # as `act label`: JSON where it is JSON
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    return value


def _integer(name: str, text: str, where: str) -> int:
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text) is None:
        raise InvalidInput(f"{where}: {name} {text!r}: expected a whole number such as 1000")
    return int(text)


def find_adapters(patterns: Sequence[str]) -> list[str]:
    """Return every directory with an adapter_config.json that the patterns name, sorted within each, each once.

    Parameters
    ----------
    patterns : sequence of str
        Directories, or patterns of them such as ``loras/*``; ``**`` goes into all below.

    Raises
    ------
    NotFound
        When a pattern names none.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        places = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  pathlib takes no absolute pattern
        adapters = [place for place in places if (Path(place) / "adapter_config.json").is_file()]
        if not adapters:
            what = f"none of the {len(places)} that it names has" if places else "it names nothing that has"
            raise NotFound(f"adapters {pattern!r}: expected directories with an adapter_config.json, but {what} one")
        found |= dict.fromkeys(str(Path(place)) for place in adapters)
    return list(found)


def revisions_of(base: str, revisions: Sequence[str], stem: str | None = None) -> list[Checkpoint]:
    """Return a checkpoint for each revision of a model of the hub, called ``stem-revision``.

    Where a revision tells the training step, such as ``step1000``, it becomes the label ``step``.

    Parameters
    ----------
    base : str
        The model's name on the hub.
    revisions : sequence of str
        Branches, tags or commits.
    stem : str, optional
        First part of the names; the last part of `base` by default.

    Raises
    ------
    InvalidInput
        For a directory, which has no revisions, an empty revision, or one that is named twice.
    """
    if os.path.isdir(base):  # noqa: PTH112  as above
        raise InvalidInput(f"{base}: is a directory and has no revisions; give a sweep of directories with --models")
    if "" in revisions or len(set(revisions)) < len(revisions):
        raise InvalidInput(
            f"revisions {','.join(revisions)!r}: expected each once, separated by commas: step0,step1000"
        )
    return [
        Checkpoint(
            base=base,
            revision=revision,
            name=f"{stem or Path(base).name}-{revision}",
            labels={"step": int(step[1])} if (step := _STEP.search(revision)) else {},
        )
        for revision in revisions
    ]
