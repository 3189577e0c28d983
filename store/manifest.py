"""The manifest: what an entry is and every file that it consists of. Written last; without it there is no entry."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actlas.store.digest import file_digest
from actlas.store.errors import Corrupt, Incomplete, InvalidInput
from actlas.store.files import read_json, seal, unseal, write_json
from actlas.store.identity import EntryIdentity, entry_id
from actlas.store.layout import FORMAT

NAME = "manifest.json"

_REMEDY = "restore it from a copy, or remove {} and ingest again"


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
    def n_bytes(self) -> int:
        """Size of all files in bytes."""
        return sum(int(file["size"]) for file in self.files.values())


def list_files(directory: Path) -> list[str]:
    """Return the relative paths of all files of an entry but the manifest."""
    paths = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())
    return sorted(path for path in paths if path != NAME)


def describe_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Return size and digest of every file of an entry."""
    return {
        name: {"size": (directory / name).stat().st_size, "xxh3_128": file_digest(directory / name)}
        for name in list_files(directory)
    }


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest with its own checksum."""
    body = asdict(manifest) | {"identity": manifest.identity.as_json(), "format": FORMAT, "id": manifest.id}
    body["key"] = manifest.identity.key
    write_json(directory / NAME, seal(body))


def read_manifest(directory: Path) -> Manifest:
    """Read a manifest and check it against its own checksum, id and key.

    Raises
    ------
    Incomplete
        When there is none.
    Corrupt
        When it was changed.
    InvalidInput
        When it has a newer format.
    """
    path = directory / NAME
    body = read_json(path)
    if isinstance(body.get("format"), int) and body["format"] > FORMAT:
        raise InvalidInput(f"{path}: written in store format {body['format']}, this actlas reads up to {FORMAT}")
    body = unseal(path, body)
    try:
        identity = EntryIdentity(**body["identity"] | {"layers": tuple(body["identity"]["layers"])})
        manifest = Manifest(names=body["names"], identity=identity, arrays=body["arrays"], files=body["files"])
        fits = (body["id"], body["key"]) == (manifest.id, identity.key)
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{path}: not a manifest of format {FORMAT} ({error!r})") from error
    if not fits:
        raise Corrupt(f"{path}: id or key does not follow from its content; {_REMEDY.format(directory)}")
    return manifest


def check_sizes(directory: Path, manifest: Manifest) -> None:
    """Compare presence and size of every file with the manifest.

    Raises
    ------
    Incomplete
        For the first file that is missing or has another size.
    """
    for name, file in manifest.files.items():
        try:
            size = (directory / name).stat().st_size
        except OSError as error:
            raise Incomplete(f"{directory / name}: missing ({error.strerror}); {_REMEDY.format(directory)}") from error
        if size != file["size"]:
            raise Incomplete(
                f"{directory / name}: expected {file['size']} bytes, got {size}; {_REMEDY.format(directory)}"
            )


def check_file(directory: Path, name: str, manifest: Manifest) -> None:
    """Compare one file's bytes with the manifest.

    Raises
    ------
    Corrupt
        When they are others.
    """
    if file_digest(directory / name) != manifest.files[name]["xxh3_128"]:
        raise Corrupt(f"{directory / name}: its bytes are not those that were written; restore it, or run `act verify`")


def find_damage(directory: Path, manifest: Manifest) -> Iterator[str]:
    """Yield one line for every file that is missing, changed or does not belong; re-reads all bytes."""
    for name, file in manifest.files.items():
        path = directory / name
        try:
            if path.stat().st_size != file["size"] or file_digest(path) != file["xxh3_128"]:
                yield f"{path}: its bytes are not those that were written"
        except OSError as error:
            yield f"{path}: {error.strerror}"
    yield from (
        f"{directory / name}: not part of the entry" for name in set(list_files(directory)) - set(manifest.files)
    )
