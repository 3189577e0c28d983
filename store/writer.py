"""Writing: a store open for writing, and an entry that is built in staging and committed whole."""

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.errors import ZarrUserWarning
from zarr.storage import LocalStore

from actlas.store.arrays import create_hidden_array, write_small_array
from actlas.store.catalog import rebuild_catalog
from actlas.store.digest import LEAF_ROWS, join_leaves, leaf_digests
from actlas.store.dtype import Array, check_dtype, to_stored
from actlas.store.entry import Entry
from actlas.store.errors import AlreadyExists, InvalidInput, ReadOnly
from actlas.store.files import file_lock, fsync_path, remove_write_permission, write_json
from actlas.store.identity import EntryIdentity
from actlas.store.layout import BATCH_TOKENS, FORMAT, create_root, ensure_group, entry_directory, staging_directory
from actlas.store.manifest import NAME, Manifest, describe_files, write_manifest
from actlas.store.model import Model, check_name_is_free, write_labels, write_model
from actlas.store.reader import Store
from actlas.store.statistics import BlockStatistics, block_statistics
from actlas.store.task import Task, write_task


@dataclass(frozen=True, kw_only=True)
class EntrySpec:
    """All that is known of an entry before its values are.

    Attributes
    ----------
    model, task : Model, Task
        Whose activations, and on what.
    rendering, position : str
        Slugs of the rendering and of how the token axis was reduced.
    identity : EntryIdentity
        All inputs.
    token_digests : sequence of str
        For each example 32 hexadecimal digits.
    n_tokens : sequence of int
        For each example its number of tokens.
    """

    model: Model
    task: Task
    rendering: str
    position: str
    identity: EntryIdentity
    token_digests: Sequence[str]
    n_tokens: Sequence[int]

    @property
    def names(self) -> dict[str, str]:
        """The names that the entry stands under."""
        return {
            "model": self.model.name,
            "task": self.task.slug,
            "rendering": self.rendering,
            "position": self.position,
        }


