"""What is asked for: models with their rendering, tasks by pattern, pairs of models and of layers."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import combinations, combinations_with_replacement, product
from typing import Literal

from actlas.store import Entry, InvalidInput, NotFound, Record, Store, near_misses

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

    def fits(self, record: Record) -> bool:
        """Whether an entry of the model is meant."""
        return record.rendering == self.rendering and (
            record.dtype == self.choice or record.key.startswith(self.choice)
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
            raise NotFound(f"{store.location}: no task fits {pattern!r}; {near_misses(pattern, known)}")
    return [task for task in known if any(fnmatchcase(task, pattern) for pattern in wanted)]


def select_entries(
    store: Store, refs: Iterable[ModelRef], tasks: Sequence[str], position: str
) -> dict[tuple[str, ModelRef], Entry]:
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
        there = store.records(model=ref.model, position=position)
        fitting = [record for record in there if ref.fits(record) and record.task in tasks]
        if not fitting:
            names = {
                f"{record.model}:{record.rendering}" + (f"@{record.dtype}" if ref.choice else "") for record in there
            }
            raise NotFound(
                f"{store.location}: {ref} has no entry with rendering {ref.rendering!r} and position {position!r} on the "
                f"tasks asked for ({', '.join(tasks)}); at this position it has {', '.join(sorted(names))} on "
                f"{', '.join(sorted({record.task for record in there}))}{store.withdrawn(ref.model)}"
            )
        if position == "all":
            raise InvalidInput(
                f"{store.location}: entries of position {position} have a row for each token, and models are compared by one row "
                "an example; ingest and compare another position, such as last or mean"
            )
        for task in {record.task for record in fitting}:
            found[task, ref] = _only(store, ref, [record for record in fitting if record.task == task])
    return found


def _only(store: Store, ref: ModelRef, fitting: Sequence[Record]) -> Entry:
    if len(fitting) > 1:
        listing = "\n  ".join(record.label for record in fitting)
        raise InvalidInput(
            f"{store.location}: {len(fitting)} entries fit; choose one by its dtype or key, as in "
            f"{ref.model}@{fitting[0].dtype} or {ref.model}@{fitting[0].key[:8]}:\n  {listing}"
        )
    entry = store.open_entry(fitting[0])
    entry.hidden_states  # noqa: B018  presence and sizes of its files are checked before anything is computed
    return entry


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
