"""Importing: arrays that others computed become entries, under the digest of what they hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from actlas.store.arrivals import Arrival, arrivals, changed
from actlas.store.digest import LEAF_ROWS, join_leaves, json_digest, leaf_digests
from actlas.store.dtype import check_dtype, to_stored
from actlas.store.entry import Entry
from actlas.store.errors import InvalidInput, Mismatch
from actlas.store.identity import EntryIdentity
from actlas.store.layout import model_directory, store_exists
from actlas.store.model import Model, ModelIdentity, check_name_is_free, read_model
from actlas.store.pattern import PATTERN, parse_pattern
from actlas.store.reader import Store
from actlas.store.slug import check_slug
from actlas.store.spec import EntrySpec
from actlas.store.task import Task
from actlas.store.writer import StoreWriter, create_store, open_writer, writable_root

# The label of a task whose example ids are made from row numbers: the store says nowhere what its examples are.
EXAMPLE_IDS, ROW_NUMBERS = "example_ids", "row numbers"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of one task.

    Attributes
    ----------
    entry : Entry
        Its entry.
    outcome : {"imported", "present"}
        Whether it was written, or the same values were there already.
    """

    entry: Entry
    outcome: Literal["imported", "present"]


def import_entries(
    store: str | Path,
    source: str | Path,
    *,
    model: str,
    pattern: str = PATTERN,
    task: str | None = None,
    tasks: Sequence[Task] | None = None,
    row_ids: bool = False,
    rendering: str = "raw",
    position: str = "last",
    dtype: str | None = None,
    progress: Progress | None = None,
) -> list[Imported]:
    """Keep arrays of hidden states that others computed, one file or array a layer, as entries of a store.

    All names, shapes and dtypes are checked before anything is written, and each entry is committed whole. The same
    values again are "there already"; other values get an entry of their own beside it.

    Parameters
    ----------
    store : path
        The store; made when there is none.
    source : path
        The directory with the files.
    model : str
        Name of the model that computed them.
    pattern : str
        Where the array of a task and layer stands below `source`: the path of a .npy, .npz or .safetensors file, for the
        latter two with ``:`` and the name of the array in it. Arrays are (n, p) or (n, 1, p).
    task : str, optional
        Name of the task, where the pattern has no field for it; or the only task to import.
    tasks : sequence of Task, optional
        The examples of each task, in the order of the rows.
    row_ids : bool
        Make the examples from row numbers instead, and label the task so.
    rendering, position : str
        How the examples became tokens, and how the token axis was reduced, by name.
    dtype : str, optional
        What to keep them in. Nothing is rounded without it.
    progress : callable, optional
        Told the task, its examples that are written, and all its examples.

    Returns
    -------
    list of Imported
        One for each task, sorted by name.

    Raises
    ------
    NotFound
        When no array fits the pattern.
    InvalidInput
        When it is not said what the examples are, or arrays and examples do not fit each other.
    Mismatch
        When the model's name belongs to another checkpoint, or a file changes meanwhile.
    """
    root, source = writable_root(store), Path(source)
    for text, what in ((model, "model"), (rendering, "rendering"), (position, "position")):
        check_slug(text, what)
    if dtype is not None:
        check_dtype(dtype)
    places = parse_pattern(pattern, task).find(source)
    found = arrivals(places, tasks, row_ids=row_ids, dtype=dtype)
    described = _model(model, source, found)
    writer = open_writer(root) if store_exists(root) else None
    if writer is not None:
        _check_model(writer, described)
        for arrival in found if row_ids else []:
            _check_row_ids(writer.reader, arrival.task)
    imported = []
    for arrival in found:
        leaves = arrival.leaves()
        spec = _spec(described, arrival, rendering, position, leaves)
        writer = writer or create_store(root)
        is_new = writer.find(spec) is None
        entry = _write(writer, spec, arrival, leaves, _provenance(source, pattern, arrival, row_ids), progress)
        if row_ids:
            writer.label_task(arrival.task.slug, {EXAMPLE_IDS: ROW_NUMBERS})
        imported.append(Imported(entry=entry, outcome="imported" if is_new else "present"))
    return imported