class EntryWriter:
    """One entry under construction, made by `StoreWriter.new_entry`."""

    def __init__(self, directory: Path, spec: EntrySpec) -> None:
        self._directory, self._spec = directory, spec
        check_dtype(spec.identity.dtype)
        counts = {"task": len(spec.task), "token_digests": len(spec.token_digests), "n_tokens": len(spec.n_tokens)}
        if len(set(counts.values())) != 1:
            raise InvalidInput(f"entry of {spec.names}: expected one value an example everywhere, got {counts}")
        self._group = zarr.create_group(LocalStore(directory), zarr_format=3)
        identity, model, n_examples = spec.identity, spec.model, len(spec.task)
        shapes: dict[str, tuple[int, ...]] = {"hidden_states": (len(identity.layers), n_examples, model.width)}
        if model.norm_width is not None:
            shapes["final_norm"] = (n_examples, model.norm_width)
        dimensions = {"hidden_states": ("layer", "example", "feature"), "final_norm": ("example", "norm_feature")}
        self._arrays = {
            name: create_hidden_array(self._group, name, shape, identity.dtype, dimensions[name])
            for name, shape in shapes.items()
        }
        self._leaves: dict[str, list[bytes]] = {name: [] for name in self._arrays}
        self._statistics: list[BlockStatistics] = []
        self.n_written = 0

    def write(self, hidden_states: Array, final_norm: Array | None = None) -> None:
        """Write the next superblock: the next 2,048 examples in task order, or the rest.

        Parameters
        ----------
        hidden_states : (n_layers, n_rows, n_features)
            In the entry's dtype; nothing is rounded.
        final_norm : (n_rows, n_norm_features), optional
            Where the model has a final norm.

        Raises
        ------
        InvalidInput
            When shape or dtype is another.
        """
        rows = slice(self.n_written, min(self.n_written + LEAF_ROWS, len(self._spec.task)))
        blocks = {"hidden_states": hidden_states} | ({} if final_norm is None else {"final_norm": final_norm})
        if blocks.keys() != self._arrays.keys():
            raise InvalidInput(f"superblock: expected the arrays {list(self._arrays)}, got {list(blocks)}")
        if rows.start == rows.stop:
            raise InvalidInput(f"superblock: all {self.n_written} examples are written already")
        stored = {}
        for name, block in blocks.items():  # all are checked before one is written: a caller may correct and repeat
            *leading, _, width = self._arrays[name].shape
            expected = (*leading, rows.stop - rows.start, width)
            if block.shape != expected:
                raise InvalidInput(f"superblock of {name}: expected shape {expected}, got {block.shape}")
            stored[name] = to_stored(block, self._spec.identity.dtype)
        for name, bits in stored.items():
            self._arrays[name][..., rows, :] = bits
            self._leaves[name] += leaf_digests(bits)
        self._statistics.append(block_statistics(hidden_states))
        self.n_written = rows.stop

    def _write_small_arrays(self) -> dict[str, Array]:
        spec = self._spec
        content = {
            "example_id": _digest_rows(spec.task.example_ids),
            "token_digest": _digest_rows(spec.token_digests),
            "n_tokens": np.array(spec.n_tokens, "<i4"),
        }
        nonfinite = np.concatenate([block.nonfinite for block in self._statistics], axis=1)
        finite_rows = (nonfinite == 0).sum(axis=1)[:, None]
        total = np.sum([block.total for block in self._statistics], axis=0)
        statistics = {
            "nonfinite": (nonfinite, ("layer", "example")),
            "max_abs": (np.concatenate([block.max_abs for block in self._statistics], axis=1), ("layer", "example")),
            "mean": (
                np.divide(total, finite_rows, where=finite_rows > 0, out=np.full_like(total, np.nan)),
                ("layer", "feature"),
            ),
            "layer": (np.array(spec.identity.layers, "<i4"), ("layer",)),
        }
        for name, data in content.items():
            write_small_array(self._group, name, data, ("example", "digest_byte")[: data.ndim])
        for name, (data, dimensions) in statistics.items():
            write_small_array(self._group, name, data, dimensions)
        return content

    def finish(self, provenance: Mapping[str, Any]) -> None:
        """Write everything else, the manifest last, and flush it all to the disk."""
        if self.n_written != len(self._spec.task):
            raise InvalidInput(f"expected {len(self._spec.task)} examples, got {self.n_written}; write the rest first")
        small = self._write_small_arrays()
        identity = self._spec.identity
        self._group.attrs["actlas"] = {
            "format": FORMAT,
            "key": identity.key,
            "names": self._spec.names,
            "identity": identity.as_json(),
        }
        with warnings.catch_warnings():  # zarr says that only zarr-python knows consolidated metadata; it is a copy
            warnings.simplefilter("ignore", ZarrUserWarning)
            zarr.consolidate_metadata(LocalStore(self._directory))
        write_json(self._directory / "provenance.json", dict(provenance))
        arrays = {
            name: {"dtype": identity.dtype, "shape": list(array.shape), "digest": join_leaves(self._leaves[name])}
            for name, array in self._arrays.items()
        } | {
            name: {"dtype": data.dtype.str, "shape": list(data.shape), "digest": join_leaves(leaf_digests(data))}
            for name, data in small.items()
        }
        manifest = Manifest(
            names=self._spec.names, identity=identity, arrays=arrays, files=describe_files(self._directory)
        )
        _seal(self._directory, manifest)


def _digest_rows(digests: Sequence[str]) -> Array:
    return np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(len(digests), 16)


