"""Ingest: run each checkpoint once over the tasks and commit an entry for each."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from actlas.ingest.capture import Capture
from actlas.ingest.checkpoint import Checkpoint
from actlas.ingest.conformance import Conformance, check_conformance, choose_probes
from actlas.ingest.controls import Reach
from actlas.ingest.forecast import all_jobs, forecast_of
from actlas.ingest.jobs import POSITION, Job, Resident, Run, plan_residents
from actlas.ingest.loading import adapted, load_base
from actlas.ingest.plan import Batch
from actlas.ingest.progress import Forecast, Progress
from actlas.ingest.provenance import maker, provenance
from actlas.ingest.rendering import RenderingName
from actlas.ingest.shard import parse_shard, take_shard
from actlas.store import (
    BATCH_TOKENS,
    CODEC,
    AlreadyExists,
    Entry,
    EntrySpec,
    EntryWriter,
    InvalidInput,
    Model,
    Store,
    StoreWriter,
    Task,
    create_store,
    open_writer,
    store_exists,
    writable_root,
)
from actlas.store.codec import check_codec
from actlas.store.digest import LEAF_ROWS
from actlas.store.dtype import LOGICAL
from actlas.store.limit import check_limit
from actlas.store.storage import LocalStorage


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an ingest runs; see `ingest`."""

    renderings: tuple[RenderingName, ...] = ("raw",)
    layers: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    all_tasks: bool = False
    off_target: int | None = None
    seed: int = 0
    clusters: Mapping[str, str] = field(default_factory=dict)
    allow_base_mismatch: bool = False
    codec: str = CODEC
    shard: str | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an ingest did.

    Attributes
    ----------
    forecast : Forecast
        What was to be done.
    written, present : tuple of Entry
        Entries that were computed, and those that were there already.
    """

    forecast: Forecast
    written: tuple[Entry, ...] = ()
    present: tuple[Entry, ...] = ()


def ingest(
    store: str | Path,
    checkpoints: Sequence[Checkpoint],
    tasks: Sequence[Task],
    options: Options | None = None,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Run checkpoints over tasks and keep the last prompt token's states of every layer.

    Everything that can be checked is checked before any weights are loaded. Each base is loaded once; adapters are
    swapped under it. Entries that are there already are not computed again.

    Parameters
    ----------
    store : path
        The store; made when there is none.
    checkpoints : sequence of Checkpoint
        Bases, and bases with one adapter. One that was trained on exactly one task is a control and is ingested on that
        task alone, unless `options.all_tasks`, or also on `options.off_target` drawn tasks of other clusters.
    tasks : sequence of Task
        As `load_tasks` returns them.
    options : Options
        Renderings, layers, dtype, device; `shard`, such as ``2/8``, takes a share of the entries.
    dry_run : bool
        Only forecast.
    progress : Progress
        Told what happens.

    Raises
    ------
    ActError
        For anything that is wrong with store, checkpoints or tasks; the store is unchanged.
    """
    options, progress = options or Options(), progress or Progress()
    root = writable_root(store)
    check_codec(options.codec)
    is_there = store_exists(root)
    residents = planned(root, checkpoints, tasks, options)
    present = _take_present(root, residents) if is_there else []
    if present and not dry_run:
        _label_present(open_writer(root), residents, {entry.model for entry in present})
    device = _find_device(options.device)
    forecast = forecast_of(root, residents, len(present), device)
    _say_draws(residents, progress)
    _say_what_is_special(tasks, residents, present, progress)
    progress.start(forecast)
    if dry_run or forecast.n_entries == 0:
        return Report(forecast=forecast, present=tuple(present))
    if is_there:
        check_limit(LocalStorage(root), forecast.n_bytes)
    if forecast.n_bytes > forecast.free_bytes:
        raise InvalidInput(
            f"{root}: the hidden states need up to {forecast.n_bytes / 2**30:.1f} GiB, {forecast.free_bytes / 2**30:.1f} GiB "
            "are free; free some space, or choose fewer --layers"
        )
    written = [
        entry
        for resident in residents
        if any(run.jobs for run in resident.runs)
        for entry in _run_resident(root, resident, device, options.codec, progress)
    ]
    return Report(forecast=forecast, written=tuple(written), present=tuple(present))


