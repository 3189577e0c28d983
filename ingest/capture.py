"""Capture: forward hooks that keep a few positions of every layer and nothing else."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from transformers import PreTrainedModel

from actlas.ingest.families import CAUSAL, Family
from actlas.ingest.positions import Span, spans
from actlas.store import Source

Reduce = Callable[[torch.Tensor], torch.Tensor]


def find_blocks(model: PreTrainedModel) -> torch.nn.ModuleList:
    """Return the model's blocks: the one list of `num_hidden_layers` modules of a class in `_no_split_modules`.

    Raises
    ------
    Source
        When there is no such list, or more than one.
    """
    classes, depth = set(model._no_split_modules or ()), model.config.num_hidden_layers
    found = [
        module
        for module in model.base_model.modules()
        if isinstance(module, torch.nn.ModuleList)
        and len(module) == depth
        and {type(block).__name__ for block in module} <= classes
    ]
    if len(found) != 1:
        raise Source(
            f"{type(model).__name__}: expected one list of {depth} blocks of {sorted(classes)}, got {len(found)}"
        )
    return found[0]


def model_inputs(model: PreTrainedModel, token_ids: Sequence[Sequence[int]], family: Family) -> dict[str, Any]:
    """Return what a backbone is called with for a batch, padded on the right."""
    lengths = torch.tensor([len(ids) for ids in token_ids])
    padding = model.config.pad_token_id if family.masks else None  # without a mask nothing sees the padding
    padded = torch.full((len(token_ids), int(lengths.max())), padding or 0)
    for row, ids in enumerate(token_ids):
        padded[row, : len(ids)] = torch.tensor(ids)
    device = model.device
    if family.masks:
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        return {"input_ids": padded.to(device), "attention_mask": mask.to(device)}
    return {"input_ids": padded.to(device), "use_cache": False}


def reducer(spans: Sequence[Span], device: torch.device) -> Reduce:
    """Return what reduces the states of a batch, (n, tokens, features), to a span of each prompt, (n, features).

    Spans of one token are copied bit for bit; longer ones are averaged in float32.
    """
    start, stop = torch.tensor(spans, device=device).unbind(dim=1)
    if all(last - first == 1 for first, last in spans):
        rows = torch.arange(len(spans), device=device)
        # Indexing copies: a slice would keep the states of all tokens alive.
        return lambda states: states[rows, start]

    def mean(states: torch.Tensor) -> torch.Tensor:
        places = torch.arange(states.shape[1], device=device)
        outside = (places < start[:, None]) | (places >= stop[:, None])
        # What stands outside is replaced, not multiplied by zero: padding may hold infinities.
        total: torch.Tensor = states.float().masked_fill(outside[:, :, None], 0.0).sum(dim=1)
        return (total / (stop - start)[:, None]).to(states.dtype)

    return mean


class Capture:
    """Runs a backbone over right-padded batches and returns the states at chosen positions.

    Parameters
    ----------
    model : PreTrainedModel
        The model, in eval mode.
    layers : sequence of int
        Layers to keep, ascending: 0 is the input of the first block, l the raw output of block l.
    positions : sequence of str
        What to keep of each prompt.
    family : Family
        How it is run.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layers: Sequence[int],
        positions: Sequence[str] = ("last",),
        family: Family = CAUSAL,
    ) -> None:
        self._model, self._family = model, family
        self._blocks = find_blocks(model)
        self._layers, self._positions = tuple(layers), tuple(positions)
        self._width = int(model.config.hidden_size)
        self._buffer = torch.empty(0)
        self._reducers: list[Reduce] = []

    @property
    def layers(self) -> tuple[int, ...]:
        """What is kept."""
        return self._layers

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self._model.device)

    def __call__(self, token_ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Run one batch.

        Parameters
        ----------
        token_ids : sequence of sequence of int
            Tokens of each example.

        Returns
        -------
        hidden_states : (n_positions, n_layers, n_examples, n_features)
            Raw states in the model's dtype, on its device.
        final : (n_positions, n_examples, n_norm_features)
            What the backbone returns, after the final norm where there is one.
        """
        model, lengths = self._model, [len(ids) for ids in token_ids]
        self._reducers = [reducer(spans(position, lengths), model.device) for position in self._positions]
        shape = (len(self._positions), len(self._layers), len(token_ids), self._width)
        self._buffer = torch.empty(shape, dtype=model.dtype, device=model.device)
        with ExitStack() as hooks, torch.inference_mode():
            for place, layer in enumerate(self._layers):
                hooks.enter_context(self._hook(place, layer))
            final = model.base_model(**model_inputs(model, token_ids, self._family)).last_hidden_state
            return self._buffer, torch.stack([reduce(final) for reduce in self._reducers])

    def _hook(self, place: int, layer: int) -> Any:
        def keep(states: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
            # Some families' blocks return a tensor, some a tuple; a tensor's [0] would be the first example.
            whole = states[0] if isinstance(states, tuple) else states
            for position, reduce in enumerate(self._reducers):
                self._buffer[position, place] = reduce(whole)

        def before(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(args[0] if args else kwargs["hidden_states"])

        def after(_module: torch.nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            keep(output)

        if layer == 0:
            return self._blocks[0].register_forward_pre_hook(before, with_kwargs=True)
        return self._blocks[layer - 1].register_forward_hook(after)
