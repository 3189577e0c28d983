"""The check at the start of every ingest: the hooks against the model's own states, and padded against alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from actlas.ingest.capture import Capture, States, every_token, model_inputs, reducer, seen_by_blocks
from actlas.ingest.families import CAUSAL, Family
from actlas.ingest.outputs import Outputs, check_outputs
from actlas.ingest.positions import ALL, Parts, spans, whole_prompts
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


def choose_probes(lengths: Sequence[int]) -> list[int]:
    """Return up to four examples of different lengths, from the shortest to the median."""
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    chosen = {round(index * (len(by_length) - 1) / (2 * (N_PROBES - 1))) for index in range(N_PROBES)}
    return [by_length[index] for index in sorted(chosen)]


def check_conformance(
    model: PreTrainedModel,
    probes: Sequence[list[int]],
    positions: Sequence[str] = ("last",),
    family: Family = CAUSAL,
    tolerance: float | None = None,
    parts: Sequence[Parts] | None = None,
    outputs: Outputs | None = None,
) -> Conformance:
    """Compare captured states with the model's own, bit by bit in the compute dtype, on a few prompts.

    Where outputs are kept, those of the head are compared with the model's own too.

    Raises
    ------
    Source
        When they differ, or when padding changes them beyond `tolerance`, by default the dtype's rounding.
    """
    depth, name = family.depth(model.config), type(model).__name__
    parts = parts or whole_prompts(probes)
    capture = Capture(model, range(depth + 1), positions, family)
    captured = capture(probes, parts)
    own = _own_states(model, probes, parts, positions, family)
    has_norm = not all(
        _same(theirs[-1], states[depth]) for theirs, (states, _) in zip(own, _each(captured), strict=True)
    )
    for theirs, (states, final) in zip(own, _each(captured), strict=True):
        # The model's own last entry is after the final norm; blocks before it are raw.
        for layer in range(depth if has_norm else depth + 1):
            if not _same(states[layer], theirs[layer]):
                raise Source(f"{name}: layer {layer} is not the state that the model itself reports")
        if not _same(final, theirs[-1]):
            raise Source(f"{name}: the final state is not the one that the model itself reports")
    difference = float(padded_against_alone(capture, probes, parts, captured).max())
    allowed = _TOLERANCE[model.dtype] if tolerance is None else tolerance
    if difference > allowed:
        raise Source(
            f"{name}: a prompt's states change by {difference:.1e} when it is padded, expected at most {allowed:.0e} in "
            f"{model.dtype}; it is no {family.kind} that this version can run"
        )
    if outputs is not None:
        check_outputs(model, outputs, model_inputs(model, probes, family), [len(ids) - 1 for ids in probes])
    return Conformance(norm_width=int(own[0][-1].shape[-1]) if has_norm else None, padded_against_alone=difference)


def _each(captured: States) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the states (n_layers, n_rows, n_features) and the final ones of every position, ``all`` last."""
    each = list(zip(captured.hidden, captured.final, strict=True))
    if captured.all_hidden is not None and captured.all_final is not None:
        each.append((captured.all_hidden, captured.all_final))
    return each


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    # Half precision may overflow: such values are counted and kept, and NaN at the same place is the same value.
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _own_states(
    model: PreTrainedModel,
    probes: Sequence[list[int]],
    parts: Sequence[Parts],
    positions: Sequence[str],
    family: Family,
) -> list[list[torch.Tensor]]:
    """Return for every position, ``all`` last, the model's own states of every layer and then its final ones."""
    with torch.inference_mode():
        output = model.base_model(**model_inputs(model, probes, family, parts), output_hidden_states=True)
    states = output.decoder_hidden_states if family.is_decoder_stack else output.hidden_states
    if states is None or len(states) != family.depth(model.config) + 1 or any(state is None for state in states):
        raise Source(f"{type(model).__name__}: it does not report its own hidden states, so captures cannot be checked")
    seen, seen_parts = seen_by_blocks(model, probes, parts, family)
    lengths = [len(ids) for ids in seen]
    chosen = [position for position in positions if position != ALL]
    reducers = [reducer(spans(position, seen_parts, lengths), model.device) for position in chosen]
    reducers += [every_token(lengths, model.device)] * (ALL in positions)
    return [[reduce(state) for state in (*states, output.last_hidden_state)] for reduce in reducers]


def padded_against_alone(
    capture: Capture, probes: Sequence[list[int]], parts: Sequence[Parts], captured: States
) -> torch.Tensor:
    """Return the largest relative difference of each layer between a batch and each of its prompts alone.

    Parameters
    ----------
    capture : Capture
        What ran the batch.
    probes, parts : sequence
        Tokens of its examples, and what they are.
    captured : States
        What it returned.

    Returns
    -------
    torch.Tensor
        (n_layers,) float64; rows that are not finite do not count.
    """
    one_by_one = [_each(capture([ids], [part])) for ids, part in zip(probes, parts, strict=True)]
    largest = []
    for number, (states, _) in enumerate(_each(captured)):
        alone, together = torch.cat([each[number][0] for each in one_by_one], dim=1).double(), states.double()
        scale = alone.norm(dim=2).clamp_min(torch.finfo(torch.float32).tiny)
        difference = (together - alone).norm(dim=2) / scale
        finite = alone.isfinite().all(dim=2) & together.isfinite().all(dim=2)
        largest.append(torch.where(finite, difference, 0.0).amax(dim=1))
    return torch.stack(largest).amax(dim=0)
