"""Jobs: which entries an ingest has to compute, decided and checked before any weights are loaded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path

from actlas.ingest.checkpoint import Adapter, Base, Checkpoint, find_adapter, find_base, find_directory, identity
from actlas.ingest.controls import Draw, Reach, is_control, tasks_of
from actlas.ingest.plan import Plan, make_plan, token_offsets
from actlas.ingest.positions import ALL, CONTENT, LAST, TARGETS
from actlas.ingest.rendering import Rendering, load_rendering, rendering_digest
from actlas.ingest.tokenizing import TokenizedTask, tokenize
from actlas.ingest.trial import check_unknown
from actlas.store import ActError, EntryIdentity, InvalidInput, ModelIdentity, Task
from actlas.store.dtype import check_dtype
from actlas.store.layers import parse_layers

WITH_OUTPUTS = LAST  # the position beside which outputs are kept: theirs is the last token of each prompt too


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
    """One checkpoint: the base or an adapter, the entries that it needs, and the draw of tasks behind them."""

    checkpoint: Checkpoint
    adapter: Adapter | None
    identity: ModelIdentity
    draw: Draw | None
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

    @cached_property
    def offsets(self) -> list[int]:
        """Where every token is a row: the row of each example's first token."""
        return token_offsets(self.plan, self.tokenized.lengths)

    @property
    def n_rows(self) -> int:
        """Rows of the entry."""
        return sum(self.tokenized.lengths) if self.position == ALL else len(self.task)


def n_whole(job: Job, n_rows: int) -> int:
    """Return how many examples the first rows of an entry hold whole."""
    if job.position != ALL:
        return n_rows
    return sum(first + length <= n_rows for first, length in zip(job.offsets, job.tokenized.lengths, strict=True))


def all_jobs(residents: Sequence[Resident]) -> Iterator[tuple[Resident, Job]]:
    """Yield every job with the base that it runs on."""
    for resident in residents:
        for run in resident.runs:
            for job in run.jobs:
                yield resident, job


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
    outputs: bool,
    layers: str | None,
    dtype: str,
    reach: Reach,
    allow_base_mismatch: bool,
) -> list[Resident]:
    """Group checkpoints by base, whatever their order, and work out every entry; parameters as in `ingest`.

    Raises
    ------
    ActError
        For anything that is wrong with them; where a checkpoint is a row of a sweep, the message begins with its line.
    """
    if not checkpoints or not tasks or not renderings:
        raise InvalidInput("expected at least one checkpoint, one task and one rendering")
    chosen_renderings = _load_renderings(renderings)
    _check_wishes(chosen_renderings, positions, outputs)
    _check_names(checkpoints, tasks)
    if reach.off_target is not None and not any(map(is_control, checkpoints)):
        raise InvalidInput("--off-target: none of the checkpoints is a control, trained on exactly one task")
    residents: dict[tuple[Path, str | None, int | None], Resident] = {}
    prepared: dict[tuple[Path, str | None, str, str], tuple[TokenizedTask, Plan]] = {}
    for checkpoint in checkpoints:
        with _naming(checkpoint):
            place = find_directory(checkpoint.base, checkpoint.revision).resolve()
            weights = (place, checkpoint.stack, checkpoint.random_init)
            if weights not in residents:
                residents[weights] = _resident(checkpoint, layers, dtype)
                _check_family(residents[weights].base, chosen_renderings, positions, outputs)
            resident, adapter = residents[weights], None
            if checkpoint.adapter is not None:
                adapter = find_adapter(
                    checkpoint.adapter, resident.base, checkpoint.base, allow_base_mismatch=allow_base_mismatch
                )
            chosen, draw = tasks_of(checkpoint, tasks, reach)
        run = Run(checkpoint, adapter, identity(resident.base, adapter), draw)
        for task, rendering in product(chosen, chosen_renderings):
            known = (place, checkpoint.stack, task.slug, rendering.slug)
            if known not in prepared:  # the same for every adapter of a base, and for random weights
                prepared[known] = _prepare(task, resident.base, rendering, positions, batch_tokens)
            run.jobs.extend(
                _job(resident, run, position, task, rendering, *prepared[known], outputs) for position in positions
            )
        resident.runs.append(run)
    return list(residents.values())


def _prepare(
    task: Task, base: Base, rendering: Rendering, positions: Sequence[str], batch_tokens: int
) -> tuple[TokenizedTask, Plan]:
    tokenized = tokenize(
        task,
        base.tokenizer,
        rendering,
        base.max_tokens,
        with_content=CONTENT in positions,
        has_decoder=base.family.is_decoder_stack,
    )
    return tokenized, make_plan(tokenized.lengths, batch_tokens)


def _resident(checkpoint: Checkpoint, layers: str | None, dtype: str) -> Resident:
    base = find_base(checkpoint.base, checkpoint.revision, checkpoint.random_init, checkpoint.stack)
    check_unknown(base)
    chosen = parse_layers(layers, base.family.depth(base.config))
    return Resident(checkpoint.base, base, checkpoint.revision, chosen, resolve_dtype(dtype, base))


@contextmanager
def _naming(checkpoint: Checkpoint) -> Iterator[None]:
    """Put the line of a sweep before what is wrong with its checkpoint."""
    try:
        yield
    except ActError as error:
        if checkpoint.origin is None:
            raise
        raise type(error)(f"{checkpoint.origin}: {error}") from error


def _check_wishes(renderings: Sequence[Rendering], positions: Sequence[str], outputs: bool) -> None:
    """Refuse positions and outputs that are not there."""
    alone = [rendering.slug for rendering in renderings if not rendering.with_target]
    if alone and (lost := [position for position in positions if position in TARGETS]):
        raise InvalidInput(
            f"position {lost[0]}: expected prompts with their targets, got {', '.join(alone)}; add --with-target"
        )
    if outputs and WITH_OUTPUTS not in positions:
        raise InvalidInput(
            f"--outputs: they are kept beside the position {WITH_OUTPUTS}, got {', '.join(positions)}; add "
            f"--position {WITH_OUTPUTS}"
        )


def _check_family(base: Base, renderings: Sequence[Rendering], positions: Sequence[str], outputs: bool) -> None:
    """Refuse what only causal decoders can do, and of a decoder stack what speaks of the encoder's prompt."""
    if base.family.is_decoder_stack:
        alone = [rendering.slug for rendering in renderings if not rendering.with_target]
        if wrong := alone + sorted({*positions} - {LAST, *TARGETS}) + ["--outputs"] * outputs:
            raise InvalidInput(
                f"{base.directory}: a decoder stack expects --with-target, the positions {', '.join((LAST, *TARGETS))}, and "
                f"no --outputs, got {', '.join(wrong)}; leave that out"
            )
    elif base.family.masks and (outputs or any(rendering.with_target for rendering in renderings)):
        asked = "--outputs" if outputs else "--with-target"
        raise InvalidInput(
            f"{base.directory}: {asked} needs a causal decoder, this is an {base.family.kind}; leave it out"
        )


def _check_names(checkpoints: Sequence[Checkpoint], tasks: Sequence[Task]) -> None:
    named = {"checkpoints": [checkpoint.slug for checkpoint in checkpoints], "tasks": [task.slug for task in tasks]}
    for what, names in named.items():
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidInput(f"two {what} are called {', '.join(twice)}; give each its own name")


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
    outputs: bool,
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
            outputs=outputs and position == WITH_OUTPUTS,
        ),
    )
