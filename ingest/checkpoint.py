"""Checkpoints: where they are, who they are, and how they are loaded. safetensors only, no code from outside."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig, AutoTokenizer

from actlas.ingest.families import Family, family_of
from actlas.ingest.random_init import RandomInit, describe, random_model
from actlas.store import InvalidInput, Mismatch, ModelIdentity, NotFound, Source, check_slug
from actlas.store.digest import file_digest, json_digest

# Bookkeeping that says nothing about what a checkpoint computes.
_BASE_NOISE = ("_name_or_path", "transformers_version", "_commit_hash")
_ADAPTER_NOISE = ("base_model_name_or_path", "revision", "peft_version", "inference_mode", "auto_mapping", "task_type")
# Settings with which PEFT rewrites the base's weights (KaSA) or with which the backbone alone computes something else.
_UNLIKE_LORA = ("alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config")

_VIRTUAL = (
    "it puts {} before every prompt, so positions and token counts would not mean what they mean under the base, and its states "
    "cannot be set beside the base's. Ingest the base alone, or train a LoRA adapter for this task"
)
_MERGE = (
    "Merge it into its base (merge_and_unload, then save_pretrained with the tokenizer) and ingest that with --model"
)
_NOT_LORA = {
    "PROMPT_TUNING": _VIRTUAL.format("learned virtual tokens"),
    "MULTITASK_PROMPT_TUNING": _VIRTUAL.format("learned virtual tokens"),
    "P_TUNING": _VIRTUAL.format("virtual tokens that an encoder of its own computes"),
    "PREFIX_TUNING": _VIRTUAL.format("learned keys and values in every layer"),
    "IA3": f"it multiplies activations instead of adding to weights, and its swap is not proven here. {_MERGE}",
}
_UNKNOWN = (
    f"this version knows neither its tensors nor how they are taken out of the base again. Where PEFT can: {_MERGE}"
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint as the user names it.

    Attributes
    ----------
    base : str
        Directory, or name on the hub of a model that is in the local cache.
    revision : str, optional
        Revision on the hub.
    adapter : str, optional
        Directory or cached name of a LoRA adapter for this base.
    random_init : int, optional
        Seed from 0 on: the base's configuration and tokenizer, with random weights in place of its own, which are not read.
    stack : {"decoder"}, optional
        The decoder of an encoder-decoder, in place of its encoder: another model in the store.
    name : str, optional
        Slug in the store; the last part of the adapter's or base's path by default, and then ``-decoder`` for that stack,
        and ``-random-SEED`` where the weights are random.
    trained_on : tuple of str
        Tasks that it was fine-tuned on; exactly one makes it a control.
    labels : mapping
        What else is said of it in the store: seed, step, family, owner, and whatever JSON can hold.
    origin : str, optional
        Where the user said so, for messages: ``sweep.csv, line 3``.

    Raises
    ------
    InvalidInput
        For random weights that were trained, or from no usable seed, and for another stack.
    """

    base: str
    revision: str | None = None
    adapter: str | None = None
    random_init: int | None = None
    stack: str | None = None
    name: str | None = None
    trained_on: tuple[str, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict, hash=False)
    origin: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        where = f"{self.origin}: " if self.origin else ""
        if self.stack not in (None, "decoder"):
            raise InvalidInput(f"{where}stack: expected decoder or nothing, got {self.stack!r}")
        if self.random_init is None:
            return
        if not 0 <= self.random_init < 1 << 63:
            raise InvalidInput(f"{where}random init: expected a seed from 0 to 2^63 - 1, got {self.random_init}")
        if self.adapter or self.trained_on:
            got = f"the adapter {self.adapter}" if self.adapter else f"trained on {', '.join(self.trained_on)}"
            raise InvalidInput(
                f"{where}random init {self.random_init}: expected {self.base} as it is before any training, got {got}; "
                "leave one of the two out"
            )

    @property
    def slug(self) -> str:
        """Its name in the store."""
        return check_slug(self.name or Path(self.adapter or self.base).name + self._suffix, "model")

    @property
    def _suffix(self) -> str:
        stack = "" if self.stack is None else f"-{self.stack}"
        return stack if self.random_init is None else f"{stack}-random-{self.random_init}"


def find_directory(name: str, revision: str | None = None) -> Path:
    """Return the local directory of a checkpoint: a path, or a hub name in the local cache. Never uses the network.

    Raises
    ------
    NotFound
        When it is neither.
    InvalidInput
        When a revision is given for a directory.
    """
    if os.path.isdir(name):  # noqa: PTH112  Path.is_dir raises for a name that is too long
        if revision is not None:
            raise InvalidInput(f"{name}: is a directory and has no revisions; leave --revision {revision} out")
        return Path(name)
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError) as error:
        raise NotFound(
            f"{name}: not a directory, and no model of this name{f' at {revision}' if revision else ''} is in the local "
            f"cache; download it first with: hf download {name}"
        ) from error


