"""Capture: forward hooks that keep the last prompt token of every layer and nothing else."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from transformers import PreTrainedModel

from actlas.store import Source


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


class Capture:
    """Runs a backbone over right-padded batches and returns the states at each prompt's last token.

    Causal decoders need no mask under right padding: a token sees only those before it, and without a mask the fast
    attention kernel is used.

    Parameters
    ----------
    model : PreTrainedModel
        A causal decoder, in eval mode.
    layers : sequence of int
        Layers to keep, ascending: 0 is the input of the first block, l the raw output of block l.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        self._backbone = model.base_model
        self._blocks = find_blocks(model)
        self._layers = tuple(layers)
        self._width = int(model.config.hidden_size)
        self._buffer = torch.empty(0)
        self._last = torch.empty(0)

    def __call__(self, token_ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Run one batch.

        Parameters
        ----------
        token_ids : sequence of sequence of int
            Tokens of each example.

        Returns
        -------
        hidden_states : (n_layers, n_examples, n_features)
            Raw states in the model's dtype, on its device.
        final : (n_examples, n_norm_features)
            What the backbone returns, after the final norm where there is one.
        """
        device, dtype = self._backbone.device, self._backbone.dtype
        lengths = torch.tensor([len(ids) for ids in token_ids], device=device)
        padded = torch.zeros(len(token_ids), int(lengths.max()), dtype=torch.long)
        for row, ids in enumerate(token_ids):
            padded[row, : len(ids)] = torch.tensor(ids)
        self._last = lengths - 1
        self._buffer = torch.empty(len(self._layers), len(token_ids), self._width, dtype=dtype, device=device)
        with ExitStack() as hooks, torch.inference_mode():
            for place, layer in enumerate(self._layers):
                hooks.enter_context(self._hook(place, layer))
            final = self._backbone(input_ids=padded.to(device), use_cache=False).last_hidden_state
            return self._buffer, self._at_last(final)

    def _at_last(self, states: torch.Tensor) -> torch.Tensor:
        # Indexing copies: a slice would keep the states of all tokens alive.
        return states[torch.arange(len(states), device=states.device), self._last]

    def _hook(self, place: int, layer: int) -> Any:
        def keep(states: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
            # Some families' blocks return a tensor, some a tuple; a tensor's [0] would be the first example.
            self._buffer[place] = self._at_last(states[0] if isinstance(states, tuple) else states)

        def before(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(args[0] if args else kwargs["hidden_states"])

        def after(_module: torch.nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            keep(output)

        if layer == 0:
            return self._blocks[0].register_forward_pre_hook(before, with_kwargs=True)
        return self._blocks[layer - 1].register_forward_hook(after)
