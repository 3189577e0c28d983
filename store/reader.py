"""A store, open for reading: what is there, and how to find one entry."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from actlas.store.catalog import Listing, Record, list_store
from actlas.store.entry import Entry
from actlas.store.errors import InvalidInput, NotFound, near_misses
from actlas.store.labels import read_labels
from actlas.store.layout import model_directory, read_root, task_directory
from actlas.store.model import Model, read_model
from actlas.store.slug import check_slug
from actlas.store.storage import LocalStorage, Storage, open_storage


class Store:
    """A store of activations. It has no method that writes.

    Attributes
    ----------
    storage : Storage
        Where its bytes come from.
    location : str
        Its path or URL.
    batch_tokens : int
        Padded tokens in one batch, the same for every entry.
    """

    def __init__(self, place: str | Path | Storage) -> None:
        self.storage = open_storage(place)
        self.location = self.storage.location
        self.batch_tokens = read_root(self.storage)
        self._remote_listing: Listing | None = None

    def __repr__(self) -> str:
        return f"<Store {self.location}>"

    def listing(self, model: str = "*", task: str = "*") -> Listing:
        """Return what is committed, what was withdrawn, and what is damaged; a server's catalogue is read once."""
        if isinstance(self.storage, LocalStorage):
            return list_store(self.storage, model, task)
        if self._remote_listing is None:
            self._remote_listing = list_store(self.storage)
        return self._remote_listing

    def models(self) -> list[str]:
        """Return the names of the models that have at least one entry, sorted."""
        return self._names(self.listing(), 1)

    def tasks(self) -> list[str]:
        """Return the names of the tasks that have at least one entry, sorted."""
        return self._names(self.listing(), 2)

    @staticmethod
    def _names(listing: Listing, place: int) -> list[str]:
        return sorted({path.split("/")[place] for path in listing.paths})

    def model(self, name: str) -> Model:
        """Return a model's identity and description.

        Raises
        ------
        NotFound
            When the store has no entry of such a model; the message names the nearest.
        """
        self._require(model=name)
        return read_model(self.storage, name)

    def labels(self, name: str) -> dict[str, Any]:
        """Return a model's labels, e.g. ``{"trained_on": ["rte"]}``."""
        self._require(model=name)
        return read_labels(self.storage, model_directory(name))

    def task_labels(self, name: str) -> dict[str, Any]:
        """Return a task's labels, e.g. ``{"restricted": True, "licence": "LDC"}``."""
        self._require(task=name)
        return read_labels(self.storage, task_directory(name))

    def records(
        self,
        *,
        model: str | None = None,
        task: str | None = None,
        rendering: str | None = None,
        position: str | None = None,
    ) -> list[Record]:
        """Return what the catalogue says of all committed entries that fit, sorted by path.

        Raises
        ------
        NotFound
            When a model or task of that name is not there at all.
        Corrupt
            When a manifest among them was changed.
        """
        listing = self._require(model, task)
        for path, problem in listing.problems.items():
            _, of_model, of_task, _ = path.split("/")
            if model in (None, of_model) and task in (None, of_task):
                raise problem
        return [
            record
            for record in listing.records
            if model in (None, record.model)
            and task in (None, record.task)
            and rendering in (None, record.rendering)
            and position in (None, record.position)
        ]

    def select(self, models: Sequence[str] = (), tasks: Sequence[str] = ()) -> Listing:
        """Return what there is of models and tasks that fit any of the glob patterns; of all where there is none.

        Raises
        ------
        NotFound
            When a pattern fits nothing; where something was withdrawn the message says when and why.
        """
        listing = self.listing()
        for what, patterns, place in (("model", models, 1), ("task", tasks, 2)):
            names = self._names(listing, place)
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in names):
                    withdrawn = self.withdrawn(*((pattern, None) if what == "model" else (None, pattern)))
                    raise NotFound(
                        f"{self.location}: no {what} fits {pattern!r}; {near_misses(pattern, names)}{withdrawn}"
                    )

        def fits(path: str) -> bool:
            _, model, task, *_ = path.split("/")
            return all(
                not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
                for name, patterns in ((model, models), (task, tasks))
            )

        return Listing(
            records=tuple(record for record in listing.records if fits(record.path)),
            withdrawn=tuple(tombstone for tombstone in listing.withdrawn if fits(tombstone.path)),
            problems={path: problem for path, problem in listing.problems.items() if fits(path)},
        )

    def open_entry(self, record: Record) -> Entry:
        """Open the entry that a record speaks of."""
        return Entry(self.storage, record.path)

    def entries(
        self,
        *,
        model: str | None = None,
        task: str | None = None,
        rendering: str | None = None,
        position: str | None = None,
    ) -> list[Entry]:
        """Open all committed entries that fit, sorted by path; errors as `records`."""
        found = self.records(model=model, task=task, rendering=rendering, position=position)
        return [self.open_entry(record) for record in found]

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
            When none fits; where one was withdrawn the message says when and why.
        InvalidInput
            When several fit; the message lists them.
        """
        siblings = self.records(model=model, task=task)
        fits = [
            record
            for record in siblings
            if (record.rendering, record.position) == (rendering, position)
            and record.key.startswith(key)
            and dtype in (None, record.dtype)
        ]
        if len(fits) == 1:
            entry = self.open_entry(fits[0])
            entry.hidden_states  # noqa: B018  opening is the check
            return entry
        if not fits:
            there = "\n  ".join(record.label for record in siblings) or "nothing"
            raise NotFound(
                f"{self.location}: no entry of model {model!r} on task {task!r} with rendering {rendering!r} and position "
                f"{position!r}; there is:\n  {there}{self.withdrawn(model, task)}"
            )
        listing = "\n  ".join(record.label for record in fits)
        raise InvalidInput(f"{self.location}: {len(fits)} entries fit; choose one by its key or dtype:\n  {listing}")

    def withdrawn(self, model: str | None, task: str | None = None) -> str:
        """Return what there is to say of withdrawn entries that fit, a line each, for the end of a message."""
        tombstones = ((one.path.split("/"), one.text) for one in self.listing().withdrawn)
        fits = [text for path, text in tombstones if model in (None, *path[1:2]) and task in (None, *path[2:3])]
        return "".join(f"\n  {text}" for text in fits)

    def _require(self, model: str | None = None, task: str | None = None) -> Listing:
        """List what fits, and raise when there is no model or no task of that name at all."""
        for what, name in (("model", model), ("task", task)):
            if name is not None:
                check_slug(name, what)
        listing = self.listing(model or "*", task or "*")
        if not (model is None and task is None) and not self._fits(listing, model, task):
            everything = self.listing()
            for what, name, place in (("model", model, 1), ("task", task, 2)):
                known = self._names(everything, place)
                if name is not None and name not in known:
                    withdrawn = self.withdrawn(model, None if what == "model" else task)
                    raise NotFound(f"{self.location}: no {what} {name!r}; {near_misses(name, known)}{withdrawn}")
        return listing

    @staticmethod
    def _fits(listing: Listing, model: str | None, task: str | None) -> bool:
        paths = (path.split("/") for path in listing.paths)
        return any(model in (None, path[1]) and task in (None, path[2]) for path in paths)


def open_store(place: str | Path) -> Store:
    """Open a store for reading.

    Parameters
    ----------
    place : str or Path
        A directory, an ``http(s)://`` or an ``s3://`` URL. For S3 the usual environment variables hold credentials,
        region and endpoint.

    Raises
    ------
    NotFound
        When there is no store.
    InvalidInput
        When a newer actlas wrote it.
    Unreachable
        When the server fails, or does not allow it.
    """
    return Store(place)
