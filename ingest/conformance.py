"""The check at the start of every ingest: the hooks against the model's own states, and padded against alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from actlas.ingest.capture import Capture
from actlas.store import Source

N_PROBES = 4

# Relative difference of a prompt padded in a batch from the same prompt alone: beyond rounding, the model looks at what
# follows a token, or at its place from the right, and is no causal decoder.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}


@dataclass(frozen=True, kw_only=True)
class Conformance:
    """What the check found.

    Attributes
    ----------
    norm_width : int or None
        Features after the final norm; None where the backbone returns the last block's output itself.
    padded_against_alone : float
        Largest relative difference of a layer's states between the padded batch and each prompt alone, over those that
        are finite.
    """

    norm_width: int | None
    padded_against_alone: float


def choose_probes(token_ids: Sequence[list[int]]) -> list[list[int]]:
    """Return up to four prompts of different lengths, from the shortest to the median."""
    by_length = sorted(token_ids, key=len)
    chosen = {round(index * (len(by_length) - 1) / (2 * (N_PROBES - 1))) for index in range(N_PROBES)}
    return [by_length[index] for index in sorted(chosen)]


def check_conformance(model: PreTrainedModel, probes: Sequence[list[int]]) -> Conformance:
    """Compare captured states with the model's own, bit by bit in the compute dtype, on a few prompts.

    Raises
    ------
    Source
        When they differ, or when padding changes them beyond rounding.
    """
    depth = model.config.num_hidden_layers
    capture = Capture(model, range(depth + 1))
    states, final = capture(probes)
    own, own_final = _own_states(model, probes)
    has_norm = not _same(own_final, states[depth])
    # The model's own last entry is after the final norm; blocks before it are raw.
    raw_layers = depth if has_norm else depth + 1
    for layer in range(raw_layers):
        if not _same(states[layer], own[layer]):
            raise Source(f"{type(model).__name__}: layer {layer} is not the state that the model itself reports")
    if not _same(final, own_final):
        raise Source(f"{type(model).__name__}: the final state is not the one that the model itself reports")
    difference = _padded_against_alone(capture, probes, states)
    if difference > _TOLERANCE[model.dtype]:
        raise Source(
            f"{type(model).__name__}: a prompt's states change by {difference:.1e} when it is padded, expected at most "
            f"{_TOLERANCE[model.dtype]:.0e} in {model.dtype}; it is no causal decoder that this version can run"
        )
    return Conformance(norm_width=int(final.shape[1]) if has_norm else None, padded_against_alone=difference)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    # Half precision may overflow: such values are counted and kept, and NaN at the same place is the same value.
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _own_states(model: PreTrainedModel, probes: Sequence[list[int]]) -> tuple[list[torch.Tensor], torch.Tensor]:
    lengths = torch.tensor([len(ids) for ids in probes])
    padded = torch.zeros(len(probes), int(lengths.max()), dtype=torch.long)
    for row, ids in enumerate(probes):
        padded[row, : len(ids)] = torch.tensor(ids)
    with torch.inference_mode():
        output = model.base_model(input_ids=padded.to(model.device), use_cache=False, output_hidden_states=True)
    states = output.hidden_states
    if states is None or len(states) != model.config.num_hidden_layers + 1 or any(state is None for state in states):
        raise Source(f"{type(model).__name__}: it does not report its own hidden states, so captures cannot be checked")
    rows, last = torch.arange(len(probes)), lengths - 1
    return [state[rows, last] for state in states], output.last_hidden_state[rows, last]


def _padded_against_alone(capture: Capture, probes: Sequence[list[int]], states: torch.Tensor) -> float:
    alone = torch.cat([capture([ids])[0] for ids in probes], dim=1).double()
    together = states.double()
    scale = alone.norm(dim=2).clamp_min(torch.finfo(torch.float32).tiny)
    difference = (together - alone).norm(dim=2) / scale
    finite = alone.isfinite().all(dim=2) & together.isfinite().all(dim=2)
    return float(torch.where(finite, difference, 0.0).max())
