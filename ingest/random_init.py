"""Random initialisation: the untrained network of a checkpoint's own configuration, the baseline of what training adds."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from actlas.ingest.families import Family
from actlas.store.digest import bytes_digest, json_digest


@dataclass(frozen=True, kw_only=True)
class RandomInit:
    """Random weights that were made once, and can be made again.

    Attributes
    ----------
    seed : int
        Seed of torch's generator on the CPU.
    digest : str
        Digest of the weights themselves: the seed alone does not name them, for other versions of torch and transformers,
        and CPUs with other vector instructions, may draw others from it.
    n_bytes : int
        Bytes of the parameters, tied ones once.
    """

    seed: int
    digest: str
    n_bytes: int


def random_model(config: Any, family: Family, seed: int) -> PreTrainedModel:
    """Return a model with the weights that transformers initialises it with under a seed, in the configuration's dtype.

    It is made on the CPU, whatever device it runs on later, and torch's global generator is left as it was.

    Parameters
    ----------
    config : transformers configuration
        The checkpoint's; it is not changed.
    family : Family
        How the checkpoint is loaded.
    seed : int
        Seed of the initialisation.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        model: PreTrainedModel = family.loader.from_config(copy.deepcopy(config))
    return model


def describe(model: PreTrainedModel, seed: int) -> RandomInit:
    """Return what a model that `random_model` made with this seed is known by."""
    state = {
        name: [str(tensor.dtype), list(tensor.shape), _digest(tensor)] for name, tensor in model.state_dict().items()
    }
    n_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return RandomInit(seed=seed, digest=json_digest(state), n_bytes=n_bytes)


def _digest(tensor: torch.Tensor) -> str:
    return bytes_digest(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
