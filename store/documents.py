"""The JSON documents of a store: how they are written, parsed with a cap, and sealed with a checksum."""

import json
from pathlib import Path
from typing import Any

from actlas.store.digest import bytes_digest, canonical_json
from actlas.store.disk import Disk
from actlas.store.errors import Corrupt
from actlas.store.storage import Storage

_JSON_BYTES = 64 << 20  # no JSON file of a store comes near; a hostile one is refused before it is parsed


def json_bytes(value: object) -> bytes:
    """Return a JSON document for people and programs: indented and sorted."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def write_json(disk: Disk, path: Path, value: object, *, replace: bool = True) -> None:
    """Write a JSON document, atomically."""
    disk.write_atomically(path, json_bytes(value), replace=replace)


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object that the store wrote.

    Raises
    ------
    Corrupt
        When it is none.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{where}: not valid JSON ({error}); run `act verify` on the store") from error
    if not isinstance(value, dict):
        raise Corrupt(f"{where}: expected a JSON object, got {type(value).__name__}; run `act verify` on the store")
    return value


def read_json(storage: Storage, name: str) -> dict[str, Any]:
    """Read a JSON object that the store wrote.

    Raises
    ------
    Incomplete
        When the file is missing or cannot be read.
    Corrupt
        When it is no JSON object, or too large to be one of ours.
    """
    return parse_json(storage.read(name, limit=_JSON_BYTES), storage.where(name))


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the XXH3-128 of its canonical form as its field ``checksum``."""
    return value | {"checksum": bytes_digest(canonical_json(value))}


def unseal(sealed: dict[str, Any], where: str) -> dict[str, Any]:
    """Return what `seal` was given.

    Raises
    ------
    Corrupt
        When it was changed.
    """
    value = {name: field for name, field in sealed.items() if name != "checksum"}
    try:
        fits = sealed.get("checksum") == bytes_digest(canonical_json(value))
    except (ValueError, RecursionError):  # parsing goes one level deeper than writing
        fits = False
    if not fits:
        raise Corrupt(f"{where}: its checksum does not fit its content; restore the file from a copy")
    return value
