"""The proof of every swap: a base gives the states that it gave before any adapter, bit for bit, after each of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from actlas.ingest.capture import Capture
from actlas.ingest.checkpoint import Adapter, Base
from actlas.ingest.loading import adapted
from actlas.ingest.positions import ALL
from actlas.store import Mismatch
from actlas.store.digest import bytes_digest

_PROBE_LENGTHS = (2, 5, 12)


@dataclass(frozen=True, kw_only=True)
class Swap:
    """What was proven of an adapter under a resident base.

    Attributes
    ----------
    n_tensors : int
        Tensors of the adapter; those in the model are bit for bit its file's, in the dtype of the computation.
    n_probes : int
        Prompts on which the base was run before any adapter, and again after each.
    base_states : str
        Digest of what it gave, of every layer and token.
    n_before : int
        Adapters that were under the base before this one; after each of them it gave the same states.
    """

    n_tensors: int
    n_probes: int
    base_states: str
    n_before: int


class Swaps:
    """Adapters put under one base, one after the other, with a record of what the base gives without them.

    Parameters
    ----------
    model : PreTrainedModel
        The base in memory, without an adapter.
    base : Base
        What was loaded.
    """

    def __init__(self, model: PreTrainedModel, base: Base) -> None:
        self._model, self._base = model, base
        self._record: str | None = None
        self._n_done = 0

    @contextmanager
    def under(self, adapter: Adapter | None) -> Iterator[Swap | None]:
        """Put an adapter under the base, take it out again, and demand the base's own states; None is the base alone.

        Raises
        ------
        Mismatch
            When the base gives other states after the adapter than before all adapters.
        Source, Mismatch
            As `adapted` does.
        """
        if adapter is None:
            yield None
            return
        self._record = record = self._record or self._states()
        with adapted(self._model, adapter) as n_tensors:
            yield Swap(n_tensors=n_tensors, n_probes=len(_PROBE_LENGTHS), base_states=record, n_before=self._n_done)
        if self._states() != record:
            raise Mismatch(
                f"{adapter.directory}: after this adapter was taken out, the base {self._base.directory} gives other states "
                "than before it; nothing more is computed on it. Ingest this adapter in a run of its own, and report it: "
                "its way of changing the base is not known here"
            )
        self._n_done += 1

    def _states(self) -> str:
        """Return the digest of every layer's states of every token of the probes."""
        generator = torch.Generator().manual_seed(0)
        vocabulary = self._model.config.vocab_size
        probes = [torch.randint(vocabulary, (n,), generator=generator).tolist() for n in _PROBE_LENGTHS]
        layers = range(self._model.config.num_hidden_layers + 1)
        states = Capture(self._model, layers, (ALL,), self._base.family)(probes)
        assert states.all_hidden is not None
        assert states.all_final is not None
        parts = (states.all_hidden, states.all_final)
        return bytes_digest(b"".join(part.cpu().contiguous().view(torch.uint8).numpy().tobytes() for part in parts))
