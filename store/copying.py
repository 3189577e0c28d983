"""Copying: a part of a store to another one, verified, resumable, the manifest of each entry last."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from actlas.store.catalog import Record
from actlas.store.entry import Entry
from actlas.store.errors import InvalidInput, NotFound
from actlas.store.excerpt import copy_excerpt
from actlas.store.layers import parse_layers
from actlas.store.layout import store_exists
from actlas.store.mirror import Mirror
from actlas.store.publish import Bucket
from actlas.store.reader import Store
from actlas.store.restricted import check_not_restricted
from actlas.store.storage import LocalStorage, open_storage
from actlas.store.writer import create_store, open_writer


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What became of one entry.

    Attributes
    ----------
    record : Record
        The entry of the source.
    id : str
        Id of the copy; another than the source's where only some layers were copied.
    outcome : {"copied", "present"}
        Whether it was copied, or was there already.
    """

    record: Record
    id: str
    outcome: Literal["copied", "present"]


def copy(
    source: Store,
    destination: str | Path,
    *,
    models: Sequence[str] = (),
    tasks: Sequence[str] = (),
    layers: str | None = None,
    allow_restricted: bool = False,
) -> Iterator[Copied]:
    """Copy entries to another store, which is made when there is none, and yield what became of each.

    Every file is compared with its digest on the way; what an earlier copy finished, or left half-done, is not copied
    again. With some layers only, an entry gets the key and the id that an ingest of these layers would have given it.

    Parameters
    ----------
    source : Store
        Where the entries are: a directory or a URL.
    destination : str or Path
        A directory, or an ``s3://`` URL.
    models, tasks : sequence of str
        Names or glob patterns; all where there is none.
    layers : str, optional
        Layers to keep, as in ``act ingest --layers``.
    allow_restricted : bool
        Copy tasks that are labelled ``restricted`` too.

    Raises
    ------
    NotFound, InvalidInput
        When nothing fits, a task is restricted, or the destination has another token budget.
    ReadOnly
        For an ``http(s)://`` destination.
    Mismatch
        When the destination has another checkpoint, or other values, under the same name or key.
    Corrupt, Incomplete, Unreachable
        When the source is damaged, or a server fails.
    """
    listing = source.select(models, tasks)
    for problem in listing.problems.values():
        raise problem
    if not (records := listing.records):
        raise NotFound(f"{source.location}: no entry of these models on these tasks; `act ls` lists what there is")
    yield from copy_records(source, destination, records, layers=layers, allow_restricted=allow_restricted)


def copy_records(
    source: Store,
    destination: str | Path,
    records: Sequence[Record],
    *,
    layers: str | None = None,
    allow_restricted: bool = False,
) -> Iterator[Copied]:
    """Copy the entries that records speak of; parameters and errors as `copy`."""
    for task in sorted({record.task for record in records}):
        check_not_restricted(source, task, allow=allow_restricted)
    chosen = _choose_layers(source, records, layers)  # before anything is made
    target = _open_target(destination, source)
    for record, wanted in zip(records, chosen, strict=True):
        entry = source.open_entry(record)
        if wanted == entry.layers:
            yield _result(record, target.receive(source, entry))
        elif isinstance(target, Mirror):
            yield _result(record, copy_excerpt(source, entry, wanted, target.writer))
        else:
            yield _result(record, _publish_layers(source, entry, wanted, target))


def _choose_layers(source: Store, records: Sequence[Record], layers: str | None) -> list[tuple[int, ...]]:
    if layers is None:
        return [record.layers for record in records]
    n_layers = {name: source.model(name).n_layers for name in {record.model for record in records}}
    # An imported model may have grown deeper since its model.json was written.
    depths = [max(n_layers[record.model], *record.layers) for record in records]
    return [parse_layers(layers, depth, known=record.layers) for depth, record in zip(depths, records, strict=True)]


def _result(record: Record, received: tuple[str, bool]) -> Copied:
    id_of_copy, is_new = received
    return Copied(record=record, id=id_of_copy, outcome="copied" if is_new else "present")


def _open_target(destination: str | Path, source: Store) -> Mirror | Bucket:
    storage = open_storage(destination)
    if not isinstance(storage, LocalStorage):
        return Bucket(storage, source)
    if storage.root.resolve().is_relative_to(Path(source.location).resolve()):
        raise InvalidInput(f"{destination}: lies in the store that is to be copied; choose another path")
    writer = open_writer(destination) if store_exists(storage.root) else None
    writer = writer or create_store(destination, batch_tokens=source.batch_tokens)
    if writer.reader.batch_tokens != source.batch_tokens:
        raise InvalidInput(
            f"{destination}: its batches have {writer.reader.batch_tokens} tokens, those of {source.location} "
            f"{source.batch_tokens}; values depend on that, so copy into a store of its own"
        )
    return Mirror(writer)


def _publish_layers(source: Store, entry: Entry, layers: Sequence[int], bucket: Bucket) -> tuple[str, bool]:
    with TemporaryDirectory(prefix="act-copy-") as directory:
        writer = create_store(Path(directory) / "part.act", batch_tokens=source.batch_tokens)
        copy_excerpt(source, entry, layers, writer)
        [part] = writer.reader.entries()
        received = bucket.receive(writer.reader, part)
        writer.disk.remove_tree(writer.root)
    return received
