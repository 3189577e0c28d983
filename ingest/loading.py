"""Weights into memory: a base once, adapters swapped under it, every tensor accounted for."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel

from actlas.ingest.checkpoint import Adapter, Base, quiet_transformers
from actlas.store import Mismatch, Source

TORCH_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


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
        When the architecture is no causal decoder, or a tensor is missing, unexpected or of another shape.
    """
    try:
        with quiet_transformers():
            model, report = AutoModelForCausalLM.from_pretrained(
                base.directory,
                dtype=TORCH_DTYPES[dtype],
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise Source(f"{base.directory}: transformers cannot load it as a causal decoder: {error}") from error
    # The LM head is never run; everything else must be there, or it would be random without a word.
    prefix = f"{model.base_model_prefix}."
    missing = sorted(name for name in report["missing_keys"] if name.startswith(prefix))
    unexpected = sorted(report["unexpected_keys"])
    if missing or unexpected:
        raise Source(
            f"{base.directory}: its tensors are not those of {type(model).__name__}: "
            f"missing {_some(missing)}, unexpected {_some(unexpected)}; the checkpoint is incomplete or of another model"
        )
    return model.to(device).eval()


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
        When their shapes are another model's.
    """
    if adapter is None:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns where we raise
        try:
            # autocast would turn half-precision adapters into float32, another computation by 2 percent
            adapted_model = PeftModel.from_pretrained(
                model, str(adapter.directory), is_trainable=False, autocast_adapter_dtype=False
            )
        except SafetensorError as error:
            raise Source(f"{adapter.directory}: its weights cannot be read ({error})") from error
        except (RuntimeError, ValueError) as error:
            raise Mismatch(f"{adapter.directory}: it does not fit {type(model).__name__}: {error}") from error
    try:
        _check_adapter(adapted_model, adapter, model.dtype)
        adapted_model.eval()
        yield
    finally:
        adapted_model.unload()
        model.eval()


def _check_adapter(adapted_model: PeftModel, adapter: Adapter, dtype: torch.dtype) -> None:
    state: dict[str, Any] = get_peft_model_state_dict(adapted_model, save_embedding_layers=False)
    stored: set[str] = set()
    for path in adapter.directory.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            stored |= set(file.keys())
    missing, unexpected = sorted(state.keys() - stored), sorted(stored - state.keys())
    if missing or unexpected:
        raise Source(
            f"{adapter.directory}: its tensors do not match the base: missing {_some(missing)}, unexpected "
            f"{_some(unexpected)}; the adapter belongs to another base or is damaged"
        )
    dtypes = {tensor.dtype for tensor in state.values()}
    if dtypes != {dtype}:
        raise Source(f"{adapter.directory}: expected it to compute in {dtype}, got {dtypes}")
