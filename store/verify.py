"""Verification: every byte of every entry against what was written."""

from collections.abc import Iterator
from dataclasses import dataclass

from actlas.store.entry import Entry
from actlas.store.errors import ActError, NotFound, near_misses
from actlas.store.layout import model_directory
from actlas.store.manifest import find_damage
from actlas.store.model import read_labels, read_model
from actlas.store.reader import Store


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What verifying one entry found.

    Attributes
    ----------
    path : str
        The entry's directory, relative to the store.
    n_bytes : int
        Bytes that were read and compared.
    problems : tuple of str
        One line for each thing that is wrong, with the file's path; empty when all is well.
    """

    path: str
    n_bytes: int
    problems: tuple[str, ...]


def verify(store: Store, *, model: str | None = None) -> Iterator[Verified]:
    """Re-read every file of every entry, with its model and task, and yield what was found.

    Parameters
    ----------
    store : Store
        The store.
    model : str, optional
        Only this model's entries.

    Raises
    ------
    NotFound
        When there is no such model.
    """
    if model is not None and not model_directory(store.root, model).is_dir():
        raise NotFound(f"{store.root}: no model {model!r}; {near_misses(model, store.models())}")
    # Not by manifest, as readers look: a directory that lost its manifest must be named.
    for path in sorted(path for path in (store.root / "models").glob(f"{model or '*'}/*/*") if path.is_dir()):
        name = path.relative_to(store.root).as_posix()
        try:
            entry = Entry(store.root, path)
            problems = [*find_damage(path, entry.manifest), *_other_damage(store, entry)]
            yield Verified(path=name, n_bytes=entry.manifest.n_bytes, problems=tuple(problems))
        except ActError as error:
            yield Verified(path=name, n_bytes=0, problems=(str(error),))


def _other_damage(store: Store, entry: Entry) -> Iterator[str]:
    expected = store.root / "models" / entry.model / entry.task
    if entry.path.parent != expected or not entry.path.name.endswith(entry.key[:8]):
        yield f"{entry.path}: this entry belongs in {expected}"
    try:
        entry.read_task()
        read_labels(store.root, entry.path.parent.parent.name)
        if read_model(store.root, entry.path.parent.parent.name).identity.digest != entry.identity.model_digest:
            yield f"{entry.path}: model.json beside it describes another checkpoint"
    except ActError as error:
        yield str(error)
