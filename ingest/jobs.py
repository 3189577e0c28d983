"""Jobs: which entries an ingest has to compute, decided and checked before any weights are loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from actlas.ingest.checkpoint import Adapter, Base, Checkpoint, find_adapter, find_base, identity
from actlas.ingest.plan import Plan, make_plan
from actlas.ingest.rendering import Rendering, load_rendering, rendering_digest
from actlas.ingest.tokenizing import TokenizedTask, tokenize
from actlas.ingest.trial import check_unknown
from actlas.store import (
    EntryIdentity,
    InvalidInput,
    ModelIdentity,
    NotFound,
    Task,
    near_misses,
)
from actlas.store.dtype import check_dtype
from actlas.store.layers import parse_layers


@dataclass(frozen=True, eq=False)
class Resident:
    """A base and everything that runs on it while it is loaded."""

    name: str
    base: Base
    revision: str | None
    layers: tuple[int, ...]
    dtype: str
    runs: "list[Run]" = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Run:
    """One checkpoint: the base or an adapter, and the entries that it needs."""

    checkpoint: Checkpoint
    adapter: Adapter | None
    identity: ModelIdentity
    jobs: "list[Job]" = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Job:
    """One entry to compute."""

    position: str
    task: Task
    rendering: str
    tokenized: TokenizedTask
    plan: Plan
    identity: EntryIdentity


def passes(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return the jobs that one run over a task's prompts serves together: its positions."""
    together: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        together.setdefault((job.task.slug, job.rendering), []).append(job)
    return list(together.values())


def resolve_dtype(dtype: str, base: Base) -> str:
    """Return the dtype to compute in; ``auto`` is the checkpoint's own.

    Raises
    ------
    InvalidInput
        For anything but bfloat16, float16 and float32.
    """
    own = str(getattr(base.config, "dtype", None) or "float32").removeprefix("torch.")
    return check_dtype(own if dtype == "auto" else dtype)


def plan_residents(
    checkpoints: Sequence[Checkpoint],
    tasks: Sequence[Task],
    *,
    renderings: Sequence[str | Rendering],
    batch_tokens: int,
    positions: Sequence[str],
    layers: str | None,
    dtype: str,
    all_tasks: bool,
    allow_base_mismatch: bool,
) -> list[Resident]:
    """Group checkpoints by base and work out every entry; parameters as in `ingest`."""
    if not checkpoints or not tasks or not renderings:
        raise InvalidInput("expected at least one checkpoint, one task and one rendering")
    chosen_renderings = _load_renderings(renderings)
    _check_names(checkpoints, tasks)
    residents: dict[tuple[str, str | None], Resident] = {}
    tokenized: dict[tuple[int, str, str], TokenizedTask] = {}
    for checkpoint in checkpoints:
        place = (checkpoint.base, checkpoint.revision)
        if place not in residents:
            base = find_base(*place)
            check_unknown(base)
            chosen = parse_layers(layers, base.config.num_hidden_layers)
            residents[place] = Resident(checkpoint.base, base, checkpoint.revision, chosen, resolve_dtype(dtype, base))
        resident = residents[place]
        adapter = None
        if checkpoint.adapter is not None:
            adapter = find_adapter(
                checkpoint.adapter, resident.base, checkpoint.base, allow_base_mismatch=allow_base_mismatch
            )
        run = Run(checkpoint, adapter, identity(resident.base, adapter))
        for task in _tasks_of(checkpoint, tasks, all_tasks):
            for rendering in chosen_renderings:
                known = (id(resident), task.slug, rendering.slug)
                if known not in tokenized:
                    tokenized[known] = tokenize(task, resident.base.tokenizer, rendering, resident.base.max_tokens)
                plan = make_plan(tokenized[known].lengths, batch_tokens)
                run.jobs.extend(
                    _job(resident, run, position, task, rendering, tokenized[known], plan) for position in positions
                )
        resident.runs.append(run)
    return list(residents.values())


def _check_names(checkpoints: Sequence[Checkpoint], tasks: Sequence[Task]) -> None:
    named = {"checkpoints": [checkpoint.slug for checkpoint in checkpoints], "tasks": [task.slug for task in tasks]}
    for what, names in named.items():
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidInput(f"two {what} are called {', '.join(twice)}; give each its own name")


def _tasks_of(checkpoint: Checkpoint, tasks: Sequence[Task], all_tasks: bool) -> Iterator[Task]:
    """A control, trained on exactly one task, is ingested on that task alone."""
    known = [task.slug for task in tasks]
    for trained_on in checkpoint.trained_on:
        if trained_on not in known:
            raise NotFound(
                f"{checkpoint.slug} is said to be trained on {trained_on!r}, which is not among the tasks; "
                f"{near_misses(trained_on, known)}"
            )
    is_control = len(checkpoint.trained_on) == 1 and not all_tasks
    yield from (task for task in tasks if not is_control or task.slug == checkpoint.trained_on[0])


def _load_renderings(renderings: Sequence[str | Rendering]) -> list[Rendering]:
    chosen: dict[str, Rendering] = {}
    for rendering in map(load_rendering, renderings):
        if chosen.setdefault(rendering.slug, rendering) != rendering:
            raise InvalidInput(f"two renderings are called {rendering.slug}; rename one of the files")
    return list(chosen.values())


def _job(
    resident: Resident,
    run: Run,
    position: str,
    task: Task,
    rendering: Rendering,
    tokenized: TokenizedTask,
    plan: Plan,
) -> Job:
    return Job(
        position,
        task,
        rendering.slug,
        tokenized,
        plan,
        EntryIdentity(
            model_digest=run.identity.digest,
            tokenizer_digest=resident.base.tokenizer_digest,
            task_digest=task.digest,
            rendering_digest=rendering_digest(resident.base.tokenizer, rendering),
            plan_digest=plan.digest,
            position=position,
            layers=resident.layers,
            dtype=resident.dtype,
        ),
    )
