"""Weights into memory: a base once, adapters swapped under it, every tensor accounted for."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from actlas.ingest.checkpoint import Adapter, Base, check_unchanged, quiet_transformers
from actlas.ingest.random_init import describe, random_model
from actlas.store import Mismatch, Source

TORCH_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

_COPY = ".base_layer."  # in the names of the base's own tensors that PEFT saves beside an adapter of embeddings


def load_base(base: Base, dtype: str, device: str) -> PreTrainedModel:
    """Load a base for inference.

    Parameters
    ----------
    base : Base
        What `find_base` returned.
    dtype : {"bfloat16", "float16", "float32"}
        What to compute in.
    device : str
        A torch device.

    Raises
    ------
    Source
        When transformers cannot load it, a tensor is missing, unexpected or of another shape, a file changed since it was
        hashed, or random weights are not those that were hashed.
    """
    try:
        with quiet_transformers():
            model, report = _from_files(base, dtype) if base.random_init is None else _from_seed(base, dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise Source(
            f"{base.directory}: transformers cannot load it as a model of its kind ({base.family.kind}): {error}"
        ) from error
    # Heads are never run; everything else must be there, or it would be random without a word.
    missing = sorted(name for name in report["missing_keys"] if _is_run(name, model))
    unexpected = sorted(
        name for name in report["unexpected_keys"] if _is_run(name, model) or model.base_model is not model
    )
    if missing or unexpected:
        raise Source(
            f"{base.directory}: its tensors are not those of {type(model).__name__}: "
            f"missing {_some(missing)}, unexpected {_some(unexpected)}; the checkpoint is incomplete or of another model"
        )
    model = model.to(device).eval()
    if base.random_init is None:
        check_unchanged(base)
    return model


def _from_files(base: Base, dtype: str) -> tuple[PreTrainedModel, dict[str, Any]]:
    loaded: tuple[PreTrainedModel, dict[str, Any]] = base.family.loader.from_pretrained(
        base.directory,
        dtype=TORCH_DTYPES[dtype],
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    return loaded


def _from_seed(base: Base, dtype: str) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Make random weights again, and load them as those of a file are: what is done to a trained model is done to them."""
    assert base.random_init is not None
    seed = base.random_init.seed
    initial = random_model(base.config, base.family, seed)
    if describe(initial, seed) != base.random_init:
        raise Source(
            f"{base.directory}: {type(initial).__name__} draws other weights from the seed {seed} than when they were hashed, so "
            "its name in the store would say nothing; its initialisation depends on more than the seed. Save one draw with "
            "save_pretrained, and ingest that"
        )
    loaded: tuple[PreTrainedModel, dict[str, Any]] = type(initial).from_pretrained(
        None, config=base.config, state_dict=initial.state_dict(), dtype=TORCH_DTYPES[dtype], output_loading_info=True
    )
    return loaded


def _is_run(name: str, model: PreTrainedModel) -> bool:
    """Return whether a tensor belongs to what computes hidden states, not to a head or a pooler."""
    part = name.removeprefix(f"{model.base_model_prefix}.").split(".")[0]
    return part in {own.split(".")[0] for own in model.base_model.state_dict()} - {"pooler"}


def _some(names: list[str]) -> str:
    return "none" if not names else ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@contextmanager
def adapted(model: PreTrainedModel, adapter: Adapter) -> Iterator[int]:
    """Put an adapter under the resident base, unmerged, and take it out again; the base's tensors are never written.

    Yields the number of its tensors.

    Raises
    ------
    Source
        When the adapter's tensors are not those that its configuration asks for, cannot be read, changed since they were
        hashed, or are others in the model than in the file.
    Mismatch
        When their shapes are another model's, or copies of the base's tensors are not the base's.
    """
    _check_copies(model, adapter)
    # PEFT's own unload() leaves an adapter's modules_to_save in the base: its modules are put back one by one.
    children = {module: dict(module._modules) for module in model.modules()}
    try:
        adapted_model = _load_adapter(model, adapter)
        n_tensors = _check_adapter(adapted_model, adapter, model.dtype)
        check_unchanged(adapter)
        adapted_model.eval()
        yield n_tensors
    finally:
        for module, own in children.items():
            module._modules.clear()
            module._modules.update(own)
        vars(model).pop("peft_config", None)
        model.eval()


def _check_copies(model: PreTrainedModel, adapter: Adapter) -> None:
    """Refuse an adapter whose copies of the base's tensors are others: PEFT would load them over the resident base."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in _tensors(adapter, copies=True):
        own = parameters.get(name.removeprefix("base_model.model.").replace(_COPY, "."))
        if own is None or own.shape != tensor.shape or not torch.equal(own.cpu(), tensor.to(own.dtype)):
            raise Mismatch(
                f"{adapter.directory}: it holds a copy of the base's own tensor {name}, and it is not the base's; the "
                "adapter belongs to another base or to one with a changed vocabulary"
            )


def _tensors(adapter: Adapter, *, copies: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of an adapter's files: copies of the base's, or its own."""
    try:
        for path in adapter.directory.glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                names = [name for name in file.keys() if (_COPY in name) == copies]  # noqa: SIM118
                yield from ((name, file.get_tensor(name)) for name in names)
    except SafetensorError as error:
        raise Source(f"{adapter.directory}: its weights cannot be read ({error})") from error


def _load_adapter(model: PreTrainedModel, adapter: Adapter) -> PeftModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns where we raise
        try:
            # autocast would turn half-precision adapters into float32, another computation by 2 percent
            return PeftModel.from_pretrained(
                model, str(adapter.directory), is_trainable=False, autocast_adapter_dtype=False
            )
        except (RuntimeError, ValueError) as error:
            raise Mismatch(f"{adapter.directory}: it does not fit {type(model).__name__}: {error}") from error


def _check_adapter(adapted_model: PeftModel, adapter: Adapter, dtype: torch.dtype) -> int:
    """Compare an adapter's tensors in the model with its file's, bit by bit in the compute dtype; return how many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT takes the biases of lora_bias for shards that were not gathered
        state: dict[str, Any] = get_peft_model_state_dict(adapted_model, save_embedding_layers=False)
    stored = dict(_tensors(adapter, copies=False))
    missing, unexpected = sorted(state.keys() - stored.keys()), sorted(stored.keys() - state.keys())
    if missing or unexpected:
        raise Source(
            f"{adapter.directory}: its tensors do not match the base: missing {_some(missing)}, unexpected "
            f"{_some(unexpected)}; the adapter belongs to another base or is damaged"
        )
    dtypes = {tensor.dtype for tensor in state.values()}
    if dtypes != {dtype}:
        raise Source(f"{adapter.directory}: expected it to compute in {dtype}, got {dtypes}")
    others = sorted(name for name, tensor in state.items() if not _same_bits(tensor.cpu(), stored[name].to(dtype)))
    if others:
        raise Source(
            f"{adapter.directory}: the model does not hold what its file holds: {_some(others)}; PEFT changes these tensors "
            "when it loads them, and what would be computed is not this adapter"
        )
    return len(state)


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(*(one.contiguous().view(torch.uint8) for one in (a, b)))
