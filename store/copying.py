"""Copying: a part of a store to another one, verified, resumable, the manifest of each entry last."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from actlas.store.catalog import Record
from actlas.store.digest import LEAF_ROWS
from actlas.store.entry import Entry
from actlas.store.errors import InvalidInput, NotFound, near_misses
from actlas.store.labels import write_labels
from actlas.store.layers import parse_layers
from actlas.store.layout import store_exists, task_directory
from actlas.store.mirror import Mirror
from actlas.store.publish import Bucket
from actlas.store.reader import Store
from actlas.store.restricted import check_not_restricted
from actlas.store.spec import EntrySpec
from actlas.store.storage import LocalStorage, open_storage
from actlas.store.writer import StoreWriter, create_store, open_writer


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


def select_records(store: Store, models: Sequence[str] = (), tasks: Sequence[str] = ()) -> list[Record]:
    """Return the entries whose model and task fit any of the patterns; all where there is none.

    Raises
    ------
    NotFound
        When a pattern fits nothing.
    Corrupt
        When a manifest was changed.
    """
    records = store.records()
    for what, patterns, names in (
        ("model", models, {record.model for record in records}),
        ("task", tasks, {record.task for record in records}),
    ):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise NotFound(f"{store.location}: no {what} fits {pattern!r}; {near_misses(pattern, names)}")
    fits = [record for record in records if _fits(record.model, models) and _fits(record.task, tasks)]
    if not fits:
        raise NotFound(f"{store.location}: no entry of these models on these tasks; `act ls` lists what there is")
    return fits


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
    records = select_records(source, models, tasks)
    for task in sorted({record.task for record in records}):
        check_not_restricted(source, task, allow=allow_restricted)
    chosen = _choose_layers(source, records, layers)  # before anything is made
    target = _open_target(destination, source)
    for record, wanted in zip(records, chosen, strict=True):
        entry = source.open_entry(record)
        if wanted == entry.layers:
            yield _result(record, target.receive(source, entry))
        elif isinstance(target, Mirror):
            yield _result(record, copy_layers(source, entry, wanted, target.writer))
        else:
            yield _result(record, _publish_layers(source, entry, wanted, target))


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


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
    if storage.root.resolve() == Path(source.location).resolve():
        raise InvalidInput(f"{destination}: source and destination are the same store; choose another path")
    writer = open_writer(destination) if store_exists(storage.root) else None
    writer = writer or create_store(destination, batch_tokens=source.batch_tokens)
    if writer.reader.batch_tokens != source.batch_tokens:
        raise InvalidInput(
            f"{destination}: its batches have {writer.reader.batch_tokens} tokens, those of {source.location} "
            f"{source.batch_tokens}; values depend on that, so copy into a store of its own"
        )
    return Mirror(writer)


def copy_layers(source: Store, entry: Entry, layers: Sequence[int], writer: StoreWriter) -> tuple[str, bool]:
    """Write some layers of an entry as an entry of their own; return its id and whether it is new."""
    spec = EntrySpec(
        model=source.model(entry.model),
        task=entry.read_task(),
        rendering=entry.rendering,
        position=entry.position,
        identity=dataclasses.replace(entry.identity, layers=tuple(layers)),
        token_digests=entry.token_digests,
        n_tokens=entry.n_tokens.tolist(),
        maker={"copied_from": entry.id},
    )
    places = [entry.layer_index(layer) for layer in layers]
    write_labels(writer.disk, writer.root, task_directory(entry.task), source.task_labels(entry.task))
    with writer.new_entry(spec) as staged:
        is_new = staged.committed is None
        for start in range(staged.n_written, entry.n_examples, LEAF_ROWS):
            rows = slice(start, min(start + LEAF_ROWS, entry.n_examples))
            norm = entry.final_norm[rows] if entry.has_final_norm else None
            staged.write(entry.hidden_states[places, rows], norm)
        provenance = dict(entry.provenance) | {"copied_from": {"location": entry.location, "id": entry.id}}
        return writer.commit(staged, provenance, source.labels(entry.model)).id, is_new


def _publish_layers(source: Store, entry: Entry, layers: Sequence[int], bucket: Bucket) -> tuple[str, bool]:
    with TemporaryDirectory(prefix="act-copy-") as directory:
        writer = create_store(Path(directory) / "part.act", batch_tokens=source.batch_tokens)
        copy_layers(source, entry, layers, writer)
        [part] = writer.reader.entries()
        received = bucket.receive(writer.reader, part)
        writer.disk.remove_tree(writer.root)
    return received
