"""What is known of an entry before its values are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actlas.store.codec import CODEC, check_codec
from actlas.store.digest import LEAF_ROWS
from actlas.store.dtype import check_dtype, stored_dtype
from actlas.store.errors import InvalidInput
from actlas.store.identity import EntryIdentity
from actlas.store.model import Model
from actlas.store.task import Task

OUTPUTS = ("top_token", "top_logit", "log_sum_exp", "entropy", "target_nll")  # what a model puts out, beside its states
RAGGED_BYTES = 256 << 20  # the most that a superblock of hidden states holds where every token is a row


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """An array that is written superblock by superblock.

    Attributes
    ----------
    shape : tuple of int
        (layer, row, feature), (row, feature) or (row,).
    dtype : str
        Its real dtype.
    dimensions : tuple of str
        Their names.
    superblock_rows : int
        Rows of one superblock, and of one leaf of its digest.
    """

    shape: tuple[int, ...]
    dtype: str
    dimensions: tuple[str, ...]
    superblock_rows: int

    @property
    def row_axis(self) -> int:
        """Which axis the rows are on."""
        return 1 if len(self.shape) == 3 else 0

    def block_shape(self, rows: slice) -> tuple[int, ...]:
        """Return the shape of some rows of it."""
        return (*self.shape[: self.row_axis], rows.stop - rows.start, *self.shape[self.row_axis + 1 :])


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
    offsets : sequence of int, optional
        Where every token is a row: for each example the row of its first token. Examples may stand in any order.
    n_target_tokens : sequence of int, optional
        Where targets follow the prompts: for each example how many of its tokens are the target's.
    n_top : int, optional
        Where the model's outputs are kept beside its states: how many of the largest logits.
    codec : str
        What the hidden states are kept in, one of `CODECS`; outside the identity.
    maker : mapping
        What else the values may depend on, such as versions and device, as JSON. A resumed entry is begun anew when it
        was begun by another maker.
    """

    model: Model
    task: Task
    rendering: str
    position: str
    identity: EntryIdentity
    token_digests: Sequence[str]
    n_tokens: Sequence[int]
    offsets: Sequence[int] | None = None
    n_target_tokens: Sequence[int] | None = None
    n_top: int | None = None
    codec: str = CODEC
    maker: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_dtype(self.identity.dtype)
        check_codec(self.codec)
        counts = {"task": len(self.task), "token_digests": len(self.token_digests), "n_tokens": len(self.n_tokens)}
        for name in ("offsets", "n_target_tokens"):
            if (values := getattr(self, name)) is not None:
                counts[name] = len(values)
        if len(set(counts.values())) != 1:
            raise InvalidInput(f"entry of {self.names}: expected one value an example everywhere, got {counts}")

    @property
    def names(self) -> dict[str, str]:
        """The names that the entry stands under."""
        return {
            "model": self.model.name,
            "task": self.task.slug,
            "rendering": self.rendering,
            "position": self.position,
        }

    @property
    def n_rows(self) -> int:
        """Rows: one an example, or one a token."""
        return len(self.task) if self.offsets is None else sum(self.n_tokens)

    @property
    def superblock_rows(self) -> int:
        """Rows of one superblock."""
        row_bytes = len(self.identity.layers) * self.model.width * stored_dtype(self.identity.dtype).itemsize
        return superblock_rows(row_bytes, is_ragged=self.offsets is not None)

    @property
    def arrays(self) -> dict[str, ArraySpec]:
        """The arrays that are written superblock by superblock, by name."""
        n_rows, row, dtype = self.n_rows, "example" if self.offsets is None else "token", self.identity.dtype

        def array(dtype: str, *axes: tuple[str, int]) -> ArraySpec:
            names, lengths = zip(*axes, strict=True)
            return ArraySpec(shape=lengths, dtype=dtype, dimensions=names, superblock_rows=self.superblock_rows)

        states = (("layer", len(self.identity.layers)), (row, n_rows), ("feature", self.model.width))
        arrays = {"hidden_states": array(dtype, *states)}
        if self.model.norm_width is not None:
            arrays["final_norm"] = array(dtype, (row, n_rows), ("norm_feature", self.model.norm_width))
        if self.n_top is not None:
            arrays["top_token"] = array("int32", (row, n_rows), ("rank", self.n_top))
            arrays["top_logit"] = array("float32", (row, n_rows), ("rank", self.n_top))
            arrays |= {name: array("float32", (row, n_rows)) for name in ("log_sum_exp", "entropy", "target_nll")}
        return arrays


def superblock_rows(row_bytes: int, *, is_ragged: bool) -> int:
    """Return the rows of one superblock: 2,048, or where every token is a row as many as 256 MiB hold, a power of two.

    Parameters
    ----------
    row_bytes : int
        Bytes of the hidden states of one row, all layers, as stored.
    is_ragged : bool
        Whether every token is a row.
    """
    if not is_ragged:
        return LEAF_ROWS
    return min(LEAF_ROWS, 1 << max(0, int(math.log2(max(1, RAGGED_BYTES // row_bytes)))))