def _model(name: str, source: Path, found: Sequence[Arrival]) -> Model:
    first = found[0]
    for arrival in found:
        if arrival.width != first.width:
            raise InvalidInput(
                f"model {name!r}: expected one width, got {first.width} features in {first.arrays[0].where} and "
                f"{arrival.width} in {arrival.arrays[0].where}; import the tasks of each model by themselves, with --task"
            )
    return Model(
        name=name,
        identity=ModelIdentity(base_digest=json_digest(["imported", name])),
        base=str(source),
        revision=None,
        adapter=None,
        architecture="imported",
        n_layers=max(arrival.layers[-1] for arrival in found),
        width=first.width,
        norm_width=None,
        tokenizer_digest=json_digest(["imported"]),
    )


def _check_model(writer: StoreWriter, model: Model) -> None:
    storage = writer.reader.storage
    check_name_is_free(storage, model.name, model.identity)
    if storage.exists(f"{model_directory(model.name)}/model.json"):
        known = read_model(storage, model.name)
        if known.width != model.width:
            raise Mismatch(
                f"model {model.name!r} of {storage.location} has {known.width} features ({known.base}), expected as many, "
                f"got {model.width}; give this model a --model name of its own"
            )


def _check_row_ids(reader: Store, task: Task) -> None:
    """Refuse row numbers where the store knows what the examples are: nothing could be joined with them."""
    there = reader.entries(task=task.slug) if task.slug in reader.tasks() else []
    if there and all(entry.example_ids[0] != task.example_ids[0] for entry in there):
        raise InvalidInput(
            f"task {task.slug!r} of {reader.location} has example ids made from texts, which row numbers would not join; "
            "give the same examples with --tasks FILE, or choose another --task name"
        )


def _spec(model: Model, arrival: Arrival, rendering: str, position: str, leaves: Sequence[bytes]) -> EntrySpec:
    return EntrySpec(
        model=model,
        task=arrival.task,
        rendering=rendering,
        position=position,
        identity=EntryIdentity(
            model_digest=model.identity.digest,
            tokenizer_digest=model.tokenizer_digest,
            task_digest=arrival.task.digest,
            rendering_digest=json_digest(["imported", rendering]),
            plan_digest=json_digest({"imported": join_leaves(leaves)}),
            position=position,
            layers=arrival.layers,
            dtype=arrival.dtype,
        ),
        token_digests=["0" * 32] * len(arrival.task),
        n_tokens=[0] * len(arrival.task),
    )


def _write(
    writer: StoreWriter,
    spec: EntrySpec,
    arrival: Arrival,
    leaves: Sequence[bytes],
    provenance: Mapping[str, Any],
    progress: Progress | None,
) -> Entry:
    with writer.new_entry(spec) as staged:
        for superblock in arrival.superblocks(staged.n_written):
            at = staged.n_written // LEAF_ROWS * len(arrival.layers)
            # The key names what was read first; a file that is still being written would put other values under it.
            if leaf_digests(to_stored(superblock, arrival.dtype)) != leaves[at : at + len(arrival.layers)]:
                raise changed(arrival.arrays[0].where)
            staged.write(superblock)
            if progress is not None:
                progress(arrival.task.slug, staged.n_written, len(arrival.task))
        return writer.commit(staged, provenance)


def _provenance(source: Path, pattern: str, arrival: Arrival, row_ids: bool) -> dict[str, Any]:
    files = {array.file for array in arrival.arrays}
    return {
        "imported": datetime.now(UTC).isoformat(timespec="seconds"),
        "imported_from": str(source.absolute()),
        "pattern": pattern,
        "files": {file.relative_to(source).as_posix(): file.stat().st_size for file in sorted(files)},
        "dtype": arrival.arrays[0].dtype,
        "example_ids": ROW_NUMBERS if row_ids else "from tasks",
        "versions": {name: version(name) for name in ("actlas", "numpy", "safetensors", "zarr")},
    }
