"""Capture: forward hooks that keep a few positions of every layer and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from actlas.ingest.families import CAUSAL, Family
from actlas.ingest.outputs import Outputs
from actlas.ingest.positions import ALL, Parts, Span, spans, whole_prompts
from actlas.store import Source

Reduce = Callable[[torch.Tensor], torch.Tensor]


class States(NamedTuple):
    """What is kept of a batch.

    Attributes
    ----------
    hidden : (n_positions, n_layers, n_examples, n_features)
        Raw states at the positions that are one row an example, in the model's dtype, on its device.
    final : (n_positions, n_examples, n_norm_features)
        What the backbone returns there, after the final norm where there is one.
    all_hidden, all_final : (n_layers, n_tokens, n_features), (n_tokens, n_norm_features)
        Those of every token, example after example; None where not asked for.
    outputs : mapping of tensors, or None
        What the model puts out, as `Outputs` returns it.
    """

    hidden: torch.Tensor
    final: torch.Tensor
    all_hidden: torch.Tensor | None = None
    all_final: torch.Tensor | None = None
    outputs: Mapping[str, torch.Tensor] | None = None

    def representative(self, lengths: Sequence[int]) -> torch.Tensor:
        """Return (n_layers, n_examples, n_features): the first position, or each example's last token of all."""
        if self.all_hidden is None or len(self.hidden):
            return self.hidden[0]
        return self.all_hidden[:, torch.tensor(lengths).cumsum(0) - 1]


def find_blocks(model: PreTrainedModel, family: Family = CAUSAL) -> torch.nn.ModuleList:
    """Return the model's blocks: the one list of as many modules of a class in `_no_split_modules` as it has layers.

    Raises
    ------
    Source
        When there is no such list, or more than one.
    """
    classes, depth = set(model._no_split_modules or ()), family.depth(model.config)
    place = model.base_model.get_decoder() if family.is_decoder_stack else model.base_model
    found = [
        module
        for module in place.modules()
        if isinstance(module, torch.nn.ModuleList)
        and len(module) == depth
        and {type(block).__name__ for block in module} <= classes
    ]
    if len(found) != 1:
        raise Source(
            f"{type(model).__name__}: expected one list of {depth} blocks of {sorted(classes)}, got {len(found)}"
        )
    return found[0]


def model_inputs(
    model: PreTrainedModel, token_ids: Sequence[Sequence[int]], family: Family, parts: Sequence[Parts] | None = None
) -> dict[str, Any]:
    """Return what a backbone is called with for a batch, padded on the right; a decoder stack needs the parts."""
    if not family.masks:
        return {"input_ids": _padded(token_ids, 0).to(model.device), "use_cache": False}  # nothing sees the padding
    padding, inputs = model.config.pad_token_id or 0, dict[str, Any]()
    if family.is_decoder_stack:
        assert parts is not None
        # causal: what stands behind a target is seen by none of its tokens
        decoder_ids = _padded(seen_by_blocks(model, token_ids, parts, family)[0], padding)
        inputs = {"decoder_input_ids": decoder_ids.to(model.device), "use_cache": False}
        token_ids = [ids[: one.n_prompt] for ids, one in zip(token_ids, parts, strict=True)]
    padded, lengths = _padded(token_ids, padding), torch.tensor([len(ids) for ids in token_ids])
    mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
    return {"input_ids": padded.to(model.device), "attention_mask": mask.to(model.device), **inputs}


def _padded(token_ids: Sequence[Sequence[int]], padding: int) -> torch.Tensor:
    padded = torch.full((len(token_ids), max(map(len, token_ids))), padding)
    for row, ids in enumerate(token_ids):
        padded[row, : len(ids)] = torch.tensor(ids)
    return padded


def seen_by_blocks(
    model: PreTrainedModel, token_ids: Sequence[Sequence[int]], parts: Sequence[Parts], family: Family
) -> tuple[Sequence[Sequence[int]], Sequence[Parts]]:
    """Return the tokens that pass the captured blocks, and what they are.

    For a decoder stack they are the start token, from which the first token of the target is predicted as it is from a
    prompt's last token, and the target's: the start token stands for the prompt.
    """
    if not family.is_decoder_stack:
        return token_ids, parts
    start = model.config.decoder_start_token_id
    return [[start, *ids[one.n_prompt :]] for ids, one in zip(token_ids, parts, strict=True)], [Parts(1)] * len(parts)


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


