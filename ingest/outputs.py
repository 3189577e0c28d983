"""Outputs: what a causal decoder puts out, computed from its final states at a few tokens, never at all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from actlas.ingest.positions import Parts
from actlas.store import Source

_N_TOP = 50
_ROWS = 128  # a vocabulary of 256,000 logits in float32 is 1 MiB a row

# Relative to the largest log-probability: logits of the head alone against those of the whole model.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}


def n_top(config: Any) -> int:
    """Return how many of the largest logits are kept: 50, or all of a smaller vocabulary."""
    return min(_N_TOP, int(config.vocab_size))


class Outputs:
    """Computes next-token distributions at the last token of each prompt, and the likelihood of each target.

    Parameters
    ----------
    model : PreTrainedModel
        A causal decoder.

    Raises
    ------
    Source
        When the model has no language-model head.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        head = model.get_output_embeddings()
        if head is None:
            raise Source(f"{type(model).__name__}: it has no language-model head, so there are no outputs to keep")
        self._head, self._n_top = head, n_top(model.config)
        self._cap = getattr(model.config, "final_logit_softcapping", None)

    def __call__(
        self, final: torch.Tensor, token_ids: Sequence[Sequence[int]], parts: Sequence[Parts]
    ) -> Mapping[str, torch.Tensor]:
        """Return the outputs of a batch.

        Parameters
        ----------
        final : (n_examples, n_tokens, n_features)
            What the backbone returns.
        token_ids : sequence of sequence of int
            Tokens of each example, those of its target among them.
        parts : sequence of Parts
            Where each prompt ends.

        Returns
        -------
        mapping
            ``top_token`` (n_examples, n_top) int32 and ``top_logit`` float32; ``log_sum_exp``, ``entropy`` and
            ``target_nll`` (n_examples,) float32, in nats; the last is summed over the target's tokens, each given those
            before it, and NaN where there is no target.
        """
        rows = torch.arange(len(parts), device=final.device)
        ends = torch.tensor([one.n_prompt - 1 for one in parts], device=final.device)
        found = [self._distributions(states) for states in torch.split(final[rows, ends], _ROWS)]
        outputs = {name: torch.cat([one[name] for one in found]) for name in found[0]}
        return outputs | {"target_nll": self._target_nll(final, token_ids, parts)}

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits of final states (n, n_features) in float32, (n, n_vocabulary)."""
        logits: torch.Tensor = self._head(states).float()
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)

    def _distributions(self, states: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.logits(states)
        top, log_sum_exp = logits.topk(self._n_top), logits.logsumexp(dim=1)
        log_probabilities = logits - log_sum_exp[:, None]
        entropy = torch.special.entr(log_probabilities.exp()).sum(dim=1)
        return {
            "top_token": top.indices.int(),
            "top_logit": top.values,
            "log_sum_exp": log_sum_exp,
            "entropy": entropy,
        }

    def _target_nll(
        self, final: torch.Tensor, token_ids: Sequence[Sequence[int]], parts: Sequence[Parts]
    ) -> torch.Tensor:
        n_targets = [len(ids) - one.n_prompt for ids, one in zip(token_ids, parts, strict=True)]
        if not any(n_targets):
            return torch.full((len(parts),), float("nan"), device=final.device)
        places = [
            (row, place, ids[place + 1])
            for row, (ids, one) in enumerate(zip(token_ids, parts, strict=True))
            for place in range(one.n_prompt - 1, len(ids) - 1)
        ]
        rows, before, targets = torch.tensor(places, device=final.device).unbind(dim=1)
        surprise = [
            torch.nn.functional.cross_entropy(self.logits(states), wanted, reduction="none")
            for states, wanted in zip(torch.split(final[rows, before], _ROWS), torch.split(targets, _ROWS), strict=True)
        ]
        return torch.stack([part.sum() for part in torch.split(torch.cat(surprise), n_targets)])


def check_outputs(model: PreTrainedModel, outputs: Outputs, inputs: Mapping[str, Any], ends: Sequence[int]) -> None:
    """Compare log-probabilities from the head alone with those of the whole model.

    Parameters
    ----------
    model : PreTrainedModel
        The model.
    outputs : Outputs
        What is checked.
    inputs : mapping
        What the model is called with, for a few prompts.
    ends : sequence of int
        Their last tokens.

    Raises
    ------
    Source
        When they differ: some architectures scale or shift what their head returns.
    """
    rows, places = torch.arange(len(ends), device=model.device), torch.tensor(ends, device=model.device)
    with torch.inference_mode():
        own = model(**inputs).logits[rows, places].float().log_softmax(dim=1)
        ours = outputs.logits(model.base_model(**inputs).last_hidden_state[rows, places]).log_softmax(dim=1)
    difference = float((own - ours).abs().max() / own.abs().max())
    if not difference <= _TOLERANCE[model.dtype]:
        raise Source(
            f"{type(model).__name__}: the log-probabilities that its head gives differ by {difference:.1e} from its own; it "
            "does more between final state and logits than this version knows, so leave --outputs out"
        )
