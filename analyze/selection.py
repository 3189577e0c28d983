"""What is asked for: models with their rendering, tasks by pattern, pairs of models and of layers."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import combinations, combinations_with_replacement, product
from typing import Literal

from actlas.store import Entry, InvalidInput, NotFound, Store, near_misses

Layers = Literal["matched", "all"]


@dataclass(frozen=True)
class ModelRef:
    """A model under one rendering; written ``model`` or ``model:rendering``."""

    model: str
    rendering: str = "raw"

    def __str__(self) -> str:
        return self.model if self.rendering == "raw" else f"{self.model}:{self.rendering}"


def parse_models(models: Sequence[str]) -> list[ModelRef]:
    """Parse ``model`` or ``model:rendering``.

    Raises
    ------
    InvalidInput
        For fewer than two models, or the same one twice.
    """
    refs = [ModelRef(*text.split(":", 1)) for text in models]
    if len(refs) < 2:
        raise InvalidInput(f"expected at least two models to compare, got {len(refs)}")
    if twice := {str(ref) for ref in refs if refs.count(ref) > 1}:
        raise InvalidInput(f"asked for {', '.join(sorted(twice))} twice; name every model once")
    return refs


def select_tasks(store: Store, patterns: str | Sequence[str] | None) -> list[str]:
    """Return the store's tasks that fit any of the patterns, sorted; all without a pattern.

    Raises
    ------
    NotFound
        When a pattern fits no task.
    """
    known = store.tasks()
    if patterns is None:
        return known
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in wanted:
        if not any(fnmatchcase(task, pattern) for task in known):
            raise NotFound(f"{store.root}: no task fits {pattern!r}; {near_misses(pattern, known)}")
    return [task for task in known if any(fnmatchcase(task, pattern) for pattern in wanted)]


def select_entries(store: Store, refs: Iterable[ModelRef], tasks: Sequence[str]) -> dict[tuple[str, ModelRef], Entry]:
    """Return the entry of every model on every task where it has one.

    Raises
    ------
    NotFound
        When a model has no entry under its rendering on any of the tasks.
    InvalidInput
        When several entries fit.
    """
    found: dict[tuple[str, ModelRef], Entry] = {}
    for ref in refs:
        there = {entry.task for entry in store.entries(model=ref.model, rendering=ref.rendering, position="last")}
        chosen = [task for task in tasks if task in there]
        if not chosen:
            renderings = sorted({f"{ref.model}:{entry.rendering}" for entry in store.entries(model=ref.model)})
            raise NotFound(
                f"{store.root}: model {ref.model!r} has no entry with rendering {ref.rendering!r} on the tasks asked "
                f"for ({', '.join(tasks)}); it has {', '.join(renderings)} on {', '.join(sorted(there)) or 'none of them'}"
            )
        for task in chosen:
            found[task, ref] = store.entry(model=ref.model, task=task, rendering=ref.rendering)
    return found


def model_pairs(refs: Sequence[ModelRef], layers: Layers) -> list[tuple[ModelRef, ModelRef]]:
    """Return all pairs of models; with all layers, each model is also paired with itself."""
    return list(combinations(refs, 2) if layers == "matched" else combinations_with_replacement(refs, 2))


def layer_pairs(a: Entry, b: Entry, layers: Layers) -> Iterator[tuple[int, int]]:
    """Return the pairs of layers of two entries: equal depth for equal depth, or every pair once.

    Raises
    ------
    InvalidInput
        When matched layers are asked of models that keep different layers.
    """
    if layers == "matched":
        if a.layers != b.layers:
            raise InvalidInput(
                f"task {a.task!r}: {a.model} keeps {len(a.layers)} layers ({a.layers[0]} to {a.layers[-1]}), {b.model} "
                f"keeps {len(b.layers)} ({b.layers[0]} to {b.layers[-1]}); matched layers need the same; use --layers all"
            )
        return zip(a.layers, b.layers, strict=True)
    if a.path == b.path:
        return combinations_with_replacement(a.layers, 2)
    return product(a.layers, b.layers)
