"""Reading: the chunks that a selection needs, in parallel, each checked against its checksum and decoded into place."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from actlas.store.codec import CRC_BYTES, decompress, fits_checksum
from actlas.store.errors import Corrupt, Incomplete
from actlas.store.metadata import ArrayMetadata, Shape
from actlas.store.selection import Piece, Selection
from actlas.store.storage import Storage

Array = npt.NDArray[Any]
T = TypeVar("T")

_HOLE = (1 << 64) - 1  # offset and length of a chunk that was never written
_PAGE_BYTES = 4096
_GAP_BYTES = 64 << 10  # reading on over a gap costs less than another request


@dataclass(frozen=True, eq=False)
class ChunkedArray:
    """The files of one array and how to read them.

    Attributes
    ----------
    storage : Storage
        Where they are.
    directory : str
        The array's directory, relative to the store.
    metadata : ArrayMetadata
        How it is cut and coded.
    sizes : mapping
        Bytes of each of its files, as the manifest says.
    """

    storage: Storage
    directory: str
    metadata: ArrayMetadata
    sizes: Mapping[str, int]
    _indexes: dict[str, Array] = field(default_factory=dict)

    def read(self, selection: Selection) -> Array:
        """Read and decode what is selected, in the stored dtype.

        Raises
        ------
        Corrupt
            When a chunk does not fit its checksum, cannot be decoded, or was never written.
        Incomplete
            When a file is missing or has another size.
        Unreachable
            When a server fails.
        """
        out = _fresh(selection.result_shape, self.metadata.dtype)
        pieces = list(selection.pieces(self.metadata.chunk))
        self._read_indexes(sorted({self._file(piece) for piece in pieces}))
        located = sorted((self._locate(piece) for piece in pieces), key=lambda one: (one.file, one.start))
        in_threads(lambda run: self._read_run(run, out), self._runs(located), self.storage.n_requests)
        return out

    def where(self, file: str) -> str:
        """Return path or URL of one of the files."""
        return self.storage.where(f"{self.directory}/{file}")

    def check_index(self, file: str) -> None:
        """Read a shard's index and check that it holds every chunk inside the array, one beside the other.

        Raises
        ------
        Corrupt
            When it does not.
        """
        if self.metadata.shard is None:
            return
        self._read_indexes([file])
        place = [int(number) for number in file.split(".")[1:]]
        inside = np.ones(self.metadata.shard_grid, bool)
        for axis, number in enumerate(place):
            left = self.metadata.shape[axis] - number * self.metadata.file_shape[axis]
            n_inside = -(-left // self.metadata.chunk[axis])
            inside &= (np.arange(self.metadata.shard_grid[axis]) < n_inside).reshape(
                [-1 if other == axis else 1 for other in range(len(place))]
            )
        spans = self._indexes[file][inside.ravel()].astype(object)
        end = 0
        for start, length in sorted(map(tuple, spans)):
            if start == _HOLE:
                raise Corrupt(f"{self.where(file)}: a chunk was never written; run `act verify` on the store")
            if start < end:
                raise Corrupt(f"{self.where(file)}: two chunks share bytes; run `act verify` on the store")
            end = start + length

    def _file(self, piece: Piece) -> str:
        shards = zip(piece.chunk, self.metadata.shard_grid, strict=True)
        return self.metadata.file_name(tuple(number // n_chunks for number, n_chunks in shards))

    def _size(self, file: str) -> int:
        try:
            return self.sizes[file]
        except KeyError:
            raise Incomplete(f"{self.where(file)}: not among the files of the entry; run `act verify`") from None

    def _read_indexes(self, files: Sequence[str]) -> None:
        missing = [file for file in files if file not in self._indexes]
        if self.metadata.shard is not None and missing:
            found = in_threads(self._read_index, missing, self.storage.n_requests)
            self._indexes.update(zip(missing, found, strict=True))

    def _read_index(self, file: str) -> Array:
        size, n_bytes = self._size(file), self.metadata.index_bytes
        if size < n_bytes:
            raise Incomplete(f"{self.where(file)}: {size} bytes cannot hold a shard index of {n_bytes}")
        buffer = memoryview(bytearray(n_bytes))
        self.storage.read_into(f"{self.directory}/{file}", size - n_bytes, [buffer], size=size)
        if not fits_checksum(buffer[:-CRC_BYTES], buffer[-CRC_BYTES:]):
            raise Corrupt(f"{self.where(file)}: its index does not fit its checksum; run `act verify` on the store")
        index = np.frombuffer(buffer[:-CRC_BYTES], "<u8").reshape(-1, 2)
        written = index[index[:, 0] != _HOLE]
        if (written > size).any() or (written.sum(axis=1) > size - n_bytes).any() or (written[:, 1] <= CRC_BYTES).any():
            raise Corrupt(f"{self.where(file)}: its index points outside the file; run `act verify` on the store")
        return index

    def _locate(self, piece: Piece) -> "_Located":
        file = self._file(piece)
        if self.metadata.shard is None:
            return _Located(piece, file, 0, self._size(file))
        inside = tuple(number % n for number, n in zip(piece.chunk, self.metadata.shard_grid, strict=True))
        start, length = self._indexes[file][int(np.ravel_multi_index(inside, self.metadata.shard_grid))].tolist()
        if start == _HOLE:
            raise Corrupt(f"{self.where(file)}: a chunk was never written; run `act verify` on the store")
        return _Located(piece, file, start, length)

    def _runs(self, located: Sequence["_Located"]) -> list[list["_Located"]]:
        """Join what one request can bring."""
        runs: list[list[_Located]] = []
        for one in located:
            last = runs[-1][-1] if runs else None
            if (
                last is not None
                and last.file == one.file
                and last.start + last.length <= one.start <= last.start + last.length + _GAP_BYTES
                and one.start + one.length - runs[-1][0].start <= self.storage.request_bytes
            ):
                runs[-1].append(one)
            else:
                runs.append([one])
        return runs

    def _read_run(self, run: Sequence["_Located"], out: Array) -> None:
        first, last = run[0], run[-1]
        name, size = f"{self.directory}/{first.file}", self._size(first.file)
        if len(run) == 1 and not self.metadata.is_compressed and (place := _in_place(first.piece, out)) is not None:
            checksum = memoryview(bytearray(CRC_BYTES))
            self._check_length(first)
            self.storage.read_into(name, first.start, [place, checksum], size=size)
            self._check(first, place, checksum)
            return
        data = _scratch("encoded", last.start + last.length - first.start)
        self.storage.read_into(name, first.start, [data], size=size)
        for one in run:
            self._decode(one, data[one.start - first.start :][: one.length], out)

    def _decode(self, one: "_Located", stored: memoryview, out: Array) -> None:
        body, checksum = stored[:-CRC_BYTES], stored[-CRC_BYTES:]
        self._check(one, body, checksum)
        place = _in_place(one.piece, out)
        decoded = _scratch("decoded", self.metadata.chunk_bytes) if place is None else place
        if self.metadata.is_compressed:
            try:
                decompress(body, decoded)
            except (ValueError, RuntimeError) as error:
                raise Corrupt(
                    f"{self.where(one.file)}: a chunk cannot be decoded ({error}); run `act verify`"
                ) from error
        else:
            self._check_length(one)
            decoded[:] = body
        if place is None:
            chunk = np.frombuffer(decoded, self.metadata.dtype).reshape(self.metadata.chunk)
            out[one.piece.target] = chunk[one.piece.source]

    def _check_length(self, one: "_Located") -> None:
        expected = self.metadata.chunk_bytes + CRC_BYTES
        if one.length != expected:
            raise Corrupt(f"{self.where(one.file)}: expected a chunk of {expected} bytes, got {one.length}")

    def _check(self, one: "_Located", body: memoryview, checksum: memoryview) -> None:
        if not fits_checksum(body, checksum):
            raise Corrupt(
                f"{self.where(one.file)}: the chunk at byte {one.start} does not fit its checksum; "
                "run `act verify` on the store"
            )


@dataclass(frozen=True, eq=False)
class _Located:
    """A piece, and where its chunk stands."""

    piece: Piece
    file: str
    start: int
    length: int


def _fresh(shape: Shape, dtype: np.dtype[Any]) -> Array:
    """Return an array of new memory, into which files are copied as fast as they can be.

    CPUs stall when what they load follows closely upon what they store in the lowest 12 bits of its address. Chunks begin
    soon after a multiple of 4,096 in their file: the array begins well before one (1.4 times as fast for codec `none`).
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(n_bytes + _PAGE_BYTES, np.uint8)
    start = (_PAGE_BYTES - 256 - memory.ctypes.data) % _PAGE_BYTES
    return memory[start : start + n_bytes].view(dtype).reshape(shape)


