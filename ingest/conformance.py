"""The check at the start of every ingest: the hooks against the model's own states, and padded against alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from actlas.ingest.capture import Capture, model_inputs, reducer
from actlas.ingest.families import CAUSAL, Family
from actlas.ingest.positions import spans
from actlas.store import Source

N_PROBES = 4

# Relative difference of a prompt padded in a batch from the same prompt alone: beyond rounding, the model looks at what
# follows a token, or at its place from the right, and cannot be run so.
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


def check_conformance(
    model: PreTrainedModel,
    probes: Sequence[list[int]],
    positions: Sequence[str] = ("last",),
    family: Family = CAUSAL,
    tolerance: float | None = None,
) -> Conformance:
    """Compare captured states with the model's own, bit by bit in the compute dtype, on a few prompts.

    Raises
    ------
    Source
        When they differ, or when padding changes them beyond `tolerance`, by default the dtype's rounding.
    """
    depth, name = model.config.num_hidden_layers, type(model).__name__
    capture = Capture(model, range(depth + 1), positions, family)
    states, final = capture(probes)
    own, own_final = _own_states(model, probes, positions, family)
    has_norm = not _same(own_final, states[:, depth])
    # The model's own last entry is after the final norm; blocks before it are raw.
    for layer in range(depth if has_norm else depth + 1):
        if not _same(states[:, layer], own[layer]):
            raise Source(f"{name}: layer {layer} is not the state that the model itself reports")
    if not _same(final, own_final):
        raise Source(f"{name}: the final state is not the one that the model itself reports")
    difference = float(padded_against_alone(capture, probes, states).max())
    allowed = _TOLERANCE[model.dtype] if tolerance is None else tolerance
    if difference > allowed:
        raise Source(
            f"{name}: a prompt's states change by {difference:.1e} when it is padded, expected at most {allowed:.0e} in "
            f"{model.dtype}; it is no {family.kind} that this version can run"
        )
    return Conformance(norm_width=int(final.shape[-1]) if has_norm else None, padded_against_alone=difference)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    # Half precision may overflow: such values are counted and kept, and NaN at the same place is the same value.
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _own_states(
    model: PreTrainedModel, probes: Sequence[list[int]], positions: Sequence[str], family: Family
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the model's own states of every layer and its final ones, each (n_positions, n_examples, n_features)."""
    with torch.inference_mode():
        output = model.base_model(**model_inputs(model, probes, family), output_hidden_states=True)
    states = output.hidden_states
    if states is None or len(states) != model.config.num_hidden_layers + 1 or any(state is None for state in states):
        raise Source(f"{type(model).__name__}: it does not report its own hidden states, so captures cannot be checked")
    lengths = [len(ids) for ids in probes]
    reducers = [reducer(spans(position, lengths), model.device) for position in positions]
    reduced = [torch.stack([reduce(state) for reduce in reducers]) for state in (*states, output.last_hidden_state)]
    return reduced[:-1], reduced[-1]


def padded_against_alone(capture: Capture, probes: Sequence[list[int]], states: torch.Tensor) -> torch.Tensor:
    """Return the largest relative difference of each layer between a batch and each of its prompts alone.

    Parameters
    ----------
    capture : Capture
        What ran the batch.
    probes : sequence of list of int
        Tokens of its prompts.
    states : (n_positions, n_layers, n_examples, n_features)
        What it returned.

    Returns
    -------
    torch.Tensor
        (n_layers,) float64; rows that are not finite do not count.
    """
    alone = torch.cat([capture([ids])[0] for ids in probes], dim=2).double()
    together = states.double()
    scale = alone.norm(dim=3).clamp_min(torch.finfo(torch.float32).tiny)
    difference = (together - alone).norm(dim=3) / scale
    finite = alone.isfinite().all(dim=3) & together.isfinite().all(dim=3)
    return torch.where(finite, difference, 0.0).amax(dim=(0, 2))
