"""Scanning: what stands in the directories of a local store, in one pass."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from actlas.store.slug import is_slug

TOMBSTONE = ".withdrawn.json"

_ENTRY_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")  # slugs and a digest, joined: longer than a slug may be


class Scan(NamedTuple):
    """What stands below ``models``, relative to the store and sorted.

    Attributes
    ----------
    directories : list of str
        Where entries stand, or should stand: one may have lost its manifest.
    tombstones : list of str
        The paths whose tombstones are there.
    """

    directories: list[str]
    tombstones: list[str]


def scan(root: Path, model: str = "*", task: str = "*") -> Scan:
    """Scan a store, or one model, or one task; names that no model, task or entry can have are ignored."""
    # With thousands of entries pathlib and glob would take most of the time of a commit.
    directories: list[str] = []
    tombstones: list[str] = []
    for of_model in [model] if model != "*" else _directories(f"{root}/models"):
        for of_task in [task] if task != "*" else _directories(f"{root}/models/{of_model}"):
            place = f"models/{of_model}/{of_task}"
            for name, is_directory in _children(f"{root}/{place}"):
                if is_directory and is_entry_name(name):
                    directories.append(f"{place}/{name}")
                elif name.endswith(TOMBSTONE):
                    tombstones.append(f"{place}/{name.removesuffix(TOMBSTONE)}")
    return Scan(*(sorted(paths, key=lambda path: path.split("/")) for paths in (directories, tombstones)))


def is_entry_name(name: str) -> bool:
    """Return whether a directory of this name may be an entry."""
    return _ENTRY_NAME.fullmatch(name) is not None


def _directories(path: str) -> Iterator[str]:
    return (name for name, is_directory in _children(path) if is_directory and is_slug(name))


def _children(path: str) -> list[tuple[str, bool]]:
    try:
        with os.scandir(path) as children:
            return [(child.name, _is_directory(child)) for child in children if child.name[0] != "."]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_directory(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a loop of links
        return False
