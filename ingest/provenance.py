"""Provenance: when, where and with what an entry was made."""

import socket
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from transformers import PreTrainedModel

from actlas.ingest.checkpoint import Checkpoint
from actlas.ingest.conformance import Conformance
from actlas.ingest.families import Family
from actlas.ingest.jobs import Job, Run
from actlas.ingest.noise import NoiseFloor
from actlas.ingest.passes import Timing
from actlas.ingest.swaps import Swap


def maker(model: PreTrainedModel) -> dict[str, Any]:
    """Return what the values may depend on beside the identity: a resumed entry must not mix two of these."""
    return {
        "device": _device_name(model),
        # On some CPUs two threads sum in another order than one.
        "threads": torch.get_num_threads() if model.device.type == "cpu" else None,
        "attention": str(model.config._attn_implementation),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }


def _device_name(model: PreTrainedModel) -> str:
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return f"{model.device.type} {torch.backends.cpu.get_cpu_capability()}"


def _named(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a checkpoint as the user named it; labels are kept beside the model, where they may change."""
    names = ("base", "revision", "adapter", "random_init", "stack", "name")
    return {name: getattr(checkpoint, name) for name in names} | {"trained_on": list(checkpoint.trained_on)}


def provenance(
    model: PreTrainedModel,
    family: Family,
    run: Run,
    job: Job,
    conformance: Conformance,
    swap: Swap | None,
    noise: NoiseFloor | None,
    timing: Timing,
) -> Mapping[str, Any]:
    """Return when, where and with what an entry was made."""
    n_tokens = sum(job.tokenized.lengths)
    versions = {name: version(name) for name in ("actlas", "torch", "transformers", "peft", "zarr", "numpy")}
    return {
        "started": timing.started.isoformat(timespec="seconds"),
        "seconds": round(timing.seconds, 3),
        "host": socket.gethostname(),
        **maker(model),
        "versions": versions,
        "checkpoint": _named(run.checkpoint),
        "off_target": asdict(run.draw) | {"tasks": list(run.draw.tasks)} if run.draw else None,
        "family": family.kind,
        "is_batch_dependent": family.is_batch_dependent,
        "batch_tokens": job.plan.batch_tokens,
        "n_tokens": n_tokens,
        "padding_share": round(1 - n_tokens / job.plan.n_padded, 6),
        "tokens_per_second": round(timing.n_tokens / timing.seconds, 1),
        "n_resumed": timing.n_resumed,
        "n_truncated": job.tokenized.n_truncated,
        "n_duplicates": job.task.n_duplicates,
        "n_available": job.task.n_available,
        "seed": job.task.seed,
        "conformance": asdict(conformance),
        "swap": None if swap is None else asdict(swap),
        "noise_floor": None if noise is None else asdict(noise),
    }
