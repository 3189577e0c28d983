"""A store, open for reading: what is there, and how to find one entry."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actlas.store.entry import Entry
from actlas.store.errors import InvalidInput, NotFound, near_misses
from actlas.store.layout import read_root
from actlas.store.manifest import NAME
from actlas.store.model import Model, read_labels, read_model
from actlas.store.slug import check_slug


class Store:
    """A store of activations. It has no method that writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.batch_tokens = read_root(root)

    def __repr__(self) -> str:
        return f"<Store {self.root}>"

    def _entry_paths(self, model: str | None = None, task: str | None = None) -> Iterator[Path]:
        pattern = f"{model or '*'}/{task or '*'}/*/{NAME}"
        yield from sorted(path.parent for path in (self.root / "models").glob(pattern))

    def models(self) -> list[str]:
        """Return the names of the models that have at least one entry, sorted."""
        return sorted({path.parent.parent.name for path in self._entry_paths()})

    def tasks(self) -> list[str]:
        """Return the names of the tasks that have at least one entry, sorted."""
        return sorted({path.parent.name for path in self._entry_paths()})

    def model(self, name: str) -> Model:
        """Return a model's identity and description.

        Raises
        ------
        NotFound
            When the store has no entry of such a model; the message names the nearest.
        """
        self._check_known("model", name, self.models())
        return read_model(self.root, name)

    def labels(self, name: str) -> dict[str, Any]:
        """Return a model's labels, e.g. ``{"trained_on": ["rte"]}``."""
        self._check_known("model", name, self.models())
        return read_labels(self.root, name)

    def entries(
        self,
        *,
        model: str | None = None,
        task: str | None = None,
        rendering: str | None = None,
        position: str | None = None,
    ) -> list[Entry]:
        """Return all committed entries that fit, sorted by path.

        Raises
        ------
        NotFound
            When a model or task of that name is not there at all.
        Corrupt
            When a manifest was changed.
        """
        if model is not None:
            self._check_known("model", model, self.models())
        if task is not None:
            self._check_known("task", task, self.tasks())
        found = (Entry(self.root, path) for path in self._entry_paths(model, task))
        return [entry for entry in found if rendering in (None, entry.rendering) and position in (None, entry.position)]

    def entry(
        self,
        *,
        model: str,
        task: str,
        rendering: str = "raw",
        position: str = "last",
        key: str = "",
        dtype: str | None = None,
    ) -> Entry:
        """Return the one entry that fits, with its files' presence and sizes checked.

        Parameters
        ----------
        model, task, rendering, position : str
            Its names.
        key : str
            The first digits of its key, where several entries stand under the same names.
        dtype : str, optional
            Its dtype, likewise.

        Raises
        ------
        NotFound
            When none fits.
        InvalidInput
            When several fit; the message lists them.
        """
        siblings = self.entries(model=model, task=task)
        fits = [
            entry
            for entry in siblings
            if (entry.rendering, entry.position) == (rendering, position)
            and entry.key.startswith(key)
            and dtype in (None, entry.identity.dtype)
        ]
        if len(fits) == 1:
            fits[0].hidden_states  # noqa: B018  opening is the check
            return fits[0]
        if not fits:
            there = "\n  ".join(entry.label for entry in siblings) or "nothing"
            raise NotFound(
                f"{self.root}: no entry of model {model!r} on task {task!r} with rendering {rendering!r} and position "
                f"{position!r}; there is:\n  {there}"
            )
        listing = "\n  ".join(entry.label for entry in fits)
        raise InvalidInput(f"{self.root}: {len(fits)} entries fit; choose one by its key or dtype:\n  {listing}")

    def _check_known(self, what: str, name: str, known: list[str]) -> None:
        if name not in known:
            check_slug(name, what)
            raise NotFound(f"{self.root}: no {what} {name!r}; {near_misses(name, known)}")


def open_store(path: str | Path) -> Store:
    """Open a store for reading.

    Raises
    ------
    NotFound
        When there is no store at `path`.
    InvalidInput
        When a newer actlas wrote it.
    """
    return Store(Path(path))
