"""Weights into memory: a base once, adapters swapped under it, every tensor accounted for."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from actlas.ingest.checkpoint import Adapter, Base, quiet_transformers
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
        When transformers cannot load it, or a tensor is missing, unexpected or of another shape.
    """
    try:
        with quiet_transformers():
            model, report = base.family.loader.from_pretrained(
                base.directory,
                dtype=TORCH_DTYPES[dtype],
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
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
    return model.to(device).eval()


def _is_run(name: str, model: PreTrainedModel) -> bool:
    """Return whether a tensor belongs to what computes hidden states, not to a head or a pooler."""
    part = name.removeprefix(f"{model.base_model_prefix}.").split(".")[0]
    return part in {own.split(".")[0] for own in model.base_model.state_dict()} - {"pooler"}


def _some(names: list[str]) -> str:
    return "none" if not names else ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@contextmanager
def adapted(model: PreTrainedModel, adapter: Adapter | None) -> Iterator[None]:
    """Put an adapter under the resident base, unmerged, and take it out again; the base's tensors are never written.

    Raises
    ------
    Source
        When the adapter's tensors are not those that its configuration asks for, or cannot be read.
    Mismatch
        When their shapes are another model's, or copies of the base's tensors are not the base's.
    """
    if adapter is None:
        yield
        return
    _check_copies(model, adapter)
    # PEFT's own unload() leaves an adapter's modules_to_save in the base: its modules are put back one by one.
    children = {module: dict(module._modules) for module in model.modules()}
    try:
        adapted_model = _load_adapter(model, adapter)
        _check_adapter(adapted_model, adapter, model.dtype)
        adapted_model.eval()
        yield
    finally:
        for module, own in children.items():
            module._modules.clear()
            module._modules.update(own)
        vars(model).pop("peft_config", None)
        model.eval()


def _check_copies(model: PreTrainedModel, adapter: Adapter) -> None:
    """Refuse an adapter whose copies of the base's tensors are others: PEFT would load them over the resident base."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for path in adapter.directory.glob("*.safetensors"):
        for name, tensor in _copies(path, adapter):
            own = parameters.get(name.removeprefix("base_model.model.").replace(_COPY, "."))
            if own is None or own.shape != tensor.shape or not torch.equal(own.cpu(), tensor.to(own.dtype)):
                raise Mismatch(
                    f"{adapter.directory}: it holds a copy of the base's own tensor {name}, and it is not the base's; the "
                    "adapter belongs to another base or to one with a changed vocabulary"
                )


def _copies(path: Path, adapter: Adapter) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            yield from ((name, file.get_tensor(name)) for name in file.keys() if _COPY in name)  # noqa: SIM118
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


def _check_adapter(adapted_model: PeftModel, adapter: Adapter, dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT takes the biases of lora_bias for shards that were not gathered
        state: dict[str, Any] = get_peft_model_state_dict(adapted_model, save_embedding_layers=False)
    stored: set[str] = set()
    for path in adapter.directory.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            stored |= {name for name in file.keys() if _COPY not in name}  # noqa: SIM118
    missing, unexpected = sorted(state.keys() - stored), sorted(stored - state.keys())
    if missing or unexpected:
        raise Source(
            f"{adapter.directory}: its tensors do not match the base: missing {_some(missing)}, unexpected "
            f"{_some(unexpected)}; the adapter belongs to another base or is damaged"
        )
    dtypes = {tensor.dtype for tensor in state.values()}
    if dtypes != {dtype}:
        raise Source(f"{adapter.directory}: expected it to compute in {dtype}, got {dtypes}")
