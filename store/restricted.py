"""Restricted tasks: what may not leave the store unless that is asked for."""

from actlas.store.errors import InvalidInput
from actlas.store.labels import RESTRICTED
from actlas.store.reader import Store


def check_not_restricted(store: Store, task: str, *, allow: bool) -> None:
    """Refuse to let a restricted task out of its store.

    Raises
    ------
    InvalidInput
        When the task is labelled ``restricted`` and that was not allowed.
    """
    labels = store.task_labels(task)
    if not labels.get(RESTRICTED) or allow:
        return
    terms = "; ".join(f"{name}: {labels[name]}" for name in ("licence", "source") if name in labels)
    raise InvalidInput(
        f"task {task!r} of {store.location} is restricted{f' ({terms})' if terms else ''}: prompts can be recovered from "
        "activations; leave it out, or, if its terms allow it, say --allow-restricted"
    )