def _read_config(path: Path, what: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise Source(f"{path.parent}: not {what}: {path.name} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise Source(f"{path}: not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise Source(f"{path}: expected a JSON object, got {type(config).__name__}")
    return config


@dataclass(frozen=True)
class _Stamp:
    """What tells that a file is still the one that was hashed."""

    n_bytes: int
    modified_ns: int
    inode: int


def _stamps(directory: Path) -> dict[str, _Stamp]:
    stats = {path.name: path.stat() for path in sorted(directory.glob("*.safetensors"))}
    return {name: _Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats.items()}


def _meaning(config: dict[str, Any], noise: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in noise}


def _digest(directory: Path, meaning: dict[str, Any], what: str) -> str:
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        others = [path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern)]
        raise Source(
            f"{directory}: expected the weights of {what} as .safetensors, got {', '.join(others) or 'no weights'}; pickles "
            "can run code and are not loaded: save the checkpoint again with save_pretrained"
        )
    return json_digest({"config": meaning, "weights": {path.name: file_digest(path) for path in weights}})


@dataclass(frozen=True, eq=False)
class Base:
    """A base checkpoint that was found and checked, not yet loaded.

    Attributes
    ----------
    directory : Path
        Where it is.
    digest : str
        Digest of its configuration and weight files, or of its configuration, the seed and the weights that it gave.
    config : transformers configuration
        Its configuration.
    tokenizer : transformers tokenizer
        Its tokenizer.
    tokenizer_digest : str
        Digest of everything that decides how text becomes tokens.
    family : Family
        How its architecture is run.
    stamps : mapping
        Its weight files as they were before they were hashed; see `check_unchanged`. None of them where the weights are
        random.
    random_init : RandomInit or None
        What the weights are known by where they are random.
    """

    directory: Path
    digest: str
    config: Any
    tokenizer: Any
    tokenizer_digest: str
    family: Family
    stamps: Mapping[str, _Stamp]
    random_init: RandomInit | None = None

    @property
    def n_weight_bytes(self) -> int:
        """Bytes of its weights, in its own dtype."""
        if self.random_init is not None:
            return self.random_init.n_bytes
        return sum(stamp.n_bytes for stamp in self.stamps.values())

    @property
    def max_tokens(self) -> int | None:
        """The model's context in tokens, None where nothing bounds it."""
        places = getattr(self.config, "max_position_embeddings", None)
        bounds = (places and places - self.family.n_reserved, self.tokenizer.model_max_length)
        return min((int(bound) for bound in bounds if bound is not None and 0 < bound < 1 << 40), default=None)


def find_base(name: str, revision: str | None = None, random_init: int | None = None, stack: str | None = None) -> Base:
    """Find a base checkpoint and read all of it but its weights, which are hashed.

    With `random_init`, the seed of random weights, no weight file is looked for: the weights are made, hashed and dropped.
    A `stack` that is asked for is part of the digest.

    Raises
    ------
    NotFound
        When it is not there.
    Source
        When it is no transformer that can be run, in safetensors with a tokenizer.
    """
    directory = find_directory(name, revision)
    raw = _read_config(directory / "config.json", "a model checkpoint")
    _refuse(directory, raw)
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(directory, **local)
    except Exception as error:  # its checks of values raise errors of their own
        raise Source(f"{directory}: transformers cannot read its config.json ({_one_line(error)})") from error
    family = family_of(config, str(directory), stack)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, **local)
    except Exception as error:  # every tokenizer fails in its own way
        raise Source(f"{directory}: its tokenizer cannot be loaded ({_one_line(error)})") from error
    rules, meaning = tokenizer_digest(tokenizer), _meaning(raw, _BASE_NOISE)
    meaning |= {} if stack is None else {"actlas-stack": stack}
    if random_init is not None:
        drawn = _drawn(directory, config, family, random_init)
        digest = json_digest({"config": meaning, "random-init": drawn.seed, "weights": drawn.digest})
        return Base(directory, digest, config, tokenizer, rules, family, {}, drawn)
    stamps = _stamps(directory)
    return Base(directory, _digest(directory, meaning, "a model"), config, tokenizer, rules, family, stamps)


