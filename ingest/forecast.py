"""The forecast of an ingest: entries, tokens, bytes, and the least time that it can take."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from actlas.ingest.jobs import Resident, all_jobs, passes
from actlas.ingest.loading import TORCH_DTYPES
from actlas.ingest.peaks import peak_rate
from actlas.ingest.progress import Forecast
from actlas.store.dtype import stored_dtype


class Speed(NamedTuple):
    """Operations a second: those of a matrix product, and the most that the device can do, where it is known."""

    measured: float
    peak: float | None


def forecast_of(root: Path, residents: Sequence[Resident], n_present: int, speed: Callable[[], Speed]) -> Forecast:
    """Return what an ingest will do, from plans, sizes and the speed of its devices; no model runs."""
    jobs = list(all_jobs(residents))
    passed = [(resident, jobs[0]) for resident in residents for run in resident.runs for jobs in passes(run.jobs)]
    existing = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    n_bytes = sum(
        len(resident.layers) * job.n_rows * resident.base.config.hidden_size * stored_dtype(resident.dtype).itemsize
        for resident, job in jobs
    )
    found = speed() if jobs else None
    n_padded = sum(job.plan.n_padded for _, job in passed)
    operations = sum(2 * _n_parameters(resident) * job.plan.n_padded for resident, job in passed)
    return Forecast(
        n_entries=len(jobs),
        n_present=n_present,
        n_examples=sum(len(job.task) for _, job in passed),
        n_tokens=sum(sum(job.tokenized.lengths) for _, job in passed),
        n_padded=n_padded,
        n_bytes=n_bytes,
        free_bytes=shutil.disk_usage(existing).free,
        least_seconds=0.0 if found is None else operations / found.measured,
        operations_per_token=operations / n_padded if jobs else 0.0,
        peak_operations=None if found is None else found.peak,
    )


def _n_parameters(resident: Resident) -> int:
    own = str(resident.base.config.dtype or "float32").removeprefix("torch.")  # the files', not what is computed in
    return resident.base.n_weight_bytes // int(getattr(torch, own).itemsize)


def speed_of(device: str, dtype: str) -> Speed:
    """Measure a device."""
    return Speed(_matrix_rate(device, dtype), peak_rate(device, dtype))


def _matrix_rate(device: str, dtype: str) -> float:
    """Return the operations a second of a matrix product on a device."""
    size = 4096 if device.startswith("cuda") else 1024
    matrix = torch.ones(size, size, dtype=TORCH_DTYPES[dtype], device=device)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return float(2 * size**3 / best)
