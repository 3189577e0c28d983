"""Selections: what an index asks of an array, cut along its chunks."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.intp]
Part = slice | Index


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What a selection takes of one chunk.

    Attributes
    ----------
    chunk : tuple of int
        Which chunk, in the grid of all chunks.
    source, target : tuple of slice or of open meshes of index arrays
        Where the values stand in the chunk, and where they go in the result.
    is_whole : bool
        Whether the chunk is taken whole and as it is.
    """

    chunk: tuple[int, ...]
    source: tuple[Any, ...]
    target: tuple[Any, ...]
    is_whole: bool


@dataclass(frozen=True, eq=False)
class Selection:
    """An orthogonal selection: for each axis the positions, and whether a single integer dropped the axis."""

    shape: tuple[int, ...]
    axes: list[Index]
    dropped: tuple[int, ...]

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Shape of the result before axes are dropped."""
        return tuple(len(axis) for axis in self.axes)

    def pieces(self, chunk: Sequence[int]) -> Iterator[Piece]:
        """Cut the selection along chunks of a shape."""
        by_axis = [list(_cut(axis, length)) for axis, length in zip(self.axes, chunk, strict=True)]
        for parts in itertools.product(*by_axis):
            sources, targets = [part[1] for part in parts], [part[2] for part in parts]
            yield Piece(
                chunk=tuple(part[0] for part in parts),
                source=_mesh(sources),
                target=_mesh(targets),
                is_whole=all(
                    isinstance(source, slice) and source == slice(0, length) and isinstance(target, slice)
                    for source, target, length in zip(sources, targets, chunk, strict=True)
                ),
            )


def select(index: Any, shape: tuple[int, ...]) -> Selection:
    """Return the selection that an index means: integers, slices, index arrays and ``...``, one for each axis.

    Raises
    ------
    IndexError
        When the index does not fit the shape.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    dots = [place for place, part in enumerate(parts) if part is Ellipsis]
    missing = len(shape) - (len(parts) - len(dots))
    if missing < 0 or len(dots) > 1:
        raise IndexError(f"too many indices: expected at most {len(shape)}, got {index!r}")
    place = dots[0] if dots else len(parts)
    parts[place : place + len(dots)] = [slice(None)] * missing
    axes = [_positions(part, length) for part, length in zip(parts, shape, strict=True)]
    dropped = tuple(axis for axis, part in enumerate(parts) if isinstance(part, (int, np.integer)))
    return Selection(shape, axes, dropped)


def _positions(part: Any, length: int) -> Index:
    if isinstance(part, slice):
        return np.arange(length, dtype=np.intp)[part]
    wanted = np.atleast_1d(np.asarray(part, dtype=None if np.size(part) else np.intp))
    if wanted.dtype == np.bool_ and wanted.shape == (length,):
        return np.flatnonzero(wanted)
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
        raise IndexError(f"unsupported index {part!r}: expected integers, slices and index arrays")
    positions = wanted.astype(np.intp)
    positions[positions < 0] += length
    if ((positions < 0) | (positions >= length)).any():
        raise IndexError(f"index {part!r} is out of bounds for an axis of length {length}")
    return positions


def _cut(positions: Index, length: int) -> Iterator[tuple[int, Part, Part]]:
    """Cut the positions on one axis along chunks: number of the chunk, positions in it, places in the result."""
    if not len(positions):
        return
    first, last = int(positions[0]), int(positions[-1])
    if len(positions) == last - first + 1 and np.array_equal(positions, np.arange(first, last + 1)):
        for number in range(first // length, last // length + 1):
            start, stop = max(first, number * length), min(last + 1, (number + 1) * length)
            yield number, slice(start - number * length, stop - number * length), slice(start - first, stop - first)
        return
    numbers = positions // length
    order = np.argsort(numbers, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
        number = int(numbers[group[0]])
        yield number, positions[group] - number * length, group


def _mesh(parts: list[Part]) -> tuple[Any, ...]:
    """Make index arrays orthogonal; slices alone stay slices, which do not copy."""
    if all(isinstance(part, slice) for part in parts):
        return tuple(parts)
    return np.ix_(*(np.arange(part.start, part.stop) if isinstance(part, slice) else part for part in parts))
