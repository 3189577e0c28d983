"""One pass: a checkpoint over the prompts of one task, for all positions that are wanted, superblock by superblock."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from actlas.ingest.capture import Capture
from actlas.ingest.jobs import Job, n_whole
from actlas.ingest.noise import Sample, sample_of
from actlas.ingest.pipeline import Pipeline
from actlas.ingest.plan import Batch
from actlas.ingest.progress import Progress
from actlas.ingest.sinks import Sink, make_sinks
from actlas.store import Entry, EntrySpec, MemoryBudget, StoreWriter


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When a pass began, how long it took, how many examples were there already, and how many tokens it computed."""

    started: datetime
    seconds: float
    n_resumed: int
    n_tokens: int


def run_pass(
    writer: StoreWriter,
    specs: Sequence[EntrySpec],
    jobs: Sequence[Job],
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
    jobs : sequence of Job
        Their jobs, in the same order; tokens and plan are the same for all.
    capture : Capture
        Runs the model.
    progress : Progress
        Told what happens.
    describe : callable
        Returns the provenance, given a sample of what was computed, if anything was.
    labels : mapping
        The model's labels.
    """
    job = jobs[0]
    started, start = datetime.now(UTC), time.perf_counter()
    with ExitStack() as stack:
        opened = {
            spec.identity.key: stack.enter_context(writer.new_entry(spec, on_wait=progress.note))
            for spec in sorted(specs, key=lambda spec: spec.identity.key)  # two processes must not wait for each other
        }
        entries = [opened[spec.identity.key] for spec in specs]
        n_resumed = min(n_whole(one, opened[one.identity.key].n_written) for one in jobs)
        if n_resumed:
            name = f"{specs[0].model.name}/{job.task.slug}"
            progress.note(f"{name}: {n_resumed} of {len(job.task)} examples are there already")
        samples, n_tokens = list[Sample](), 0
        with Pipeline(capture.device, progress.waiting) as pipeline:
            sinks = make_sinks(entries, job.offsets, pipeline.lane, progress.wrote)
            for superblock in job.plan.superblocks:
                sample, n_computed = _run_superblock(superblock, sinks, job, capture, progress)
                samples, n_tokens = (samples or sample), n_tokens + n_computed
        seconds = time.perf_counter() - start
        timing = Timing(started=started, seconds=seconds, n_resumed=n_resumed, n_tokens=n_tokens)
        described = describe(timing, samples[0] if samples else None)
        return [writer.commit(entry, described, labels) for entry in entries]


def _run_superblock(
    superblock: Sequence[Batch], sinks: Sequence[Sink], job: Job, capture: Capture, progress: Progress
) -> tuple[list[Sample], int]:
    """Send what is needed of a superblock through the pipeline; return a sample of its largest batch, and its tokens."""
    needing = [sink for sink in sinks if sink.begin(superblock)]
    takers = {batch: [sink for sink in needing if sink.needs(batch)] for batch in superblock}
    needed = [batch for batch in superblock if takers[batch]]
    skipped = [batch for batch in superblock if not takers[batch]]
    progress.skip(sum(len(batch.rows) for batch in skipped), sum(batch.n_padded for batch in skipped))
    largest = max(needed, key=lambda batch: len(batch.rows), default=None)
    samples, n_tokens = list[Sample](), 0
    for batch in needed:
        token_ids = [job.tokenized.token_ids[row] for row in batch.rows]
        parts = [job.tokenized.parts[row] for row in batch.rows]
        try:
            captured = capture(token_ids, parts)
        except torch.OutOfMemoryError as error:
            raise _too_large(batch, job) from error
        if batch is largest:
            samples.append(sample_of(token_ids, parts, captured))
        for sink in takers[batch]:
            sink.put(batch, captured)
        n_tokens += sum(map(len, token_ids))
        progress.advance(len(batch.rows), sum(map(len, token_ids)), batch.n_padded)
    for sink in needing:
        sink.end()
    return samples, n_tokens


def _too_large(batch: Batch, job: Job) -> MemoryBudget:
    half = max(1, min(job.plan.batch_tokens, batch.n_padded) // 2)
    return MemoryBudget(
        f"task {job.task.slug}: a batch of {len(batch.rows)} prompts, {batch.n_padded} tokens with padding, does not fit into "
        f"the device's memory; what was written is kept. Free the device, or try --batch-tokens {half}: that is another "
        "plan, which compare will mark, so give it to every checkpoint that is compared"
    )