def planned(root: Path, checkpoints: Sequence[Checkpoint], tasks: Sequence[Task], options: Options) -> list[Resident]:
    """Return the entries of an ingest, or of its shard, done or not, grouped by base; parameters as in `ingest`."""
    shard = None if options.shard is None else parse_shard(options.shard)
    residents = plan_residents(
        checkpoints,
        tasks,
        renderings=options.renderings,
        batch_tokens=Store(root).batch_tokens if store_exists(root) else BATCH_TOKENS,
        layers=options.layers,
        dtype=options.dtype,
        reach=Reach(
            all_tasks=options.all_tasks, off_target=options.off_target, seed=options.seed, clusters=options.clusters
        ),
        allow_base_mismatch=options.allow_base_mismatch,
    )
    if shard is not None:  # before what is there is taken out, or each process would deal other cards
        take_shard(residents, shard)
    return residents


def _find_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidInput(f"device {device!r} cannot be used ({error}); expected auto, cpu or cuda") from error
    return device


def _take_present(root: Path, residents: Sequence[Resident]) -> list[Entry]:
    """Take the jobs out whose entries are committed, and return these."""
    writer, present = open_writer(root), []
    for resident in residents:
        for run in resident.runs:
            for job in list(run.jobs):
                entry = writer.find(spec_of(resident, run, job, norm_width=None))
                if entry is not None:
                    run.jobs.remove(job)
                    present.append(entry)
    return present


def _label_present(writer: StoreWriter, residents: Sequence[Resident], models: set[str]) -> None:
    """Take over what the user says of models whose entries need no work."""
    for resident in residents:
        for run in resident.runs:
            if run.checkpoint.slug in models and _labels(run):
                writer.label(run.checkpoint.slug, _labels(run))


def _labels(run: Run) -> dict[str, Any]:
    trained_on = {"trained_on": list(run.checkpoint.trained_on)} if run.checkpoint.trained_on else {}
    return dict(run.checkpoint.labels) | trained_on


def _say_draws(residents: Sequence[Resident], progress: Progress) -> None:
    """Say which tasks were drawn for which control."""
    for run in (run for resident in residents for run in resident.runs):
        if run.draw and run.jobs:
            progress.note(
                f"{run.checkpoint.slug}: off target, drawn with seed {run.draw.seed}: {', '.join(run.draw.tasks)}"
            )


def _say_what_is_special(
    tasks: Sequence[Task], residents: Sequence[Resident], present: Sequence[Entry], progress: Progress
) -> None:
    for task in tasks:
        if task.n_duplicates:
            progress.note(
                f"task {task.slug}: {task.n_duplicates} exact duplicates kept once, {len(task)} examples remain"
            )
    truncated = {
        (job.task.slug, job.rendering): (job.tokenized.n_truncated, resident.base.max_tokens)
        for resident, job in all_jobs(residents)
        if job.tokenized.n_truncated
    }
    for (slug, rendering), (number, context) in truncated.items():
        progress.note(f"task {slug} ({rendering}): {number} prompts cut at their beginning to {context} tokens")
    for entry in present:
        progress.note(f"already there, not computed again: {entry.label}")


def spec_of(
    resident: Resident,
    run: Run,
    job: Job,
    norm_width: int | None,
    codec: str = CODEC,
    made_by: Mapping[str, Any] | None = None,
) -> EntrySpec:
    """Return what the store must know of an entry; the norm's width is not known before the model runs."""
    base, checkpoint = resident.base, run.checkpoint
    model = Model(
        name=checkpoint.slug,
        identity=run.identity,
        base=checkpoint.base,
        revision=checkpoint.revision,
        adapter=checkpoint.adapter,
        architecture=(base.config.architectures or [base.config.model_type])[0],
        n_layers=base.config.num_hidden_layers,
        width=base.config.hidden_size,
        norm_width=norm_width,
        tokenizer_digest=base.tokenizer_digest,
    )
    return EntrySpec(
        model=model,
        task=job.task,
        rendering=job.rendering,
        position=POSITION,
        identity=job.identity,
        token_digests=job.tokenized.digests,
        n_tokens=job.tokenized.lengths,
        codec=codec,
        maker=made_by or {},
    )


