"""Labels: what people say of models and tasks. They may change, and stand outside every identity."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actlas.store.disk import Disk
from actlas.store.documents import read_json, seal, unseal, write_json
from actlas.store.errors import Incomplete, InvalidInput
from actlas.store.storage import LocalStorage, Storage

CLUSTER = "cluster"  # the group of tasks that a task belongs to
RESTRICTED = "restricted"  # a task that is not copied or exported unless that is asked for


def join_labels(storage: Storage, directory: str, arriving: Mapping[str, Any]) -> dict[str, Any]:
    """Return the labels of a model's or task's directory with those of a copy; what was restricted stays so."""
    known = read_labels(storage, directory)
    restricted = {RESTRICTED: True} if known.get(RESTRICTED) else {}
    return known | dict(arriving) | restricted


def write_labels(disk: Disk, root: Path, directory: str, labels: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `labels` into those of a model's or task's directory, and return them all; None takes one away.

    Raises
    ------
    InvalidInput
        For the name ``checksum``, or a value that JSON cannot hold.
    """
    known = read_labels(LocalStorage(root), directory)
    merged = {name: value for name, value in (known | dict(labels)).items() if value is not None}
    if "checksum" in merged:
        raise InvalidInput("a label cannot be called 'checksum'; choose another name")
    try:
        sealed = seal(merged)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"labels {dict(labels)}: cannot be kept as JSON ({error})") from error
    if merged != known:
        disk.make_directories(root / directory)
        write_json(disk, root / directory / "labels.json", sealed)
    return merged


def read_labels(storage: Storage, directory: str) -> dict[str, Any]:
    """Return the labels of a model's or task's directory, e.g. ``{"trained_on": ["rte"]}``; empty where there are none.

    Raises
    ------
    Corrupt
        When the file was changed other than by actlas.
    """
    name = f"{directory}/labels.json"
    try:
        sealed = read_json(storage, name)
    except Incomplete:
        if not storage.exists(name):
            return {}
        sealed = read_json(storage, name)  # somebody put it there in between
    return unseal(sealed, storage.where(name))
