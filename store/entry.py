"""One entry: the hidden states of one model on one task, open for reading."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import LocalStore

from actlas.store.arrays import StoredArray
from actlas.store.dtype import LOGICAL, Array
from actlas.store.errors import Corrupt, NotFound
from actlas.store.files import read_json
from actlas.store.identity import EntryIdentity
from actlas.store.manifest import Manifest, check_file, check_sizes, read_manifest
from actlas.store.task import Task, read_task

if TYPE_CHECKING:
    import xarray as xr


class Entry:
    """The activations of one (model, task, rendering, position), read-only.

    Attributes
    ----------
    path : Path
        Its directory.
    model, task, rendering, position : str
        The names that it stands under.
    identity : EntryIdentity
        Everything that its values depend on.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self._root = root
        self.path = path
        self._manifest = read_manifest(path)
        names = self._manifest.names
        self.model, self.task = names["model"], names["task"]
        self.rendering, self.position = names["rendering"], names["position"]
        self.identity: EntryIdentity = self._manifest.identity

    def __repr__(self) -> str:
        return f"<Entry {self.label} id={self.id[:12]}>"

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
        return self._manifest.id

    @cached_property
    def key(self) -> str:
        """Digest of the identity, 64 hexadecimal digits."""
        return self.identity.key

    @property
    def manifest(self) -> Manifest:
        """What was written."""
        return self._manifest

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers kept, ascending; 0 is the input of the first block."""
        return self.identity.layers

    @property
    def dtype(self) -> np.dtype[Any]:
        """The real dtype of the hidden states."""
        return LOGICAL[self.identity.dtype]

    @property
    def n_examples(self) -> int:
        """Number of rows."""
        return int(self._manifest.arrays["hidden_states"]["shape"][1])

    @property
    def width(self) -> int:
        """Number of features p."""
        return int(self._manifest.arrays["hidden_states"]["shape"][2])

    @cached_property
    def _group(self) -> zarr.Group:
        check_sizes(self.path, self._manifest)
        # Every read follows these metadata; one wrong bit in a chunk shape would read as missing chunks, which is NaN.
        check_file(self.path, "zarr.json", self._manifest)
        try:
            return zarr.open_group(
                LocalStore(self.path, read_only=True), mode="r", zarr_format=3, use_consolidated=True
            )
        except Exception as error:  # whatever zarr makes of damaged metadata
            raise Corrupt(f"{self.path}: its Zarr metadata cannot be read ({error}); run `act verify`") from error

    def _array(self, name: str) -> StoredArray:
        try:
            array = StoredArray(self._group[name])  # type: ignore[arg-type]
        except KeyError as error:
            raise NotFound(f"{self.label}: has no array {name!r}") from error
        recorded = self._manifest.arrays.get(name)
        if recorded is not None and tuple(recorded["shape"]) != array.shape:
            raise Corrupt(f"{self.path / name}: expected shape {tuple(recorded['shape'])}, got {array.shape}")
        return array

    @cached_property
    def hidden_states(self) -> StoredArray:
        """Hidden states, (n_layers, n_examples, n_features); indexing reads."""
        return self._array("hidden_states")

    @cached_property
    def final_norm(self) -> StoredArray:
        """States after the final norm, (n_examples, n_norm_features).

        Raises
        ------
        NotFound
            Where the model has no final norm.
        """
        return self._array("final_norm")

    @property
    def has_final_norm(self) -> bool:
        """Whether the model has a final norm."""
        return "final_norm" in self._manifest.arrays

    @cached_property
    def example_ids(self) -> list[str]:
        """Ids of the rows, in task order."""
        return [bytes(row).hex() for row in self._array("example_id")[...]]

    @cached_property
    def token_digests(self) -> list[str]:
        """Digest of the token ids of each row."""
        return [bytes(row).hex() for row in self._array("token_digest")[...]]

    @cached_property
    def n_tokens(self) -> npt.NDArray[np.int32]:
        """Tokens of each row, (n_examples,)."""
        return self._array("n_tokens")[...]

    @cached_property
    def nonfinite(self) -> npt.NDArray[np.uint32]:
        """NaN and infinite values, (n_layers, n_examples)."""
        return self._array("nonfinite")[...]

    @cached_property
    def max_abs(self) -> npt.NDArray[np.float32]:
        """Largest finite magnitude, (n_layers, n_examples)."""
        return self._array("max_abs")[...]

    @cached_property
    def mean(self) -> npt.NDArray[np.float64]:
        """Column means over the rows that are finite throughout, (n_layers, n_features)."""
        return self._array("mean")[...]

    @cached_property
    def provenance(self) -> Mapping[str, Any]:
        """When, where and with what the entry was made; outside its id."""
        return read_json(self.path / "provenance.json")

    def read_task(self) -> Task:
        """Return the task with the texts and columns of the examples."""
        return read_task(self._root, self.task, self.identity.task_digest)

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

    def read(self, layer: int, examples: slice | npt.NDArray[np.intp] = slice(None)) -> Array:
        """Return one layer, or some examples of it, as a NumPy array (n, n_features) in the real dtype."""
        return self.hidden_states[self.layer_index(layer), examples]

    def to_xarray(self, chunks: Any = None) -> "xr.Dataset":
        """Return a labelled, lazy Dataset of hidden states and final norm.

        Parameters
        ----------
        chunks : optional
            As in ``xarray.open_zarr``: None reads on access, ``{}`` makes dask arrays of the stored chunks.
        """
        from actlas.store.labelled import to_dataset  # xarray takes half a second to import

        return to_dataset(self, chunks)
