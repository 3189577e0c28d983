"""Models: who a checkpoint is (written once) and what people say about it (labels)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from actlas.store.digest import json_digest
from actlas.store.errors import Corrupt, Mismatch
from actlas.store.files import read_json, remove_write_permission, seal, unseal, write_json
from actlas.store.layout import ensure_group, model_directory
from actlas.store.slug import check_slug


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """What makes two checkpoints the same model.

    Attributes
    ----------
    base_digest : str
        Digest of the base's configuration and weight files.
    adapter_digest : str or None
        Digest of the adapter's configuration and weights; None for a base alone. An adapter computes in the dtype of its
        base, which is part of every entry's identity.
    """

    base_digest: str
    adapter_digest: str | None = None

    @property
    def digest(self) -> str:
        """The digest that the model's name belongs to."""
        return json_digest(asdict(self))


@dataclass(frozen=True, kw_only=True)
class Model:
    """A checkpoint as the store knows it.

    Attributes
    ----------
    name : str
        Its slug.
    identity : ModelIdentity
        Its digests.
    base, revision, adapter : str or None
        Where it came from, as the user gave it; not part of the identity.
    architecture : str
        Class name, e.g. ``LlamaForCausalLM``.
    n_layers, width : int
        Number of blocks L, and features of the residual stream.
    norm_width : int or None
        Features after the final norm; None where the model has none.
    tokenizer_digest : str
        Digest of the tokenizer.
    """

    name: str
    identity: ModelIdentity
    base: str
    revision: str | None
    adapter: str | None
    architecture: str
    n_layers: int
    width: int
    norm_width: int | None
    tokenizer_digest: str


def check_name_is_free(root: Path, name: str, identity: ModelIdentity) -> None:
    """Raise when `name` already belongs to another checkpoint.

    Raises
    ------
    Mismatch
        When it does; the message says what to do.
    """
    path = model_directory(root, name) / "model.json"
    if path.exists() and (known := read_model(root, name)).identity != identity:
        raise Mismatch(
            f"the name {name!r} belongs to another checkpoint in {root}: expected digest "
            f"{known.identity.digest[:12]} ({known.adapter or known.base}), got {identity.digest[:12]}; "
            "give this one its own --name"
        )


def write_model(root: Path, model: Model) -> None:
    """Write a model's identity once; later writes of the same identity change nothing.

    Raises
    ------
    Mismatch
        When the name belongs to another checkpoint.
    """
    check_slug(model.name, "model")
    directory = model_directory(root, model.name)
    ensure_group(directory)
    path = directory / "model.json"
    try:
        write_json(path, seal(asdict(model)), replace=False)
        remove_write_permission(path)
    except FileExistsError:
        check_name_is_free(root, model.name, model.identity)


def read_model(root: Path, name: str) -> Model:
    """Read a model's identity.

    Raises
    ------
    Corrupt, Incomplete
        When the file is damaged or missing.
    """
    path = model_directory(root, name) / "model.json"
    raw = unseal(path, read_json(path))
    try:
        raw["identity"] = ModelIdentity(**raw["identity"])
        return Model(**{field.name: raw[field.name] for field in fields(Model)})
    except (KeyError, TypeError) as error:
        raise Corrupt(f"{path}: not the identity of a model ({error!r}); run `act verify` on the store") from error


def write_labels(root: Path, name: str, labels: Mapping[str, Any]) -> None:
    """Merge `labels` into those of a model; they stand outside every identity."""
    known = read_labels(root, name)
    merged = known | dict(labels)
    if merged != known:
        write_json(model_directory(root, name) / "labels.json", merged)


def read_labels(root: Path, name: str) -> dict[str, Any]:
    """Return a model's labels, e.g. ``{"trained_on": ["rte"]}``; empty where there are none."""
    path = model_directory(root, name) / "labels.json"
    return read_json(path) if path.exists() else {}
