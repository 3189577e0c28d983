"""What is known of an entry before its values are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actlas.store.codec import CODEC, check_codec
from actlas.store.dtype import check_dtype
from actlas.store.errors import InvalidInput
from actlas.store.identity import EntryIdentity
from actlas.store.model import Model
from actlas.store.task import Task


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
    codec: str = CODEC
    maker: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_dtype(self.identity.dtype)
        check_codec(self.codec)
        counts = {"task": len(self.task), "token_digests": len(self.token_digests), "n_tokens": len(self.n_tokens)}
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
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays of hidden states, by name."""
        n_examples = len(self.task)
        shapes: dict[str, tuple[int, ...]] = {
            "hidden_states": (len(self.identity.layers), n_examples, self.model.width)
        }
        if self.model.norm_width is not None:
            shapes["final_norm"] = (n_examples, self.model.norm_width)
        return shapes
