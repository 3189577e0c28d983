"""The status of an ingest: which of its entries are done, under way, interrupted or missing; no model runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from actlas.ingest.checkpoint import Checkpoint
from actlas.ingest.jobs import Job, Resident, Run, n_whole
from actlas.ingest.options import Options
from actlas.ingest.residents import spec_of
from actlas.ingest.run import planned
from actlas.store import StoreWriter, Task, open_writer, store_exists, writable_root
from actlas.store.unfinished import find_unfinished

State = Literal["done", "running", "interrupted", "missing"]


@dataclass(frozen=True, kw_only=True)
class EntryStatus:
    """How far an entry is.

    Attributes
    ----------
    model, task, rendering, position : str
        Its names.
    state : {"done", "running", "interrupted", "missing"}
        Committed; locked by a living process; begun by one that is gone; none of these.
    n_written, n_examples : int
        Examples that are written, and all of them.
    """

    model: str
    task: str
    rendering: str
    position: str
    state: State
    n_written: int
    n_examples: int


def ingest_status(
    store: str | Path, checkpoints: Sequence[Checkpoint], tasks: Sequence[Task], options: Options | None = None
) -> list[EntryStatus]:
    """Return the status of every entry of an ingest, in its order; parameters as in `ingest`.

    Raises
    ------
    ActError
        For what `ingest` would refuse before it loads weights.
    """
    root, options = writable_root(store), options or Options()
    residents = planned(root, checkpoints, tasks, options)
    writer = open_writer(root) if store_exists(root) else None
    return [
        _status(root, writer, resident, run, job) for resident in residents for run in resident.runs for job in run.jobs
    ]


def _status(root: Path, writer: StoreWriter | None, resident: Resident, run: Run, job: Job) -> EntryStatus:
    # What is under way is looked at first: it may be done a moment later, but not the other way round.
    unfinished, n_superblocks = find_unfinished(root, job.identity.key)
    spec = spec_of(resident, run, job, norm_width=None)
    done = writer is not None and writer.find(spec) is not None
    n_written = n_whole(job, min(n_superblocks * spec.superblock_rows, spec.n_rows))
    return EntryStatus(
        model=run.checkpoint.slug,
        task=job.task.slug,
        rendering=job.rendering,
        position=job.position,
        state="done" if done else unfinished or "missing",
        n_written=len(job.task) if done else n_written,
        n_examples=len(job.task),
    )
