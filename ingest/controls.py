"""Controls: models that were fine-tuned on one task, and the tasks that they are ingested on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from actlas.ingest.checkpoint import Checkpoint
from actlas.ingest.clusters import cluster_of
from actlas.store import InvalidInput, NotFound, Task, near_misses
from actlas.store.digest import json_digest


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far beyond its own task a control is ingested.

    Attributes
    ----------
    all_tasks : bool
        On all tasks.
    off_target : int or None
        On so many tasks of other clusters, which are drawn; on none by default.
    seed : int
        Seed of the draw.
    clusters : mapping
        From task to cluster, where it is not FLAN's; a task of unknown cluster is a cluster of its own.

    Raises
    ------
    InvalidInput
        When both are asked for, or fewer than one task.
    """

    all_tasks: bool = False
    off_target: int | None = None
    seed: int = 0
    clusters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.all_tasks and self.off_target is not None:
            raise InvalidInput("--all-tasks and --off-target exclude each other: all tasks leave none to be drawn")
        if self.off_target is not None and self.off_target < 1:
            raise InvalidInput(f"--off-target: expected at least 1 task of other clusters, got {self.off_target}")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Tasks that were drawn for a control.

    Attributes
    ----------
    tasks : tuple of str
        In the order of the draw.
    seed : int
        Its seed.
    """

    tasks: tuple[str, ...]
    seed: int


def is_control(checkpoint: Checkpoint) -> bool:
    """Return whether it was fine-tuned on exactly one task."""
    return len(checkpoint.trained_on) == 1


def tasks_of(checkpoint: Checkpoint, tasks: Sequence[Task], reach: Reach) -> tuple[list[Task], Draw | None]:
    """Return the tasks that a checkpoint is ingested on, in the order of `tasks`, and the draw that chose some of them.

    Raises
    ------
    NotFound
        When it was trained on a task that is not among them.
    InvalidInput
        When fewer tasks are of other clusters than are to be drawn.
    """
    known = [task.slug for task in tasks]
    for trained_on in checkpoint.trained_on:
        if trained_on not in known:
            raise NotFound(
                f"{checkpoint.slug} is said to be trained on {trained_on!r}, which is not among the tasks; "
                f"{near_misses(trained_on, known)}"
            )
    if reach.all_tasks or not is_control(checkpoint):
        return list(tasks), None
    own, draw = checkpoint.trained_on[0], None
    if reach.off_target is not None:
        draw = Draw(tasks=_draw(checkpoint.slug, own, known, reach.off_target, reach), seed=reach.seed)
    wanted = {own, *(draw.tasks if draw else ())}
    return [task for task in tasks if task.slug in wanted], draw


def _draw(control: str, own: str, tasks: Sequence[str], n: int, reach: Reach) -> tuple[str, ...]:
    """Rank the tasks of other clusters by a digest: nothing but the control's name and the seed decides the order."""
    home = cluster_of(own, reach.clusters)
    # Unknown clusters are None, and differ from one another.
    others = [task for task in tasks if task != own and (home is None or cluster_of(task, reach.clusters) != home)]
    if len(others) < n:
        raise InvalidInput(
            f"{control}: --off-target {n}, but {len(others)} of the {len(tasks)} tasks are of another cluster than {own} "
            f"({home or 'of its own'}); ask for fewer, or give more --tasks"
        )
    return tuple(sorted(others, key=lambda task: json_digest([reach.seed, control, task]))[:n])
