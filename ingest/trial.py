"""The trial: an architecture outside the table is run on a small random model of its own configuration first."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from actlas.ingest.checkpoint import Base, quiet_transformers
from actlas.ingest.conformance import check_conformance
from actlas.store import Source

_TOLERANCE = (
    1e-4  # in float32: rounding makes 2e-5 of it in mixtures of experts, a token that sees the padding over 1e-3
)
_VOCABULARY = 512
_HEAD_DIM = 16
_PROBE_LENGTHS = (3, 8, 13, 21)


def check_unknown(base: Base) -> None:
    """Run a family outside the table with random weights: hooks against its own states, padded against alone.

    Raises
    ------
    Source
        When it differs, with the difference, or when no small model of its kind can be made.
    """
    if base.family.is_known:
        return
    model = _small_model(base)
    generator = torch.Generator().manual_seed(0)
    probes = [torch.randint(3, _VOCABULARY, (n,), generator=generator).tolist() for n in _PROBE_LENGTHS]
    try:
        check_conformance(model, probes, ("last", "mean"), base.family, _TOLERANCE)
    except Source as error:
        raise Source(
            f"{base.directory}: {base.config.model_type} is not in the table of architectures, and a small random model of "
            f"it failed the trial: {error}"
        ) from error


def _small_model(base: Base) -> PreTrainedModel:
    failure: Exception | None = None
    for changes in _changes(base.config):
        try:
            config = _changed(base.config, changes)
            with torch.random.fork_rng(devices=[]), quiet_transformers():
                torch.manual_seed(0)
                model: PreTrainedModel = base.family.loader.from_config(config, dtype=torch.float32).eval()
                with torch.inference_mode():
                    model.base_model(input_ids=torch.tensor([[3, 4]])).last_hidden_state  # noqa: B018
                return model
        except Exception as error:  # every architecture has its own demands on its sizes
            failure = error
    raise Source(
        f"{base.directory}: {base.config.model_type} is not in the table of architectures, and no small model of it can be "
        f"made to try it ({failure})"
    ) from failure


def _changes(config: Any) -> Iterator[dict[str, Any]]:
    """Yield what makes a configuration small: few layers of small width first, then of its own."""
    few = {"vocab_size": _VOCABULARY, "num_hidden_layers": _n_layers(config), "initializer_range": 0.2}
    width = getattr(config, "num_attention_heads", 4) * _HEAD_DIM
    yield few | {"hidden_size": width, "intermediate_size": 64, "moe_intermediate_size": 32, "head_dim": _HEAD_DIM}
    yield few


def _changed(config: Any, changes: dict[str, Any]) -> Any:
    content = config.to_dict()
    for name, value in changes.items():
        own = config.attribute_map.get(name, name)
        if content.get(own) is not None:
            content[own] = value
    for name, value in content.items():
        if name.endswith("_token_id") and value is not None:
            content[name] = 1
        if isinstance(value, list) and len(value) == config.num_hidden_layers:  # one for each layer
            content[name] = value[: changes["num_hidden_layers"]]
    return type(config).from_dict(content)


def _n_layers(config: Any) -> int:
    """Return how many layers show one of each kind, two at least."""
    kinds = list(getattr(config, "layer_types", None) or ())
    return min(int(config.num_hidden_layers), max([2, *(kinds.index(kind) + 1 for kind in set(kinds))]))
