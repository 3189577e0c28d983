"""The noise floor of a checkpoint: how far its states move when nothing but the way of computing them changes."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from actlas.ingest.capture import Capture, States
from actlas.ingest.checkpoint import quiet_transformers
from actlas.ingest.positions import Parts

N_SAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A few prompts of a planned batch, with the states that were computed in it.

    Attributes
    ----------
    token_ids : list of list of int
        Their tokens.
    parts : list of Parts
        What these are.
    states : (n_layers, n_prompts, n_features)
        On the model's device; at the first position, or of the last token where only ``all`` is kept.
    """

    token_ids: list[list[int]]
    parts: list[Parts]
    states: torch.Tensor


def sample_of(token_ids: Sequence[list[int]], parts: Sequence[Parts], captured: States) -> Sample:
    """Return the sample of a batch: prompts spread over its lengths."""
    n_samples = min(N_SAMPLES, len(token_ids))
    rows = [index * len(token_ids) // n_samples for index in range(n_samples)]
    states = captured.representative([len(ids) for ids in token_ids])
    return Sample(
        token_ids=[token_ids[row] for row in rows],
        parts=[parts[row] for row in rows],
        states=states[:, rows].clone(),
    )


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """What the checkpoint's own re-computation differs by, for each layer that is kept, at the first position.

    Where only ``all`` is kept, it is measured at each prompt's last token.

    Attributes
    ----------
    layers : tuple of int
        The layers.
    batch_against_alone : tuple of float
        Mean relative difference of a prompt's states between its planned batch and alone, over the prompts whose states
        are finite; None where there are none.
    sdpa_against_eager : tuple of float, or None
        The same between the fast attention kernels and the plain one, alone; None where there is only one of them.
    cka : tuple of float
        Debiased CKA of the states in the planned batch with those alone; None where it is undefined.
    """

    layers: tuple[int, ...]
    batch_against_alone: tuple[float | None, ...]
    sdpa_against_eager: tuple[float | None, ...] | None
    cka: tuple[float | None, ...]


def noise_floor(model: PreTrainedModel, capture: Capture, sample: Sample) -> NoiseFloor:
    """Compute a sample again, each prompt alone, and with plain attention.

    Parameters
    ----------
    model : PreTrainedModel
        The model, an adapter under it or not; its attention is put back.
    capture : Capture
        What computed the sample.
    sample : Sample
        Prompts and states of one planned batch.
    """
    planned, alone = sample.states.double(), _alone(capture, sample)
    with _plain_attention(model) as is_another:
        eager = _alone(capture, sample) if is_another else None
    return NoiseFloor(
        layers=capture.layers,
        batch_against_alone=_relative(planned, alone),
        sdpa_against_eager=None if eager is None else _relative(eager, alone),
        cka=tuple(debiased_cka(x, y) for x, y in zip(planned, alone, strict=True)),
    )


def _alone(capture: Capture, sample: Sample) -> torch.Tensor:
    return torch.cat(
        [
            capture([ids], [parts]).representative([len(ids)])
            for ids, parts in zip(sample.token_ids, sample.parts, strict=True)
        ],
        dim=1,
    ).double()


@contextmanager
def _plain_attention(model: PreTrainedModel) -> Iterator[bool]:
    """Run the model with plain attention inside; say whether that is another one than its own."""
    own = model.config._attn_implementation
    with quiet_transformers():
        model.set_attn_implementation("eager")  # where it cannot be set, transformers only warns
    try:
        yield model.config._attn_implementation != own
    finally:
        model.set_attn_implementation(own)


def _relative(a: torch.Tensor, b: torch.Tensor) -> tuple[float | None, ...]:
    difference = (a - b).norm(dim=2) / b.norm(dim=2).clamp_min(torch.finfo(torch.float32).tiny)
    finite = [row[row.isfinite()] for row in difference]  # an infinity minus itself says nothing
    return tuple(float(row.mean()) if len(row) else None for row in finite)


def debiased_cka(x: torch.Tensor, y: torch.Tensor) -> float | None:
    """Return debiased linear CKA (Song et al. 2012, eq. 5) of (n, p) and (n, q) in float64.

    None for fewer than 4 rows, constant rows and rows that are not finite.
    """
    if len(x) < 4:
        return None
    p, q = (_u_centred(states.double()) for states in (x, y))
    value = float((p * q).sum() / ((p * p).sum() * (q * q).sum()).sqrt())
    return value if math.isfinite(value) else None


def _u_centred(states: torch.Tensor) -> torch.Tensor:
    n, centred = len(states), states - states.mean(dim=0)
    gram = centred @ centred.T
    diagonal = gram.diagonal()
    p = gram + (diagonal[:, None] + diagonal) / (n - 2) - diagonal.sum() / ((n - 1) * (n - 2))
    return p.fill_diagonal_(0.0)
