"""What a store holds of each task: the overview over tasks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from actlas.store.catalog import Record
from actlas.store.labels import CLUSTER, RESTRICTED
from actlas.store.reader import Store


@dataclass(frozen=True, kw_only=True)
class TaskSummary:
    """One task of a store.

    Attributes
    ----------
    task : str
        Its slug.
    cluster : str or None
        Its label ``cluster``: the group of tasks that it belongs to.
    n_examples : tuple of int
        Examples of its entries; several where it was ingested in several versions.
    n_models : int
        Models that have an entry on it.
    restricted : bool
        Whether copies and exports are refused.
    renderings, positions : tuple of str
        Those of its entries.
    """

    task: str
    cluster: str | None
    n_examples: tuple[int, ...]
    n_models: int
    restricted: bool
    renderings: tuple[str, ...]
    positions: tuple[str, ...]


def summarise_tasks(store: Store, records: Iterable[Record]) -> list[TaskSummary]:
    """Return the tasks of some entries of a store, sorted by slug.

    Raises
    ------
    Corrupt
        When the labels of a task were changed other than by actlas.
    """
    of_task: dict[str, list[Record]] = {}
    for record in records:
        of_task.setdefault(record.task, []).append(record)
    return [_summarise(store, task, of_task[task]) for task in sorted(of_task)]


def _summarise(store: Store, task: str, records: Sequence[Record]) -> TaskSummary:
    labels = store.task_labels(task)
    cluster = labels.get(CLUSTER)
    return TaskSummary(
        task=task,
        cluster=None if cluster is None else str(cluster),
        n_examples=tuple(sorted({record.n_examples for record in records})),
        n_models=len({record.model for record in records}),
        restricted=bool(labels.get(RESTRICTED)),
        renderings=tuple(sorted({record.rendering for record in records})),
        positions=tuple(sorted({record.position for record in records})),
    )
