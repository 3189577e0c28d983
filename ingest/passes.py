"""One pass: a checkpoint over the prompts of one task, for all positions that are wanted, superblock by superblock."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from actlas.ingest.capture import Capture
from actlas.ingest.jobs import Job
from actlas.ingest.noise import Sample, sample_of
from actlas.ingest.pipeline import Pipeline
from actlas.ingest.plan import Batch
from actlas.ingest.progress import Progress
from actlas.store import Entry, EntrySpec, EntryWriter, MemoryBudget, StoreWriter
from actlas.store.digest import LEAF_ROWS
from actlas.store.dtype import LOGICAL

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When a pass began, how long it took, and with which example it began."""

    started: datetime
    seconds: float
    n_resumed: int


def run_pass(
    writer: StoreWriter,
    specs: Sequence[EntrySpec],
    job: Job,
    capture: Capture,
    progress: Progress,
    describe: Callable[[Timing, Sample | None], Mapping[str, Any]],
    labels: Mapping[str, Any],
) -> list[Entry]:
    """Compute the entries of one pass; superblocks that an interrupted run left are not computed again.

    Parameters
    ----------
    writer : StoreWriter
        The store.
    specs : sequence of EntrySpec
        One for each position, in the order of the capture's.
    job : Job
        One of their jobs: tokens and plan are the same for all.
    capture : Capture
        Runs the model.
    progress : Progress
        Told what happens.
    describe : callable
        Returns the provenance, given a sample of what was computed, if anything was.
    labels : mapping
        The model's labels.
    """
    started, start = datetime.now(UTC), time.perf_counter()
    with ExitStack() as stack:
        opened = {
            spec.identity.key: stack.enter_context(writer.new_entry(spec, on_wait=progress.note))
            for spec in sorted(specs, key=lambda spec: spec.identity.key)  # two processes must not wait for each other
        }
        entries = [opened[spec.identity.key] for spec in specs]
        n_resumed = min(entry.n_written for entry in entries)
        n_there = -(-n_resumed // LEAF_ROWS)
        if n_resumed:
            there = job.plan.superblocks[:n_there]
            name = f"{specs[0].model.name}/{job.task.slug}"
            progress.note(f"{name}: {n_resumed} of {len(job.task)} examples are there already")
            progress.skip(n_resumed, sum(batch.n_padded for superblock in there for batch in superblock))
        samples: list[Sample] = []
        with Pipeline(capture.device, progress.waiting) as pipeline:
            for superblock in job.plan.superblocks[n_there:]:
                samples.append(_run_superblock(superblock, entries, job, capture, pipeline, progress))
                del samples[1:]
        timing = Timing(started=started, seconds=time.perf_counter() - start, n_resumed=n_resumed)
        described = describe(timing, samples[0] if samples else None)
        return [writer.commit(entry, described, labels) for entry in entries]


def _run_superblock(
    superblock: Sequence[Batch],
    entries: Sequence[EntryWriter],
    job: Job,
    capture: Capture,
    pipeline: Pipeline,
    progress: Progress,
) -> Sample:
    """Send a superblock through the pipeline; return a sample of its largest batch."""
    pipeline.begin()
    rows = sorted(row for batch in superblock for row in batch.rows)
    blocks = _Blocks(entries, rows[0], len(rows))
    largest = max(superblock, key=lambda batch: len(batch.rows))
    for batch in superblock:
        token_ids = [job.tokenized.token_ids[row] for row in batch.rows]
        try:
            captured = capture(token_ids)
        except torch.OutOfMemoryError as error:
            raise _too_large(batch, job) from error
        if batch is largest:
            sample = sample_of(token_ids, captured[0])
        pipeline.copy(captured, partial(blocks.put, [row - rows[0] for row in batch.rows]))
        progress.advance(len(batch.rows), sum(job.tokenized.lengths[row] for row in batch.rows), batch.n_padded)
    pipeline.write(blocks.write)
    return sample


def _too_large(batch: Batch, job: Job) -> MemoryBudget:
    half = max(1, min(job.plan.batch_tokens, batch.n_padded) // 2)
    return MemoryBudget(
        f"task {job.task.slug}: a batch of {len(batch.rows)} prompts, {batch.n_padded} tokens with padding, does not fit into "
        f"the device's memory; what was written is kept. Free the device, or try --batch-tokens {half}: that is another "
        "plan, which compare will mark, so give it to every checkpoint that is compared"
    )


class _Blocks:
    """What is computed of one superblock, its rows in task order."""

    def __init__(self, entries: Sequence[EntryWriter], first: int, n_rows: int) -> None:
        spec = entries[0].spec
        self._entries, self._first, self._dtype = entries, first, LOGICAL[spec.identity.dtype]
        shape, norm_width = (len(entries), len(spec.identity.layers), n_rows, spec.model.width), spec.model.norm_width
        self._hidden = np.empty(shape, self._dtype)
        self._norm = None if norm_width is None else np.empty((len(entries), n_rows, norm_width), self._dtype)

    def put(self, places: Sequence[int], captured: Sequence[Array]) -> None:
        """Take the states of one batch: (n_positions, n_layers, n, p) and (n_positions, n, q)."""
        hidden, final = captured
        self._hidden[:, :, places] = hidden.view(self._dtype)
        if self._norm is not None:
            self._norm[:, places] = final.view(self._dtype)

    def write(self) -> None:
        """Write them to the entries that do not have them."""
        for number, entry in enumerate(self._entries):
            if entry.n_written == self._first:
                entry.write(self._hidden[number], None if self._norm is None else self._norm[number])