def _run_resident(root: Path, resident: Resident, device: str, codec: str, progress: Progress) -> Iterator[Entry]:
    model = load_base(resident.base, resident.dtype, device)
    capture = Capture(model, resident.layers)
    for run in resident.runs:
        if not run.jobs:
            continue
        with adapted(model, run.adapter):
            conformance = check_conformance(model, choose_probes(run.jobs[0].tokenized.token_ids))
            # Only now: a model that is refused leaves no empty store behind.
            writer = _opened(root)
            for job in run.jobs:
                progress.entry(f"{run.checkpoint.slug} / {job.task.slug} / {job.rendering}")
                spec = spec_of(resident, run, job, conformance.norm_width, codec, maker(model))
                yield _run_job(writer, spec, run, job, model, capture, conformance, progress)


def _opened(root: Path) -> StoreWriter:
    if not store_exists(root):
        with suppress(AlreadyExists):  # another shard makes it at this moment
            return create_store(root)
    return open_writer(root)


def _run_job(
    writer: StoreWriter,
    spec: EntrySpec,
    run: Run,
    job: Job,
    model: PreTrainedModel,
    capture: Capture,
    conformance: Conformance,
    progress: Progress,
) -> Entry:
    with writer.new_entry(spec, on_wait=progress.note) as entry:
        start, started, n_resumed = time.perf_counter(), datetime.now(UTC), entry.n_written
        there, missing = _split(job, n_resumed)
        if n_resumed:
            progress.note(
                f"{spec.model.name}/{job.task.slug}: {n_resumed} of {len(job.task)} examples are there already"
            )
            progress.skip(n_resumed, sum(batch.n_padded for superblock in there for batch in superblock))
        with _writing(entry, progress) as write:
            for superblock in missing:
                write(_superblock(superblock, spec, job, capture, progress))
        seconds = time.perf_counter() - start
        return writer.commit(entry, provenance(model, run, job, conformance, started, seconds, n_resumed), _labels(run))


Superblocks = Sequence[Sequence[Batch]]


def _split(job: Job, n_written: int) -> tuple[Superblocks, Superblocks]:
    """Return the superblocks that are written, and those that are not."""
    n_there = -(-n_written // LEAF_ROWS)
    return job.plan.superblocks[:n_there], job.plan.superblocks[n_there:]


Blocks = tuple[npt.NDArray[Any], npt.NDArray[Any] | None]


def _superblock(superblock: Sequence[Batch], spec: EntrySpec, job: Job, capture: Capture, progress: Progress) -> Blocks:
    """Run the batches of one superblock; its rows are back in task order."""
    rows = sorted(row for batch in superblock for row in batch.rows)
    first, dtype = rows[0], LOGICAL[job.identity.dtype]
    hidden = np.empty((len(job.identity.layers), len(rows), spec.model.width), dtype)
    norm = None if spec.model.norm_width is None else np.empty((len(rows), spec.model.norm_width), dtype)
    for batch in superblock:
        places = [row - first for row in batch.rows]
        states, final = capture([job.tokenized.token_ids[row] for row in batch.rows])
        hidden[:, places] = _to_numpy(states, dtype)
        if norm is not None:
            norm[places] = _to_numpy(final, dtype)
        progress.advance(len(batch.rows), sum(job.tokenized.lengths[row] for row in batch.rows), batch.n_padded)
    return hidden, norm


def _to_numpy(states: torch.Tensor, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    states = states.cpu()
    if states.dtype == torch.bfloat16:  # NumPy has no bfloat16: the bits go through int16
        return states.view(torch.int16).numpy().view(dtype)
    return np.asarray(states.numpy())


@contextmanager
def _writing(entry: EntryWriter, progress: Progress) -> Iterator[Any]:
    """Encode and write one superblock while the next is computed; at most two are in memory."""
    pending: Future[None] | None = None

    def settle() -> None:
        if pending is not None:
            start = time.perf_counter()
            pending.result()
            progress.waiting(time.perf_counter() - start)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="write") as pool:

        def write(blocks: Blocks) -> None:
            nonlocal pending
            settle()
            pending = pool.submit(entry.write, *blocks)

        yield write
        settle()
