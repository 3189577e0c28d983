"""Sources: what a path given as tasks stands for: a file, a directory of files, FLAN's layout, a saved dataset."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actlas.ingest.readers import SUFFIXES, is_saved_dataset, read_json_object
from actlas.store import InvalidInput, NotFound, near_misses

FORMATS = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"

# FLAN as it is published: {split}/{task}_10templates_{split}.jsonl
_FLAN = re.compile(r"(?P<task>.+)_10templates_(?P<split>[a-z]+)")

_DICT = "dataset_dict.json"  # what `DatasetDict.save_to_disk` leaves beside a directory for each split


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file or saved dataset.

    Attributes
    ----------
    path : Path
        Where it is.
    task : str
        What its place says that the task is called.
    is_sure : bool
        Whether that holds even where the rows have a field ``task``: FLAN's says something else.
    split : str or None
        The split that it belongs to, where the directory has splits and none was named.
    """

    path: Path
    task: str
    is_sure: bool = False
    split: str | None = None


def exists(path: Path) -> bool:
    """Return whether there is anything at a path that may be no path at all."""
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a loop of links
        return False


def find_parts(path: Path) -> list[Part]:
    """Return what there is to read at a path, of every split.

    Raises
    ------
    NotFound
        When there is nothing.
    InvalidInput
        For a file of another kind, an empty directory, or one that mixes layouts.
    """
    if not exists(path):
        raise NotFound(f"no tasks file at {path}: expected a {FORMATS} file, a directory of such, or a saved dataset")
    if path.is_dir():
        return _parts_of_directory(path)
    if path.suffix not in SUFFIXES:
        raise InvalidInput(f"{path}: expected a name ending in {FORMATS}; convert the file")
    return [_part(path, has_splits=False)]


def _parts_of_directory(path: Path) -> list[Part]:
    if is_saved_dataset(path):
        # the directory of a split is called train: the task is called what the whole is called
        whole = path.resolve()
        return [Part(path=path, task=(whole.parent if (whole.parent / _DICT).is_file() else whole).name)]
    found = {
        "splits of a saved dataset": _saved_splits(path) if (path / _DICT).is_file() else [],
        f"{FORMATS} files": [_part(file, has_splits=True) for file in _sorted(path) if _is_tasks_file(file)],
        "directories of FLAN's splits": _flan_parts(path),
    }
    kinds = [kind for kind, parts in found.items() if parts]
    if not kinds:
        raise InvalidInput(f"{path}: expected {FORMATS} files in this directory, FLAN's splits, or a dataset; got none")
    if len(kinds) > 1:
        raise InvalidInput(f"{path}: holds {' and '.join(kinds)}; name the files or directories that are meant")
    return found[kinds[0]]


def _sorted(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from error


def _is_tasks_file(path: Path) -> bool:
    return path.suffix in SUFFIXES and path.is_file()


def _part(path: Path, *, has_splits: bool) -> Part:
    named = _FLAN.fullmatch(path.stem) if path.suffix == ".jsonl" else None
    if named is None:
        return Part(path=path, task=path.stem)
    return Part(path=path, task=named["task"], is_sure=True, split=named["split"] if has_splits else None)


def _flan_parts(path: Path) -> list[Part]:
    # glob passes over directories that may not be read: they need not be of tasks
    files = sorted(file for file in path.glob("*/*_10templates_*.jsonl") if file.is_file())
    return [part for part in (_part(file, has_splits=True) for file in files) if part.split]


def _saved_splits(path: Path) -> list[Part]:
    names = read_json_object(path / _DICT).get("splits")
    if not isinstance(names, list) or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise InvalidInput(
            f"{path / _DICT}: expected the names of its splits, got {names!r:.60}; save the dataset again"
        )
    for name in names:
        if not is_saved_dataset(path / name):
            raise InvalidInput(f"{path / name}: expected the saved dataset of this split; save the dataset again")
    return [Part(path=path / name, task=path.resolve().name, split=name) for name in names]


def choose_split(parts: Sequence[Part], split: str | None, path: Path) -> list[Part]:
    """Return the parts of one split: the one that was asked for, or the only one; parts without a split always.

    Raises
    ------
    InvalidInput
        When there are several and none was asked for.
    NotFound
        When there are splits, and none of this name.
    """
    names = sorted({part.split for part in parts if part.split})
    if names and split is not None and split not in names:
        raise NotFound(f"{path}: no split {split!r}; {near_misses(split, names)}")
    if split is None and len(names) > 1:
        raise InvalidInput(f"{path}: holds the splits {', '.join(names)}; choose one with --split")
    chosen = names[0] if names and split is None else split
    return [part for part in parts if part.split in (None, chosen)]
