"""Ingest: run each checkpoint once over the tasks and commit an entry for each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from actlas.ingest.checkpoint import Checkpoint
from actlas.ingest.clusters import label_cluster
from actlas.ingest.controls import Reach
from actlas.ingest.devices import Child, chosen_devices, run_children, start_children
from actlas.ingest.forecast import Speed, forecast_of, speed_of
from actlas.ingest.jobs import Resident, passes, plan_residents
from actlas.ingest.notes import say_what_is_special
from actlas.ingest.options import Options
from actlas.ingest.positions import check_positions
from actlas.ingest.progress import Forecast, Progress
from actlas.ingest.residents import labels_of, run_residents, spec_of
from actlas.ingest.shard import parse_shard, shares_of, take_shard
from actlas.store import (
    BATCH_TOKENS,
    Entry,
    InvalidInput,
    Store,
    StoreWriter,
    Task,
    open_writer,
    store_exists,
    writable_root,
)
from actlas.store.codec import check_codec
from actlas.store.limit import check_limit
from actlas.store.storage import LocalStorage


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
    """Run checkpoints over tasks and keep the states of every layer at chosen positions.

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
        Renderings, positions, layers, dtype, device, clusters of tasks; `outputs`, to keep what the model puts out beside
        the position ``last``; `batch_tokens` in place of the store's own, which makes another plan and other entries;
        `shard`, such as ``2/8``, takes a share of the entries; `devices`, such as ``("cuda:0", "cuda:1")``, in place of
        `device`, deals them to a process for each, on this machine.
    dry_run : bool
        Only forecast.
    progress : Progress
        Told what happens.

    Raises
    ------
    ActError
        For anything that is wrong with store, checkpoints, tasks or devices; the store is unchanged. Also when the
        process of one of several devices ends before its work; the others are stopped, and what they wrote is kept.
    Exception
        What ends the work on one of several devices, as it would here; a note names the device.
    """
    options, progress = options or Options(), progress or Progress()
    devices = chosen_devices(options.device, options.devices)
    root = writable_root(store)
    check_codec(options.codec)
    if options.batch_tokens is not None and options.batch_tokens < 1:
        raise InvalidInput(f"batch_tokens: expected a positive number of tokens, got {options.batch_tokens}")
    is_there = store_exists(root)
    residents = planned(root, checkpoints, tasks, options)
    present = _take_present(root, residents) if is_there else []
    if present and not dry_run:
        _label_present(open_writer(root), residents, {entry.model for entry in present})
        _label_tasks(root, present, options.clusters)
    dtype = residents[0].dtype
    with start_children(_shared(devices, residents), _n_threads(devices), dtype) as children:
        forecast = forecast_of(root, residents, len(present), partial(_speed, devices, children, dtype))
        say_what_is_special(tasks, residents, present, progress)
        progress.start(forecast)
        if dry_run or forecast.n_entries == 0:
            return Report(forecast=forecast, present=tuple(present))
        _check_room(root, forecast)
        written = list[Entry]()
        for entry in _run(root, residents, devices, children, options, progress):
            if entry.task not in {earlier.task for earlier in written}:
                _label_tasks(root, [entry], options.clusters)
            written.append(entry)
    runs = [run for resident in residents for run in resident.runs]
    names = ((run.checkpoint.slug, job.identity.key) for run in runs for job in run.jobs)
    order = {name: place for place, name in enumerate(names)}
    written.sort(key=lambda entry: order[entry.model, entry.key])  # several processes commit in any order
    return Report(forecast=forecast, written=tuple(written), present=tuple(present))


def _shared(devices: Sequence[str], residents: Sequence[Resident]) -> Sequence[str]:
    """Return the devices that need a process of their own: of several, as many as there are passes to deal."""
    n_passes = sum(len(passes(run.jobs)) for resident in residents for run in resident.runs)
    return devices[:n_passes] if len(devices) > 1 else ()


def _n_threads(devices: Sequence[str]) -> int:
    # Of the devices that were asked for, whatever is left to do: on CPUs the values may depend on it.
    return max(1, torch.get_num_threads() // len(devices))


def _speed(devices: Sequence[str], children: Sequence[Child], dtype: str) -> Speed:
    """Return the speed of all devices that have work together."""
    if not children:
        return speed_of(devices[0], dtype)
    found: list[Speed] = [child.receive()[1] for child in children]
    peaks = [speed.peak for speed in found if speed.peak is not None]
    return Speed(sum(speed.measured for speed in found), sum(peaks) if len(peaks) == len(found) else None)


def _check_room(root: Path, forecast: Forecast) -> None:
    if store_exists(root):
        check_limit(LocalStorage(root), forecast.n_bytes)
    if forecast.n_bytes > forecast.free_bytes:
        raise InvalidInput(
            f"{root}: the hidden states need up to {forecast.n_bytes / 2**30:.1f} GiB, {forecast.free_bytes / 2**30:.1f} GiB "
            "are free; free some space, or choose fewer --layers"
        )


def _run(
    root: Path,
    residents: Sequence[Resident],
    devices: Sequence[str],
    children: Sequence[Child],
    options: Options,
    progress: Progress,
) -> Iterator[Entry]:
    if not children:
        yield from run_residents(root, residents, devices[0], options, progress)
        return
    work = [(root, share, options) for share in shares_of(residents, len(children))]
    for path in run_children(children, work, progress):
        yield Entry(LocalStorage(root), path)


def planned(root: Path, checkpoints: Sequence[Checkpoint], tasks: Sequence[Task], options: Options) -> list[Resident]:
    """Return the entries of an ingest, or of its shard, done or not, grouped by base; parameters as in `ingest`."""
    shard = None if options.shard is None else parse_shard(options.shard)
    residents = plan_residents(
        checkpoints,
        tasks,
        renderings=options.renderings,
        positions=check_positions(options.positions),
        outputs=options.outputs,
        batch_tokens=options.batch_tokens or (Store(root).batch_tokens if store_exists(root) else BATCH_TOKENS),
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
            if run.checkpoint.slug in models and labels_of(run):
                writer.label(run.checkpoint.slug, labels_of(run))


def _label_tasks(root: Path, entries: Sequence[Entry], clusters: Mapping[str, str]) -> None:
    """Put the tasks of entries into clusters."""
    for task in sorted({entry.task for entry in entries}):
        label_cluster(open_writer(root), task, clusters)
