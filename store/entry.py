"""One entry: the hidden states of one model on one task, open for reading."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from actlas.store.arrays import StoredArray
from actlas.store.chunks import ChunkedArray
from actlas.store.documents import parse_json
from actlas.store.dtype import LOGICAL, Array, check_dtype, stored_dtype
from actlas.store.errors import Corrupt, NotFound
from actlas.store.identity import EntryIdentity
from actlas.store.manifest import REMEDY, Manifest, check_sizes, read_checked, read_manifest
from actlas.store.metadata import parse_array, parse_group
from actlas.store.spec import OUTPUTS, superblock_rows
from actlas.store.storage import LocalStorage, Storage
from actlas.store.task import Task, read_task

if TYPE_CHECKING:
    import xarray as xr


class Entry:
    """The activations of one (model, task, rendering, position), read-only.

    Attributes
    ----------
    path : str
        Its directory, relative to the store.
    model, task, rendering, position : str
        The names that it stands under.
    identity : EntryIdentity
        Everything that its values depend on.
    manifest : Manifest
        What was written.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage = storage
        self.path = path
        self.manifest: Manifest = read_manifest(storage, path)
        names = self.manifest.names
        self.model, self.task = names["model"], names["task"]
        self.rendering, self.position = names["rendering"], names["position"]
        self.identity: EntryIdentity = self.manifest.identity

    def __repr__(self) -> str:
        return f"<Entry {self.label} id={self.id[:12]}>"

    @property
    def location(self) -> str:
        """Its directory as a whole path or URL."""
        return self._storage.where(self.path)

    @property
    def label(self) -> str:
        """What distinguishes the entry from its siblings, for messages and tables."""
        return (
            f"{self.model}/{self.task}/{self.rendering}-{self.position} key={self.key[:8]} dtype={self.identity.dtype} "
            f"layers={len(self.layers)} n={self.n_examples}"
        )

    @cached_property
    def id(self) -> str:
        """Digest of content and identity, 64 hexadecimal digits."""
        return self.manifest.id

    @cached_property
    def key(self) -> str:
        """Digest of the identity, 64 hexadecimal digits."""
        return self.identity.key

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers kept, ascending; 0 is the input of the first block."""
        return self.identity.layers

    @property
    def dtype(self) -> np.dtype[Any]:
        """The real dtype of the hidden states."""
        return LOGICAL[check_dtype(self.identity.dtype)]

    @property
    def n_examples(self) -> int:
        """Number of examples."""
        return self.manifest.n_examples

    @property
    def n_rows(self) -> int:
        """Number of rows of the hidden states: one an example or, where `is_ragged`, one a token."""
        return int(self.manifest.arrays["hidden_states"]["shape"][1])

    @property
    def is_ragged(self) -> bool:
        """Whether every token is a row, as under the position ``all``."""
        return "offset" in self.manifest.arrays

    @property
    def superblock_rows(self) -> int:
        """Rows of one superblock, and of one leaf of an array's digest."""
        row_bytes = len(self.layers) * self.width * stored_dtype(self.identity.dtype).itemsize
        return superblock_rows(row_bytes, is_ragged=self.is_ragged)

    @property
    def width(self) -> int:
        """Number of features p."""
        return int(self.manifest.arrays["hidden_states"]["shape"][2])

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        """The metadata of all arrays.

        Every read follows them: one wrong bit in a chunk shape would make present chunks look missing.
        """
        if isinstance(self._storage, LocalStorage):
            check_sizes(self._storage, self.path, self.manifest)
        data = read_checked(self._storage, self.path, "zarr.json", self.manifest.files)
        return parse_group(data, self._storage.where(f"{self.path}/zarr.json"))[1]

    def array_names(self) -> list[str]:
        """Return the names of all arrays."""
        return sorted(self._metadata)

    def chunked(self, name: str) -> ChunkedArray:
        """Return the files of an array; `hidden_states` and its siblings read it in its real dtype.

        Raises
        ------
        NotFound
            When there is no such array.
        Corrupt, Incomplete
            When files are missing, have another size, or are described in another way than format 1 allows.
        """
        if name not in self._metadata:
            raise NotFound(f"{self.label}: has no array {name!r}")
        where = self._storage.where(f"{self.path}/{name}/zarr.json")
        metadata = parse_array(self._metadata[name], where)
        files = self.manifest.files
        sizes = {file.partition("/")[2]: files[file]["size"] for file in files if file.startswith(f"{name}/c.")}
        if len(sizes) != np.prod(metadata.grid, dtype=object):
            raise Corrupt(f"{where}: expected {len(sizes)} files, as in the manifest, got {metadata.grid}; {REMEDY}")
        recorded = self.manifest.arrays.get(name)
        if recorded is not None and tuple(recorded["shape"]) != metadata.shape:
            raise Corrupt(f"{where}: expected shape {tuple(recorded['shape'])}, got {metadata.shape}; {REMEDY}")
        dtype = metadata.attributes.get("logical_dtype", metadata.dtype.str)
        if recorded is not None and recorded.get("dtype") != dtype:
            raise Corrupt(f"{where}: expected dtype {recorded.get('dtype')}, got {dtype}; {REMEDY}")
        return ChunkedArray(self._storage, f"{self.path}/{name}", metadata, sizes)

    @cached_property
    def hidden_states(self) -> StoredArray:
        """Hidden states, (n_layers, n_rows, n_features); indexing reads."""
        return StoredArray(self.chunked("hidden_states"))

    @cached_property
    def final_norm(self) -> StoredArray:
        """States after the final norm, (n_rows, n_norm_features).

        Raises
        ------
        NotFound
            Where the model has no final norm.
        """
        return StoredArray(self.chunked("final_norm"))

    @property
    def has_final_norm(self) -> bool:
        """Whether the model has a final norm."""
        return "final_norm" in self.manifest.arrays

    def _small(self, name: str, *shape: int) -> Array:
        array = StoredArray(self.chunked(name))
        if array.shape != shape:
            raise Corrupt(f"{self.location}/{name}: expected shape {shape}, got {array.shape}; {REMEDY}")
        return array[...]

    @cached_property
    def example_ids(self) -> list[str]:
        """Ids of the rows, in task order."""
        return [bytes(row).hex() for row in self._small("example_id", self.n_examples, 16)]

    @cached_property
    def token_digests(self) -> list[str]:
        """Digest of the token ids of each row."""
        return [bytes(row).hex() for row in self._small("token_digest", self.n_examples, 16)]

    @cached_property
    def n_tokens(self) -> npt.NDArray[np.int32]:
        """Tokens of each row, (n_examples,)."""
        return self._small("n_tokens", self.n_examples)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where every token is a row: the row of each example's first token, (n_examples,); see `rows_of`.

        Raises
        ------
        NotFound
            Where an example is a row.
        """
        offsets: npt.NDArray[np.int64] = self._small("offset", self.n_examples)
        if (offsets < 0).any() or (offsets + self.n_tokens > self.n_rows).any():
            raise Corrupt(f"{self.location}/offset: names rows that are not there; {REMEDY}")
        return offsets

    def rows_of(self, example: int) -> slice:
        """Return the rows of one example, given its place in the task: its tokens in their order, or the one row."""
        if not self.is_ragged:
            return slice(example, example + 1)
        first = int(self.offsets[example])
        return slice(first, first + int(self.n_tokens[example]))

    def example_at(self, row: int) -> int:
        """Return the place in the task of the example that a row belongs to."""
        if not self.is_ragged:
            return row
        return int(np.flatnonzero((self.offsets <= row) & (row < self.offsets + self.n_tokens))[0])

    @cached_property
    def n_target_tokens(self) -> npt.NDArray[np.int32]:
        """How many of each example's tokens, its last ones, are the target's, (n_examples,).

        Raises
        ------
        NotFound
            Where the prompts were run alone.
        """
        return self._small("n_target_tokens", self.n_examples)

    @property
    def has_outputs(self) -> bool:
        """Whether the model's outputs are kept beside its states."""
        return "log_sum_exp" in self.manifest.arrays

    @cached_property
    def outputs(self) -> Mapping[str, Array]:
        """What the model put out at the last token of each prompt, in nats.

        ``top_token`` and ``top_logit`` (n_examples, n_top): the largest logits, the largest first. ``log_sum_exp``
        (n_examples,) of all logits: the log-probability of a token is its logit minus this. ``entropy`` (n_examples,) of
        the next token. ``target_nll`` (n_examples,): the summed negative log-likelihood of the target's tokens, each given
        those before it; NaN where the prompts were run alone.

        Raises
        ------
        NotFound
            Where they are not kept.
        """
        return {name: StoredArray(self.chunked(name))[...] for name in OUTPUTS}

    @cached_property
    def nonfinite(self) -> npt.NDArray[np.uint32]:
        """NaN and infinite values, (n_layers, n_rows)."""
        return self._small("nonfinite", len(self.layers), self.n_rows)

    @cached_property
    def max_abs(self) -> npt.NDArray[np.float32]:
        """Largest finite magnitude, (n_layers, n_rows)."""
        return self._small("max_abs", len(self.layers), self.n_rows)

    @cached_property
    def mean(self) -> npt.NDArray[np.float64]:
        """Column means over the rows that are finite throughout, (n_layers, n_features)."""
        return self._small("mean", len(self.layers), self.width)

    @cached_property
    def provenance(self) -> Mapping[str, Any]:
        """When, where and with what the entry was made; outside its id."""
        data = read_checked(self._storage, self.path, "provenance.json", self.manifest.files)
        return parse_json(data, f"{self.location}/provenance.json")

    def read_task(self) -> Task:
        """Return the task with the texts and columns of the examples."""
        return read_task(self._storage, self.task, self.identity.task_digest)

    def layer_index(self, layer: int) -> int:
        """Return where `layer` stands on the first axis.

        Raises
        ------
        NotFound
            When the entry does not keep it.
        """
        try:
            return self.layers.index(layer)
        except ValueError:
            raise NotFound(f"{self.label}: layer {layer} is not kept; it has {list(self.layers)}") from None

    def read(self, layer: int, rows: slice | npt.NDArray[np.intp] = slice(None)) -> Array:
        """Return one layer, or some rows of it, as a NumPy array (n, n_features) in the real dtype."""
        return self.hidden_states[self.layer_index(layer), rows]

    def to_xarray(self, chunks: Any = None) -> "xr.Dataset":
        """Return a labelled, lazy Dataset of hidden states and final norm.

        Parameters
        ----------
        chunks : optional
            As in ``xarray.open_zarr``: None reads on access, ``{}`` makes dask arrays of the stored chunks.
        """
        from actlas.store.labelled import to_dataset  # xarray takes half a second to import

        return to_dataset(self, chunks)
