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
    """A model under one rendering; written ``model`` or ``model:rendering``.

    Where several entries fit, ``@`` and a dtype or the first digits of a key choose one: ``model@bfloat16``.
    """

    model: str
    rendering: str = "raw"
    choice: str = ""

    def __str__(self) -> str:
        rendering = "" if self.rendering == "raw" else f":{self.rendering}"
        return f"{self.model}{rendering}" + (f"@{self.choice}" if self.choice else "")

    def fits(self, entry: Entry) -> bool:
        """Whether an entry of the model is meant."""
        return (entry.rendering, entry.position) == (self.rendering, "last") and (
            entry.identity.dtype == self.choice or entry.key.startswith(self.choice)
        )


def parse_models(models: Sequence[str]) -> list[ModelRef]:
    """Parse ``model`` or ``model:rendering``, each with or without ``@dtype`` or ``@key``.

    Raises
    ------
    InvalidInput
        For fewer than two models, or the same one twice.
    """
    refs = [_parse_model(text) for text in models]
    if len(refs) < 2:
        raise InvalidInput(f"expected at least two models to compare, got {len(refs)}")
    if twice := {str(ref) for ref in refs if refs.count(ref) > 1}:
        raise InvalidInput(f"asked for {', '.join(sorted(twice))} twice; name every model once")
    return refs


def _parse_model(text: str) -> ModelRef:
    name, _, choice = text.partition("@")
    model, colon, rendering = name.partition(":")
    return ModelRef(model, rendering if colon else "raw", choice)


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
        there = store.entries(model=ref.model)
        fitting = [entry for entry in there if ref.fits(entry) and entry.task in tasks]
        if not fitting:
            names = {
                f"{entry.model}:{entry.rendering}" + (f"@{entry.identity.dtype}" if ref.choice else "")
                for entry in there
            }
            raise NotFound(
                f"{store.root}: {ref} has no entry with rendering {ref.rendering!r} on the tasks asked for "
                f"({', '.join(tasks)}); it has {', '.join(sorted(names))} on "
                f"{', '.join(sorted({entry.task for entry in there}))}"
            )
        for entry in fitting:
            found[entry.task, ref] = _only(store, ref, [other for other in fitting if other.task == entry.task])
    return found


def _only(store: Store, ref: ModelRef, fitting: Sequence[Entry]) -> Entry:
    if len(fitting) > 1:
        listing = "\n  ".join(entry.label for entry in fitting)
        raise InvalidInput(
            f"{store.root}: {len(fitting)} entries fit; choose one by its dtype or key, as in "
            f"{ref.model}@{fitting[0].identity.dtype} or {ref.model}@{fitting[0].key[:8]}:\n  {listing}"
        )
    [entry] = fitting
    return store.entry(
        model=entry.model, task=entry.task, rendering=entry.rendering, position=entry.position, key=entry.key
    )


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