def every_token(lengths: Sequence[int], device: torch.device) -> Reduce:
    """Return what lays the states of a batch out as rows: every token of the first example, then of the second, ..."""
    each = torch.tensor(lengths)
    rows = torch.arange(len(lengths)).repeat_interleave(each)
    places = torch.arange(len(rows)) - (each.cumsum(0) - each).repeat_interleave(each)
    rows, places = rows.to(device), places.to(device)
    return lambda states: states[rows, places]


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
    outputs : Outputs, optional
        Computes what the model puts out, from its final states.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layers: Sequence[int],
        positions: Sequence[str] = ("last",),
        family: Family = CAUSAL,
        outputs: Outputs | None = None,
    ) -> None:
        self._model, self._family, self._outputs = model, family, outputs
        self._blocks = find_blocks(model, family)
        self._layers = tuple(layers)
        self._positions = tuple(position for position in positions if position != ALL)
        self._keeps_all = ALL in positions
        self._width = int(model.config.hidden_size)
        self._buffer = self._all_buffer = torch.empty(0)
        self._reducers: list[Reduce] = []
        self._lay_out: Reduce | None = None

    @property
    def layers(self) -> tuple[int, ...]:
        """What is kept."""
        return self._layers

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self._model.device)

    def __call__(self, token_ids: Sequence[Sequence[int]], parts: Sequence[Parts] | None = None) -> States:
        """Run one batch.

        Parameters
        ----------
        token_ids : sequence of sequence of int
            Tokens of each example.
        parts : sequence of Parts, optional
            What they are; by default all are the prompt's.
        """
        model, parts = self._model, parts or whole_prompts(token_ids)
        seen, seen_parts = seen_by_blocks(model, token_ids, parts, self._family)
        lengths = [len(ids) for ids in seen]
        self._reducers = [reducer(spans(position, seen_parts, lengths), model.device) for position in self._positions]
        self._lay_out = every_token(lengths, model.device) if self._keeps_all else None
        self._buffer = self._empty(len(self._positions), len(self._layers), len(token_ids), self._width)
        self._all_buffer = (
            self._empty(len(self._layers), sum(lengths), self._width) if self._keeps_all else self._empty(0)
        )
        with ExitStack() as hooks, torch.inference_mode():
            for place, layer in enumerate(self._layers):
                hooks.enter_context(self._hook(place, layer))
            final = model.base_model(**model_inputs(model, token_ids, self._family, parts)).last_hidden_state
            kept = [reduce(final) for reduce in self._reducers]
            states = States(
                hidden=self._buffer,
                final=torch.stack(kept) if kept else self._empty(0, len(token_ids), final.shape[-1]),
                all_hidden=None if self._lay_out is None else self._all_buffer,
                all_final=None if self._lay_out is None else self._lay_out(final),
                outputs=None if self._outputs is None else self._outputs(final, token_ids, parts),
            )
        self._buffer = self._all_buffer = self._empty(0)  # or the states of this batch would live through the next
        return states

    def _empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self._model.dtype, device=self._model.device)

    def _hook(self, place: int, layer: int) -> Any:
        def keep(states: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
            # Some families' blocks return a tensor, some a tuple; a tensor's [0] would be the first example.
            whole = states[0] if isinstance(states, tuple) else states
            for position, reduce in enumerate(self._reducers):
                self._buffer[position, place] = reduce(whole)
            if self._lay_out is not None:
                self._all_buffer[place] = self._lay_out(whole)

        def before(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(args[0] if args else kwargs["hidden_states"])

        def after(_module: torch.nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            keep(output)

        if layer == 0:
            return self._blocks[0].register_forward_pre_hook(before, with_kwargs=True)
        return self._blocks[layer - 1].register_forward_hook(after)
