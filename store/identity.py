"""The identity of an entry: all inputs that its values depend on, and the key made of them."""

from dataclasses import asdict, dataclass
from typing import Any

from actlas.store.digest import json_digest
from actlas.store.layout import FORMAT


@dataclass(frozen=True, kw_only=True)
class EntryIdentity:
    """Everything that an entry's values depend on, known before any of them is computed.

    Attributes
    ----------
    model_digest, tokenizer_digest, task_digest : str
        Digests of the model, the tokenizer and the task's content.
    rendering_digest : str
        Digest of how examples became tokens.
    plan_digest : str
        Digest of the batches: values depend on padded length and batch shape.
    position : str
        How the token axis was reduced.
    layers : tuple of int
        The layers kept, ascending.
    dtype : str
        What the model computed in.
    outputs : bool
        Whether the model's outputs are kept beside its states.
    """

    model_digest: str
    tokenizer_digest: str
    task_digest: str
    rendering_digest: str
    plan_digest: str
    position: str
    layers: tuple[int, ...]
    dtype: str
    outputs: bool = False

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of the identity and the format number."""
        return json_digest({"format": FORMAT, "identity": self.as_json()})

    def as_json(self) -> dict[str, Any]:
        """Return the identity as a JSON value."""
        identity = asdict(self) | {"layers": list(self.layers)}
        if not self.outputs:  # as in entries that were written before there were any
            del identity["outputs"]
        return identity


def entry_id(identity: EntryIdentity, arrays: dict[str, dict[str, Any]]) -> str:
    """Return an entry's id: SHA-256 of format, identity, and name, dtype, shape and digest of every content array."""
    return json_digest({"format": FORMAT, "identity": identity.as_json(), "arrays": arrays})
