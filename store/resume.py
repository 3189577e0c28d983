"""Resuming: which superblocks in staging are whole. Nothing is believed that is not read again and hashed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from actlas.store.chunks import ChunkedArray
from actlas.store.digest import file_digest, leaf_digests
from actlas.store.dtype import LOGICAL
from actlas.store.errors import ActError, Mismatch
from actlas.store.journal import Leaves
from actlas.store.metadata import ArrayMetadata
from actlas.store.selection import select
from actlas.store.spec import ArraySpec, EntrySpec
from actlas.store.statistics import BlockStatistics, block_statistics, stack_layers
from actlas.store.storage import LocalStorage


@dataclass(frozen=True, kw_only=True)
class StagedSuperblock:
    """A superblock that stands in staging as its journal says.

    Attributes
    ----------
    leaves : mapping
        Its leaf digests, by array.
    statistics : BlockStatistics
        Of its hidden states.
    files : dict
        Size and digest of its files, by name.
    """

    leaves: Leaves
    statistics: BlockStatistics
    files: dict[str, dict[str, Any]]


def find_superblocks(
    root: Path, directory: Path, spec: EntrySpec, metadata: dict[str, ArrayMetadata], journal: Sequence[Leaves]
) -> list[StagedSuperblock]:
    """Return the superblocks in staging that are whole, up to the first that is not."""
    found: list[StagedSuperblock] = []
    step = spec.superblock_rows
    for number, leaves in enumerate(journal):
        rows = slice(number * step, min((number + 1) * step, spec.n_rows))
        try:
            found.append(_read_again(root, directory, spec, metadata, rows, leaves))
        except (ActError, OSError, KeyError, ValueError):
            break
    return found


def _read_again(
    root: Path, directory: Path, spec: EntrySpec, metadata: dict[str, ArrayMetadata], rows: slice, leaves: Leaves
) -> StagedSuperblock:
    files: dict[str, dict[str, Any]] = {}
    layers: list[BlockStatistics] = []
    for name, array_spec in spec.arrays.items():
        described = _describe(directory / name, metadata[name], array_spec.row_axis, rows.start // spec.superblock_rows)
        files |= {f"{name}/{file}": description for file, description in described.items()}
        sizes = {file: description["size"] for file, description in described.items()}
        place = (directory / name).relative_to(root).as_posix()
        array = ChunkedArray(LocalStorage(root), place, metadata[name], sizes)
        for selection, leaf in zip(_leaf_selections(array_spec, rows), leaves[name], strict=True):
            bits = array.read(select(selection, metadata[name].shape))
            if leaf_digests(bits) != [leaf]:
                raise Mismatch(f"{array.where('')}: not the superblock of the journal")
            if name == "hidden_states":
                layers.append(block_statistics(bits.view(LOGICAL[spec.identity.dtype])))
    return StagedSuperblock(leaves=leaves, statistics=stack_layers(layers), files=files)


def _leaf_selections(array: ArraySpec, rows: slice) -> Iterator[tuple[Any, ...]]:
    if array.row_axis == 0:
        yield (rows,)
    else:
        yield from ((slice(layer, layer + 1), rows) for layer in range(array.shape[0]))


def _describe(directory: Path, metadata: ArrayMetadata, row_axis: int, superblock: int) -> dict[str, dict[str, Any]]:
    axes = [range(length) for length in metadata.grid]
    axes[row_axis] = range(superblock, superblock + 1)
    paths = [directory / metadata.file_name(place) for place in product(*axes)]
    return {path.name: {"size": path.stat().st_size, "xxh3_128": file_digest(path)} for path in paths}
