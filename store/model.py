"""Models: who a checkpoint is; written once."""

import contextlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from actlas.store.digest import json_digest
from actlas.store.disk import Disk
from actlas.store.documents import read_json, seal, unseal, write_json
from actlas.store.errors import Corrupt, Mismatch
from actlas.store.layout import ensure_group, model_directory
from actlas.store.storage import LocalStorage, Storage


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


def check_name_is_free(storage: Storage, name: str, identity: ModelIdentity) -> None:
    """Raise when `name` already belongs to another checkpoint.

    Raises
    ------
    Mismatch
        When it does; the message says what to do.
    """
    if not storage.exists(f"{model_directory(name)}/model.json"):
        return
    known = read_model(storage, name)
    if known.identity != identity:
        raise Mismatch(
            f"the name {name!r} belongs to another checkpoint in {storage.location}: expected digest "
            f"{known.identity.digest[:12]} ({known.adapter or known.base}), got {identity.digest[:12]}; "
            "give this one another name (act ingest --name, act import --model); a name stays with its checkpoint, also "
            "when its entries are withdrawn"
        )


def write_model(disk: Disk, root: Path, model: Model) -> None:
    """Write a model's identity once; later writes of the same identity change nothing.

    Raises
    ------
    Mismatch
        When the name belongs to another checkpoint.
    """
    directory = root / model_directory(model.name)
    ensure_group(disk, directory)
    path = directory / "model.json"
    if not path.exists():
        with contextlib.suppress(FileExistsError):
            write_json(disk, path, seal(asdict(model)), replace=False)
    check_name_is_free(LocalStorage(root), model.name, model.identity)
    disk.set_writable(path, False)


def read_model(storage: Storage, name: str) -> Model:
    """Read a model's identity.

    Raises
    ------
    Corrupt, Incomplete
        When the file is damaged or missing.
    """
    path = f"{model_directory(name)}/model.json"
    raw, where = read_json(storage, path), storage.where(path)
    raw = unseal(raw, where)
    try:
        raw["identity"] = ModelIdentity(**raw["identity"])
        model = Model(**{field.name: raw[field.name] for field in fields(Model)})
    except (KeyError, TypeError) as error:
        raise Corrupt(f"{where}: not the identity of a model ({error!r}); run `act verify` on the store") from error
    if model.name != name:
        raise Corrupt(f"{where}: belongs to the model {model.name!r}; restore the file from a copy")
    return model