def _in_place(piece: Piece, out: Array) -> memoryview | None:
    """Return the bytes of the result that a chunk fills whole and in order, or None where it does not."""
    if piece.is_whole and (target := out[piece.target]).flags.c_contiguous:
        return memoryview(target.reshape(-1).view(np.uint8))
    return None


_local = threading.local()


def _scratch(what: str, n_bytes: int) -> memoryview:
    """Return a buffer of this thread's that is used again and again: fresh memory costs as much as decoding."""
    held: Array | None = getattr(_local, what, None)
    if held is None or len(held) < n_bytes:
        held = np.empty(n_bytes, np.uint8)
        setattr(_local, what, held)
    return held[:n_bytes].data


def in_threads(work: Callable[[Any], T], items: Sequence[Any], n_threads: int) -> list[T]:
    """Return what `work` makes of each item, in order; after the first error, or Ctrl-C, none is begun any more."""
    if len(items) < 2 or n_threads < 2:
        return [work(item) for item in items]
    pool = ThreadPoolExecutor(min(n_threads, len(items)), thread_name_prefix="actlas")
    waits = True
    try:
        return list(pool.map(work, items))
    except KeyboardInterrupt:
        waits = False  # a server that stands still would be waited for
        raise
    finally:
        pool.shutdown(wait=waits, cancel_futures=True)
