"""Excerpts: some layers of an entry, as an entry of their own with the key and id that an ingest of them would have."""

import dataclasses
from collections.abc import Iterator, Sequence

from actlas.store.digest import LEAF_ROWS, join_leaves, leaf_digests
from actlas.store.dtype import to_stored
from actlas.store.entry import Entry
from actlas.store.errors import Corrupt, Mismatch
from actlas.store.identity import EntryIdentity, entry_id
from actlas.store.labels import join_labels, write_labels
from actlas.store.layout import task_directory
from actlas.store.manifest import REMEDY
from actlas.store.reader import Store
from actlas.store.spec import EntrySpec
from actlas.store.storage import LocalStorage
from actlas.store.verify import digest_of
from actlas.store.writer import StoreWriter


def copy_excerpt(source: Store, entry: Entry, layers: Sequence[int], writer: StoreWriter) -> tuple[str, bool]:
    """Write some layers of an entry as an entry of their own; return its id and whether it is new.

    Raises
    ------
    Corrupt
        When the files that hold these layers are not those that were written.
    Mismatch
        When the destination holds other values under the same key.
    """
    identity = dataclasses.replace(entry.identity, layers=tuple(layers))
    spec = EntrySpec(
        model=source.model(entry.model),
        task=entry.read_task(),
        rendering=entry.rendering,
        position=entry.position,
        identity=identity,
        token_digests=entry.token_digests,
        n_tokens=entry.n_tokens.tolist(),
        maker={"copied_from": entry.id},
    )
    _check_files(source, entry, layers)
    place = task_directory(entry.task)
    labels = join_labels(LocalStorage(writer.root), place, source.task_labels(entry.task))
    write_labels(writer.disk, writer.root, place, labels)
    with writer.new_entry(spec) as staged:
        if staged.committed is not None:
            return _check_id(staged.committed, entry, identity), False
        for rows in _superblocks(entry, staged.n_written):
            norm = entry.final_norm[rows] if entry.has_final_norm else None
            staged.write(entry.hidden_states[_places(entry, layers), rows], norm)
        provenance = dict(entry.provenance) | {"copied_from": {"location": entry.location, "id": entry.id}}
        return writer.commit(staged, provenance, source.labels(entry.model)).id, True


def _places(entry: Entry, layers: Sequence[int]) -> list[int]:
    return [entry.layer_index(layer) for layer in layers]


def _superblocks(entry: Entry, start: int = 0) -> Iterator[slice]:
    for first in range(start, entry.n_examples, LEAF_ROWS):
        yield slice(first, min(first + LEAF_ROWS, entry.n_examples))


def _check_files(source: Store, entry: Entry, layers: Sequence[int]) -> None:
    """Compare what will be read with the manifest: chunk checksums do not see a file that was swapped for another."""
    shard_layers = entry.chunked("hidden_states").metadata.file_shape[0]
    wanted = {f"c.{place // shard_layers}" for place in _places(entry, layers)}
    for name, file in entry.manifest.files.items():
        array, _, chunk = name.partition("/")
        if array == "hidden_states" and chunk.startswith("c.") and chunk.rsplit(".", 2)[0] not in wanted:
            continue
        if digest_of(source.storage, f"{entry.path}/{name}", file["size"]) != file["xxh3_128"]:
            raise Corrupt(f"{entry.location}/{name}: its bytes are not those that were written; {REMEDY}")


def _check_id(there: Entry, entry: Entry, identity: EntryIdentity) -> str:
    """Return the id of an excerpt that is there, when it is the one that this entry gives."""
    leaves = [
        leaf
        for rows in _superblocks(entry)
        for place in _places(entry, identity.layers)
        for leaf in leaf_digests(to_stored(entry.hidden_states[[place], rows], identity.dtype))
    ]
    described = {
        "dtype": identity.dtype,
        "shape": [len(identity.layers), entry.n_examples, entry.width],
        "digest": join_leaves(leaves),
    }
    expected = entry_id(identity, entry.manifest.arrays | {"hidden_states": described})
    if there.id != expected:
        raise Mismatch(
            f"{there.location}: holds other values under this key: expected id {expected[:12]}, got {there.id[:12]}; "
            "`act rm` it, or copy into another store"
        )
    return there.id
