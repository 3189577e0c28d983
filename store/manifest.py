"""The manifest: what an entry is and every file that it consists of. Written last; without it there is no entry."""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actlas.store.digest import bytes_digest
from actlas.store.disk import Disk
from actlas.store.documents import parse_json, seal, unseal, write_json
from actlas.store.errors import Corrupt, Incomplete
from actlas.store.identity import EntryIdentity, entry_id
from actlas.store.layout import FORMAT, MANIFEST, check_format
from actlas.store.slug import check_slug
from actlas.store.storage import LocalStorage, Storage, wrong_size

_MANIFEST_BYTES = 16 << 20
_FILE_NAME = re.compile(r"(?:[a-z_]+/)?[a-z_][a-z0-9_.]*")
_ARRAYS = {
    "hidden_states": 3,
    **dict.fromkeys(("final_norm", "example_id", "token_digest", "top_token", "top_logit"), 2),
    **dict.fromkeys(("n_tokens", "offset", "n_target_tokens", "log_sum_exp", "entropy", "target_nll"), 1),
}

REMEDY = "restore it from a copy, or `act rm` the entry and ingest it again"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """An entry's names, identity, content digests and files.

    Attributes
    ----------
    names : dict
        ``model``, ``task``, ``rendering``, ``position``: where the entry stands, not what it is.
    identity : EntryIdentity
        All inputs.
    arrays : dict
        For each content array its dtype, shape and digest.
    files : dict
        For each file, by its path relative to the entry, ``size`` in bytes and ``xxh3_128``.
    """

    names: dict[str, str]
    identity: EntryIdentity
    arrays: dict[str, dict[str, Any]]
    files: dict[str, dict[str, Any]]

    @property
    def id(self) -> str:
        """The digest of the content."""
        return entry_id(self.identity, self.arrays)

    @property
    def n_examples(self) -> int:
        """Number of examples."""
        return int(self.arrays["example_id"]["shape"][0])

    @property
    def n_bytes(self) -> int:
        """Size of all files in bytes."""
        return sum(int(file["size"]) for file in self.files.values())

    def as_json(self) -> dict[str, Any]:
        """Return the manifest as it is written, with its own checksum."""
        derived = {"identity": self.identity.as_json(), "format": FORMAT, "id": self.id, "key": self.identity.key}
        return seal(asdict(self) | derived)


def list_files(directory: Path) -> list[str]:
    """Return the relative paths of all files of an entry but the manifest."""
    walk = os.walk(directory)  # unlike rglob, this minds no directory that is withdrawn meanwhile
    paths = (Path(top, name).relative_to(directory).as_posix() for top, _, names in walk for name in names)
    return sorted(path for path in paths if path != MANIFEST)


def write_manifest(disk: Disk, directory: Path, manifest: Manifest) -> None:
    """Write the manifest into an entry's directory."""
    write_json(disk, directory / MANIFEST, manifest.as_json())


def read_manifest(storage: Storage, directory: str) -> Manifest:
    """Read a manifest and check it against its own checksum, id and key; errors as `parse_manifest`, and `Incomplete`."""
    name = f"{directory}/{MANIFEST}"
    return parse_manifest(storage.read(name, limit=_MANIFEST_BYTES), storage.where(name))


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Parse a manifest and check it against its own checksum, id and key.

    Raises
    ------
    Corrupt
        When it was changed, or names what no entry can have.
    InvalidInput
        When it has a newer format.
    """
    body = parse_json(data, where)
    if isinstance(body.get("format"), int):
        check_format(body, where)
    body = unseal(body, where)
    try:
        identity = EntryIdentity(**body["identity"] | {"layers": tuple(body["identity"]["layers"])})
        manifest = Manifest(names=body["names"], identity=identity, arrays=body["arrays"], files=body["files"])
        _check_content(manifest)
        fits = (body["id"], body["key"]) == (manifest.id, identity.key)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(f"{where}: not a manifest of format {FORMAT} ({error})") from error
    if not fits:
        raise Corrupt(f"{where}: id or key does not follow from its content; {REMEDY}")
    return manifest


def _check_content(manifest: Manifest) -> None:
    """Refuse names from which no path may be built, and numbers that cannot be."""
    for what in ("model", "task", "rendering", "position"):
        check_slug(manifest.names[what], what)
    for name, file in manifest.files.items():
        if not _FILE_NAME.fullmatch(name) or ".." in name:
            raise ValueError(f"a file called {name!r}")
        if type(file["size"]) is not int or file["size"] < 0 or not isinstance(file["xxh3_128"], str):
            raise ValueError(f"size or digest of {name}")
    for name, array in manifest.arrays.items():
        shape = array["shape"]
        if _ARRAYS.get(name) != len(shape) or not all(type(length) is int and length > 0 for length in shape):
            raise ValueError(f"an array {name!r} of shape {shape}")
    layers = manifest.identity.layers
    if list(layers) != sorted({*layers}) or manifest.arrays["hidden_states"]["shape"][0] != len(layers):
        raise ValueError(f"layers {layers}")


def check_sizes(storage: LocalStorage, directory: str, manifest: Manifest) -> None:
    """Compare presence and size of every file with the manifest.

    Raises
    ------
    Incomplete
        For the first file that is missing or has another size.
    """
    for name, file in manifest.files.items():
        path = storage.root / directory / name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise Incomplete(f"{path}: missing ({error.strerror}); {REMEDY}") from error
        if size != file["size"]:
            raise wrong_size(str(path), file["size"], size)


def read_checked(storage: Storage, directory: str, name: str, files: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Read one file of an entry and compare its bytes with the manifest.

    Raises
    ------
    Corrupt
        When they are others.
    Incomplete
        When the file is missing.
    """
    path = f"{directory}/{name}"
    if name not in files:
        raise Incomplete(f"{storage.where(path)}: not among the files of the entry; {REMEDY}")
    data = storage.read(path, limit=files[name]["size"])
    if bytes_digest(data) != files[name]["xxh3_128"]:
        raise Corrupt(f"{storage.where(path)}: its bytes are not those that were written; {REMEDY}")
    return data
