"""An entry under construction: superblocks are encoded, written to staging and noted in a journal."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from actlas.store.digest import bytes_digest, join_leaves, leaf_digests
from actlas.store.disk import Disk
from actlas.store.documents import json_bytes
from actlas.store.dtype import Array, to_stored
from actlas.store.encoder import Encoder
from actlas.store.entry import Entry
from actlas.store.errors import InvalidInput
from actlas.store.journal import Journal
from actlas.store.layout import FORMAT, MANIFEST, STAGING
from actlas.store.manifest import Manifest, list_files, write_manifest
from actlas.store.resume import find_superblocks
from actlas.store.spec import EntrySpec
from actlas.store.statistics import BlockStatistics, block_statistics

_WRITERS = 4  # flushing waits for the disk, not for a core


class EntryWriter:
    """One entry under construction, made by `StoreWriter.new_entry`.

    Attributes
    ----------
    n_written : int
        Rows that are written, one an example or one a token; not 0 at the start where an interrupted writer left
        superblocks that are whole.
    committed : Entry or None
        The entry itself, where it was committed before: nothing is left to be done.
    spec : EntrySpec
        What is built.
    directory : Path
        Where it is built.
    """

    def __init__(self, disk: Disk, root: Path, spec: EntrySpec, committed: Entry | None = None) -> None:
        self._disk, self._root, self.spec, self.committed = disk, root, spec, committed
        self.directory = root / STAGING / spec.identity.key
        self._journal = Journal(disk, self.directory.with_name(f"{spec.identity.key}.journal"))
        self._arrays, self._n_rows, self._step = spec.arrays, spec.n_rows, spec.superblock_rows
        self._encoder = Encoder(self._arrays, spec.codec)
        self._files: dict[str, dict[str, Any]] = {}
        self._leaves: dict[str, list[bytes]] = {name: [] for name in self._arrays}
        self._statistics: list[BlockStatistics] = []
        self.n_written = 0
        if committed is None:
            self._resume()
        else:
            self.n_written = self._n_rows

    @property
    def n_bytes(self) -> int:
        """Bytes of the files so far."""
        return sum(file["size"] for file in self._files.values())

    def write(self, hidden_states: Array, final_norm: Array | None = None, **outputs: Array) -> None:
        """Write the next superblock: the next `EntrySpec.superblock_rows` rows, or the rest.

        When this returns, a killed process, or a lost power, does not lose it any more.

        Parameters
        ----------
        hidden_states : (n_layers, n_rows, n_features)
            In the entry's dtype; nothing is rounded.
        final_norm : (n_rows, n_norm_features), optional
            Where the model has a final norm.
        **outputs : (n_rows, n_top) or (n_rows,)
            Where outputs are kept: ``top_token``, ``top_logit``, ``log_sum_exp``, ``entropy`` and ``target_nll``.

        Raises
        ------
        InvalidInput
            When shape or dtype is another.
        OSError
            When the disk is full or fails.
        """
        rows = self._next_rows()
        blocks = {"hidden_states": hidden_states} | ({} if final_norm is None else {"final_norm": final_norm}) | outputs
        if blocks.keys() != self._leaves.keys():
            raise InvalidInput(f"superblock: expected the arrays {list(self._leaves)}, got {list(blocks)}")
        if rows.start == rows.stop:
            raise InvalidInput(f"superblock: all {self.n_written} rows are written already")
        stored = {}
        for name, block in blocks.items():  # all are checked before one is written: a caller may correct and repeat
            expected = self._arrays[name].block_shape(rows)
            if block.shape != expected:
                raise InvalidInput(f"superblock of {name}: expected shape {expected}, got {block.shape}")
            stored[name] = to_stored(block, self._arrays[name].dtype)
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="flush") as pool:
            statistics = pool.submit(block_statistics, hidden_states)
            leaves = {name: pool.submit(leaf_digests, bits) for name, bits in stored.items()}
            self._write_shards(stored, rows, pool)
            found = {name: future.result() for name, future in leaves.items()}
            self._journal.add(len(self._statistics), found)
            self._add(rows, found, statistics.result())

    def finish(self, provenance: Mapping[str, Any]) -> None:
        """Write everything else, the manifest last, and flush it all to the disk."""
        if self.n_written != self._n_rows:
            raise InvalidInput(f"expected {self._n_rows} rows, got {self.n_written}; write the rest first")
        identity = self.spec.identity
        attributes = {"format": FORMAT, "key": identity.key, "names": self.spec.names, "identity": identity.as_json()}
        content = self._content()
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="flush") as pool:
            pending = []
            for name, (data, dimensions) in (content | self._summary()).items():
                pending += self._put_all(self._encoder.encode_small(name, data, dimensions), pool)
            rest = self._encoder.rest({"actlas": attributes})
            rest["provenance.json"] = memoryview(json_bytes(dict(provenance)))
            _settle(pending + self._put_all(rest, pool))
        arrays = {
            name: {
                "dtype": array.dtype,
                "shape": list(array.shape),
                "digest": join_leaves(self._leaves[name]),
            }
            for name, array in self._arrays.items()
        } | {
            name: {"dtype": data.dtype.str, "shape": list(data.shape), "digest": join_leaves(leaf_digests(data))}
            for name, (data, _) in content.items()
        }
        manifest = Manifest(names=self.spec.names, identity=identity, arrays=arrays, files=self._files)
        self._seal(manifest)

    def _seal(self, manifest: Manifest) -> None:
        for name in manifest.files:
            self._disk.set_writable(self.directory / name, False)
        write_manifest(self._disk, self.directory, manifest)
        self._disk.set_writable(self.directory / MANIFEST, False)
        directories = [path for path in self.directory.iterdir() if path.is_dir()]
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="flush") as pool:
            _settle([pool.submit(self._disk.sync, path) for path in (*directories, self.directory)])

    def forget(self) -> None:
        """Remove what is in staging."""
        self._disk.remove_tree(self.directory)
        self._journal.remove()

    def _next_rows(self) -> slice:
        return slice(self.n_written, min(self.n_written + self._step, self._n_rows))

    def _write_shards(self, stored: Mapping[str, Array], rows: slice, pool: ThreadPoolExecutor) -> None:
        """Encode shard after shard, and write each while the next is encoded."""
        pending: list[Future[None]] = []
        for name, bits in stored.items():
            for index in self._shards(name, rows):
                files = self._encoder.encode(name, index, bits[index[0]] if bits.ndim == 3 else bits)
                pending += self._put_all(files, pool)
                _settle(pending[:-_WRITERS])
                del pending[:-_WRITERS]
        _settle(pending)
        self._disk.sync_all([self.directory, *(self.directory / name for name in stored)])

    def _shards(self, name: str, rows: slice) -> list[tuple[Any, ...]]:
        array, step = self._arrays[name], self._encoder.metadata[name].file_shape[0]
        if array.row_axis == 0:
            return [(rows,)]
        n_layers = array.shape[0]
        return [(slice(first, min(first + step, n_layers)), rows) for first in range(0, n_layers, step)]

    def _put_all(self, files: Mapping[str, memoryview], pool: ThreadPoolExecutor) -> list[Future[None]]:
        for directory in sorted({(self.directory / name).parent for name in files}):
            self._disk.make_directory(directory)
        return [pool.submit(self._put, name, data) for name, data in files.items()]

    def _put(self, name: str, data: memoryview) -> None:
        path = self.directory / name
        self._disk.write(path, data)
        self._disk.sync(path)
        self._files[name] = {"size": data.nbytes, "xxh3_128": bytes_digest(data)}

    def _add(self, rows: slice, leaves: Mapping[str, list[bytes]], statistics: BlockStatistics) -> None:
        for name, digests in leaves.items():
            self._leaves[name] += digests
        self._statistics.append(statistics)
        self.n_written = rows.stop

    def _resume(self) -> None:
        """Take over what an interrupted writer left, as far as it is what the journal says; remove the rest."""
        header = {"key": self.spec.identity.key, "codec": self.spec.codec, "maker": dict(self.spec.maker)}
        kept = find_superblocks(
            self._root, self.directory, self.spec, self._encoder.metadata, self._journal.read(header)
        )
        for superblock in kept:
            self._files |= superblock.files
            self._add(self._next_rows(), superblock.leaves, superblock.statistics)
        self._disk.make_directories(self.directory)
        for name in [*list_files(self.directory), MANIFEST]:
            if name not in self._files and (self.directory / name).exists():
                self._disk.unlink(self.directory / name)
        self._journal.begin(header, [superblock.leaves for superblock in kept])

    def _content(self) -> dict[str, tuple[Array, tuple[str, ...]]]:
        """Return the small arrays that count for the id, each with its dimensions."""
        spec = self.spec
        content: dict[str, tuple[Array, tuple[str, ...]]] = {
            "example_id": (_digest_rows(spec.task.example_ids), ("example", "digest_byte")),
            "token_digest": (_digest_rows(spec.token_digests), ("example", "digest_byte")),
            "n_tokens": (np.array(spec.n_tokens, "<i4"), ("example",)),
        }
        if spec.offsets is not None:
            content["offset"] = (np.array(spec.offsets, "<i8"), ("example",))
        if spec.n_target_tokens is not None:
            content["n_target_tokens"] = (np.array(spec.n_target_tokens, "<i4"), ("example",))
        return content

    def _summary(self) -> dict[str, tuple[Array, tuple[str, ...]]]:
        """Return the small arrays that follow from the others, each with its dimensions."""
        nonfinite = np.concatenate([block.nonfinite for block in self._statistics], axis=1)
        finite_rows = (nonfinite == 0).sum(axis=1)[:, None]
        total = np.sum([block.total for block in self._statistics], axis=0)
        of_row = self._arrays["hidden_states"].dimensions[:2]
        return {
            "nonfinite": (nonfinite, of_row),
            "max_abs": (np.concatenate([block.max_abs for block in self._statistics], axis=1), of_row),
            "mean": (
                np.divide(total, finite_rows, where=finite_rows > 0, out=np.full_like(total, np.nan)),
                ("layer", "feature"),
            ),
            "layer": (np.array(self.spec.identity.layers, "<i4"), ("layer",)),
        }


def _settle(futures: Sequence[Future[None]]) -> None:
    for future in futures:
        future.result()


def _digest_rows(digests: Sequence[str]) -> Array:
    return np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(len(digests), 16)
