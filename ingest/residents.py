"""What runs while a base is in memory: each of its checkpoints over its jobs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from actlas.ingest.capture import Capture
from actlas.ingest.conformance import check_conformance, choose_probes
from actlas.ingest.jobs import Job, Resident, Run, passes
from actlas.ingest.loading import load_base
from actlas.ingest.noise import NoiseFloor, Sample, noise_floor
from actlas.ingest.options import Options
from actlas.ingest.outputs import Outputs, n_top
from actlas.ingest.passes import Timing, run_pass
from actlas.ingest.positions import ALL
from actlas.ingest.progress import Progress
from actlas.ingest.provenance import maker, provenance
from actlas.ingest.swaps import Swap, Swaps
from actlas.store import (
    CODEC,
    AlreadyExists,
    Entry,
    EntrySpec,
    Model,
    StoreWriter,
    create_store,
    open_writer,
    store_exists,
)


def run_residents(
    root: Path, residents: Sequence[Resident], device: str, options: Options, progress: Progress
) -> Iterator[Entry]:
    """Run every job of `residents` on one device, and yield each entry when it is committed."""
    for resident in residents:
        if any(run.jobs for run in resident.runs):
            yield from _run_resident(root, resident, device, options, progress)


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
        n_layers=base.family.depth(base.config),
        width=base.config.hidden_size,
        norm_width=norm_width,
        tokenizer_digest=base.tokenizer_digest,
    )
    return EntrySpec(
        model=model,
        task=job.task,
        rendering=job.rendering,
        position=job.position,
        identity=job.identity,
        token_digests=job.tokenized.digests,
        n_tokens=job.tokenized.lengths,
        offsets=job.offsets if job.position == ALL else None,
        n_target_tokens=job.tokenized.n_target_tokens,
        n_top=n_top(base.config) if job.identity.outputs else None,
        codec=codec,
        maker=made_by or {},
    )


def labels_of(run: Run) -> dict[str, Any]:
    """Return the labels that a checkpoint's model gets."""
    trained_on = {"trained_on": list(run.checkpoint.trained_on)} if run.checkpoint.trained_on else {}
    kind = {name: value for name in ("stack", "random_init") if (value := getattr(run.checkpoint, name)) is not None}
    return dict(run.checkpoint.labels) | trained_on | kind


def _run_resident(root: Path, resident: Resident, device: str, options: Options, progress: Progress) -> Iterator[Entry]:
    model = load_base(resident.base, resident.dtype, device)
    swaps = Swaps(model, resident.base)
    for run in resident.runs:
        if run.jobs:
            with swaps.under(run.adapter) as swap:
                yield from _run_checkpoint(root, resident, run, model, swap, options, progress)


def _has_outputs(jobs: Sequence[Job]) -> bool:
    return any(job.identity.outputs for job in jobs)


def _opened(root: Path) -> StoreWriter:
    if not store_exists(root):
        with suppress(AlreadyExists):  # another shard makes it at this moment
            return create_store(root)
    return open_writer(root)


def _run_checkpoint(
    root: Path,
    resident: Resident,
    run: Run,
    model: PreTrainedModel,
    swap: Swap | None,
    options: Options,
    progress: Progress,
) -> Iterator[Entry]:
    family, noise = resident.base.family, list[NoiseFloor]()
    first = run.jobs[0].tokenized
    rows = choose_probes(first.lengths)
    probes, parts = [first.token_ids[row] for row in rows], [first.parts[row] for row in rows]
    outputs = Outputs(model) if options.outputs else None
    conformance = check_conformance(model, probes, options.positions, family, parts=parts, outputs=outputs)
    # Only now: a model that is refused leaves no empty store behind.
    writer = _opened(root)

    def describe(job: Job, capture: Capture, timing: Timing, sample: Sample | None) -> Mapping[str, Any]:
        if sample is not None and not noise:  # once for a checkpoint, on the first of its tasks
            noise.append(noise_floor(model, capture, sample))
        return provenance(model, family, run, job, conformance, swap, noise[0] if noise else None, timing)

    for jobs in passes(run.jobs):
        positions = [job.position for job in jobs]
        where = "" if positions == ["last"] else f" / {', '.join(positions)}"
        progress.entry(f"{run.checkpoint.slug} / {jobs[0].task.slug} / {jobs[0].rendering}{where}")
        capture = Capture(model, resident.layers, positions, family, outputs if _has_outputs(jobs) else None)
        specs = [spec_of(resident, run, job, conformance.norm_width, options.codec, maker(model)) for job in jobs]
        yield from run_pass(writer, specs, jobs, capture, progress, partial(describe, jobs[0], capture), labels_of(run))
