"""Samples: some of a task's examples, the same ones whenever they are drawn again."""

from dataclasses import replace

from actlas.store import InvalidInput, Task
from actlas.store.digest import text_digest


def sample_task(task: Task, n_examples: int, seed: int = 0) -> Task:
    """Return a task with at most `n_examples` of its examples, in task order.

    They are those whose ids, hashed with the seed, come first. So the choice depends on neither the order of the rows nor
    the version of a random generator, and a smaller sample of the same seed is a part of a larger one.

    Parameters
    ----------
    task : Task
        With as many examples or fewer it is returned as it is.
    n_examples : int
        At least 1.
    seed : int
        Another seed draws others.

    Raises
    ------
    InvalidInput
        When `n_examples` is below 1.
    """
    if n_examples < 1:
        raise InvalidInput(f"task {task.slug}: expected at least 1 example to be drawn, got {n_examples}")
    if len(task) <= n_examples:
        return task
    ranked = sorted(task.example_ids, key=lambda example_id: text_digest(str(seed), example_id))
    drawn = set(ranked[:n_examples])
    rows = tuple(row for row in task.rows if row["example_id"] in drawn)
    return replace(task, rows=rows, n_available=len(task), seed=seed)