def _seal(directory: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        remove_write_permission(directory / name)
        fsync_path(directory / name)
    write_manifest(directory, manifest)
    remove_write_permission(directory / NAME)
    for path in [*directory.rglob("*"), directory]:
        if path.is_dir():
            fsync_path(path)


class StoreWriter:
    """A store open for writing; `reader` is the same store, open for reading."""

    def __init__(self, root: Path) -> None:
        self.reader = Store(root)
        self.root = root
        if not os.access(root, os.W_OK):
            raise ReadOnly(
                f"{root}: this store cannot be written to; ask its owner, or ingest into a store of your own"
            )

    def __repr__(self) -> str:
        return f"<StoreWriter {self.root}>"

    def _path_of(self, spec: EntrySpec) -> Path:
        return entry_directory(
            self.root, spec.model.name, spec.task.slug, spec.rendering, spec.position, spec.identity.key
        )

    def find(self, spec: EntrySpec) -> Entry | None:
        """Return the committed entry of this key, or None.

        Raises
        ------
        Mismatch
            When the model's name belongs to another checkpoint.
        """
        check_name_is_free(self.root, spec.model.name, spec.model.identity)
        path = self._path_of(spec)
        if not (path / NAME).exists():
            return None
        entry = Entry(self.root, path)
        if entry.key != spec.identity.key:
            raise AlreadyExists(
                f"{path}: holds key {entry.key}, expected {spec.identity.key}: the first digits collide"
            )
        return entry

    def label(self, model: str, labels: Mapping[str, Any]) -> None:
        """Merge labels into those of a model that has entries; they stand outside every identity.

        Raises
        ------
        NotFound
            When the store has no entry of such a model.
        """
        self.reader.model(model)
        write_labels(self.root, model, labels)

    @contextmanager
    def new_entry(self, spec: EntrySpec) -> Iterator[EntryWriter]:
        """Build an entry in staging; whatever happens inside, nothing of it is visible before `commit`.

        What a killed process left behind under this key is thrown away first.

        Raises
        ------
        AlreadyExists
            When another process is writing this entry.
        """
        staging = staging_directory(self.root)
        with file_lock(staging / f"{spec.identity.key}.lock", wait=False, holder=f"writing {spec.names}"):
            directory = staging / spec.identity.key
            shutil.rmtree(directory, ignore_errors=True)
            try:
                yield EntryWriter(directory, spec)
            finally:
                shutil.rmtree(directory, ignore_errors=True)

    def commit(
        self, writer: EntryWriter, provenance: Mapping[str, Any], labels: Mapping[str, Any] | None = None
    ) -> Entry:
        """Make a complete entry visible, with its model and task, by one rename.

        Returns
        -------
        Entry
            The committed entry; another process's, where one with the same key came first.

        Raises
        ------
        AlreadyExists
            When something that is not this entry stands in its place.
        """
        writer.finish(provenance)
        spec = writer._spec
        write_model(self.root, spec.model)
        if labels:
            write_labels(self.root, spec.model.name, labels)
        write_task(self.root, spec.task)
        final = self._path_of(spec)
        ensure_group(final.parent)
        try:
            writer._directory.rename(final)
        except OSError as error:
            # Another process was first, or NFS lost the answer to a rename that worked: what is there decides.
            if self.find(spec) is None:
                raise AlreadyExists(f"{final}: cannot be put there ({error.strerror}); move away what is") from error
        fsync_path(final.parent)
        for path in [*final.rglob("*"), final]:
            if path.is_dir():
                remove_write_permission(path)
        rebuild_catalog(self.root)
        return Entry(self.root, final)


def create_store(path: str | Path, *, batch_tokens: int = BATCH_TOKENS) -> StoreWriter:
    """Make an empty store and open it for writing.

    Parameters
    ----------
    path : str or Path
        A new path, or an empty directory.
    batch_tokens : int
        Padded tokens in one batch, the same for every checkpoint of the store.

    Raises
    ------
    AlreadyExists
        When something stands at `path`.
    """
    create_root(Path(path), batch_tokens)
    return StoreWriter(Path(path))


def open_writer(path: str | Path) -> StoreWriter:
    """Open a store for writing.

    Raises
    ------
    NotFound
        When there is no store at `path`.
    ReadOnly
        When this user cannot write there.
    """
    return StoreWriter(Path(path))
