"""Excerpts: some layers of an entry, as an entry of their own with the key and id that an ingest of them would have."""

import dataclasses
from collections.abc import Iterator, Sequence

from actlas.store.digest import join_leaves, leaf_digests
from actlas.store.dtype import Array, to_stored
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
        offsets=entry.offsets.tolist() if entry.is_ragged else None,
        n_target_tokens=entry.n_target_tokens.tolist() if "n_target_tokens" in entry.manifest.arrays else None,
        n_top=entry.outputs["top_token"].shape[1] if entry.has_outputs else None,
        maker={"copied_from": entry.id},
    )
    _check_files(source, entry, layers)
    place = task_directory(entry.task)
    labels = join_labels(LocalStorage(writer.root), place, source.task_labels(entry.task))
    write_labels(writer.disk, writer.root, place, labels)
    with writer.new_entry(spec) as staged:
        if staged.committed is not None:
            return _check_id(staged.committed, entry, identity, spec.superblock_rows), False
        for rows in _superblocks(entry, spec.superblock_rows, staged.n_written):
            norm = entry.final_norm[rows] if entry.has_final_norm else None
            outputs = {name: data[rows] for name, data in entry.outputs.items()} if entry.has_outputs else {}
            staged.write(entry.hidden_states[_places(entry, layers), rows], norm, **outputs)
        provenance = dict(entry.provenance) | {"copied_from": {"location": entry.location, "id": entry.id}}
        return writer.commit(staged, provenance, source.labels(entry.model)).id, True


def _places(entry: Entry, layers: Sequence[int]) -> list[int]:
    return [entry.layer_index(layer) for layer in layers]


def _superblocks(entry: Entry, n_rows: int, start: int = 0) -> Iterator[slice]:
    for first in range(start, entry.n_rows, n_rows):
        yield slice(first, min(first + n_rows, entry.n_rows))


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


def _check_id(there: Entry, entry: Entry, identity: EntryIdentity, superblock_rows: int) -> str:
    """Return the id of an excerpt that is there, when it is the one that this entry gives."""
    parts: dict[str, Iterator[Array]] = {
        "hidden_states": (
            entry.hidden_states[[place], rows]
            for rows in _superblocks(entry, superblock_rows)
            for place in _places(entry, identity.layers)
        )
    }
    if entry.is_ragged and entry.has_final_norm:  # fewer layers make larger superblocks, and so other leaves
        parts["final_norm"] = (entry.final_norm[rows] for rows in _superblocks(entry, superblock_rows))
    arrays = dict(entry.manifest.arrays)
    for name, blocks in parts.items():
        leaves = [leaf for block in blocks for leaf in leaf_digests(to_stored(block, identity.dtype))]
        arrays[name] = arrays[name] | {"digest": join_leaves(leaves)}
    arrays["hidden_states"] |= {"shape": [len(identity.layers), entry.n_rows, entry.width]}
    expected = entry_id(identity, arrays)
    if there.id != expected:
        raise Mismatch(
            f"{there.location}: holds other values under this key: expected id {expected[:12]}, got {there.id[:12]}; "
            "`act rm` it, or copy into another store"
        )
    return there.id