def _drawn(directory: Path, config: Any, family: Family, seed: int) -> RandomInit:
    try:
        with quiet_transformers():
            return describe(random_model(config, family, seed), seed)
    except Exception as error:  # every architecture has its own demands on its sizes
        raise Source(
            f"{directory}: transformers cannot make a model of its config.json ({_one_line(error)}); correct the configuration"
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _refuse(directory: Path, config: dict[str, Any]) -> None:
    reasons = {
        "auto_map": "needs Python code from the checkpoint, which is never run",
        "quantization_config": "is quantised: its values depend on the other rows of a batch",
    }
    for key, reason in reasons.items():
        if key in config:
            raise Source(f"{directory}: the model {reason} ({key} in config.json)")


def tokenizer_digest(tokenizer: Any) -> str:
    """Return the digest of a tokenizer's own rules, whatever it was saved with."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return json_digest({"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()})
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    return json_digest({name: rule for name, rule in rules.items() if name not in ("truncation", "padding")})


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter that was found and checked, not yet loaded."""

    directory: Path
    digest: str
    stamps: Mapping[str, _Stamp]


def check_unchanged(found: Base | Adapter) -> None:
    """Refuse a checkpoint whose weight files are not those that were hashed: it would be stored under their name.

    Raises
    ------
    Source
        When one has another size, time or inode, came or went.
    """
    try:
        now = _stamps(found.directory)
    except OSError as error:  # one went away between listing and looking
        raise Source(f"{found.directory}: its weights cannot be read ({error})") from error
    changed = sorted(name for name in now.keys() | found.stamps.keys() if now.get(name) != found.stamps.get(name))
    if changed:
        raise Source(
            f"{found.directory}: {', '.join(changed)} changed between being hashed and being loaded, so what was loaded is not "
            "what its name in the store would say; wait until nothing writes there, and ingest again"
        )


def find_adapter(name: str, base: Base, base_name: str, *, allow_base_mismatch: bool = False) -> Adapter:
    """Find an adapter and check that it belongs to this base and leaves the base's own weights alone.

    Parameters
    ----------
    name : str
        Directory or cached hub name.
    base, base_name : Base, str
        The base, and what the user called it.
    allow_base_mismatch : bool
        Take an adapter whose recorded base has another name.

    Raises
    ------
    NotFound, Source
        When it is not there, no LoRA, or not in safetensors.
    Mismatch
        When it was trained on another base.
    """
    directory = find_directory(name)
    config = _read_config(directory / "adapter_config.json", "a PEFT adapter")
    if base.family.masks:
        raise Source(
            f"{directory}: adapters are put under causal decoders only, and {base_name} is an {base.family.kind}"
        )
    if config.get("peft_type") != "LORA":
        kind = config.get("peft_type")
        raise Source(f"{directory}: expected a LoRA adapter, got {kind}; {_NOT_LORA.get(str(kind), _UNKNOWN)}")
    starts = config.get("init_lora_weights", True)
    if not (isinstance(starts, bool) or starts in ("gaussian", "orthogonal")):
        raise Source(
            f"{directory}: init_lora_weights={starts!r} changes the base's weights when it is loaded; convert it with "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
    if config.get("bias", "none") != "none" or config.get("layer_replication"):
        raise Source(
            f"{directory}: it changes the base's biases or layers, not only adds to them; that is not supported"
        )
    if special := [name for name in _UNLIKE_LORA if config.get(name)]:
        raise Source(
            f"{directory}: {special[0]} makes it more than low-rank matrices beside the base's weights (it rewrites those "
            "weights, or needs PEFT's own forward pass); that is not supported"
        )
    if not allow_base_mismatch:
        _check_base(directory, config.get("base_model_name_or_path"), base, base_name)
    # PEFT writes names of modules in the order of a set, which is another one in every process.
    ordered = {name: sorted(value, key=str) if isinstance(value, list) else value for name, value in config.items()}
    stamps = _stamps(directory)
    return Adapter(directory, _digest(directory, _meaning(ordered, _ADAPTER_NOISE), "an adapter"), stamps)


def _check_base(directory: Path, recorded: str | None, base: Base, base_name: str) -> None:
    if not recorded or recorded == base_name:
        return
    if Path(recorded).is_dir():
        config = _read_config(Path(recorded) / "config.json", "a model checkpoint")
        fits = _digest(Path(recorded), _meaning(config, _BASE_NOISE), "a model") == base.digest
    else:  # the base has moved since: the last part of its name is all there is to go by
        fits = Path(recorded).name == Path(base_name).name
    if not fits:
        raise Mismatch(
            f"{directory}: this adapter was trained on {recorded}, not on {base_name}; give --model that base, or "
            "--allow-base-mismatch if they are the same weights under two names"
        )


def identity(base: Base, adapter: Adapter | None) -> ModelIdentity:
    """Return the identity of a base with or without an adapter."""
    return ModelIdentity(base_digest=base.digest, adapter_digest=adapter.digest if adapter else None)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own progress bars and notes off the terminal; ours say what matters."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
