"""What is asked for: models with their rendering, tasks by pattern, pairs of models and of layers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import combinations, combinations_with_replacement, pairwise, product

from actlas.store import InvalidInput, NotFound, Record, Store, near_misses
from actlas.store.layers import parse_layers

Pair = tuple["ModelRef", "ModelRef"]


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
    refs = [parse_model(text) for text in models]
    if len(refs) < 2:
        raise InvalidInput(f"expected at least two models to compare, got {len(refs)}")
    if twice := {str(ref) for ref in refs if refs.count(ref) > 1}:
        raise InvalidInput(f"asked for {', '.join(sorted(twice))} twice; name every model once")
    return refs


def parse_model(text: str) -> ModelRef:
    """Parse ``model`` or ``model:rendering``, with or without ``@dtype`` or ``@key``."""
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


def select_records(
    store: Store, refs: Iterable[ModelRef], tasks: Sequence[str], position: str
) -> dict[tuple[str, ModelRef], Record]:
    """Return what the catalogue says of the entry of every model on every task where it has one.

    Raises
    ------
    NotFound
        When a model has no entry under its rendering on any of the tasks.
    InvalidInput
        When several entries fit, or they have a row for each token.
    """
    found: dict[tuple[str, ModelRef], Record] = {}
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


def _only(store: Store, ref: ModelRef, fitting: Sequence[Record]) -> Record:
    if len(fitting) > 1:
        listing = "\n  ".join(record.label for record in fitting)
        raise InvalidInput(
            f"{store.location}: {len(fitting)} entries fit; choose one by its dtype or key, as in "
            f"{ref.model}@{fitting[0].dtype} or {ref.model}@{fitting[0].key[:8]}:\n  {listing}"
        )
    return fitting[0]


def model_pairs(refs: Sequence[ModelRef], pairs: str, *, with_self: bool) -> list[Pair]:
    """Return the pairs of models that are asked for.

    Parameters
    ----------
    refs : sequence of ModelRef
        The models, in the order given.
    pairs : str
        ``all``, ``ref:MODEL`` or ``consecutive``.
    with_self : bool
        Whether each model is also paired with itself.

    Raises
    ------
    InvalidInput
        For other words.
    NotFound
        When MODEL is not among the models.
    """
    selves = [(ref, ref) for ref in refs] if with_self else []
    if pairs == "all":
        return list(combinations_with_replacement(refs, 2) if with_self else combinations(refs, 2))
    if pairs == "consecutive":
        return [*selves, *pairwise(refs)]
    kind, _, name = pairs.partition(":")
    if kind != "ref" or not name:
        raise InvalidInput(f"pairs {pairs!r}: expected all, consecutive or ref:MODEL")
    known = {str(ref): ref for ref in refs}
    if name not in known:
        raise NotFound(f"pairs {pairs!r}: {name!r} is not among the models named; {near_misses(name, known)}")
    return [*selves, *((known[name], ref) for ref in refs if ref != known[name])]


def are_matched(layers: str) -> bool:
    """Return whether a layer is compared with the same layer of the other model only."""
    return layers not in ("all", "relative")


def layer_pairs(a: Record, b: Record, layers: str) -> list[tuple[int, int]]:
    """Return the pairs of layers of two entries, as `Question.layers` says.

    Raises
    ------
    InvalidInput
        When matched layers are asked of models that keep different layers, or a layer is asked for that is not kept.
    """
    if layers == "all":
        return list(combinations_with_replacement(a.layers, 2) if a.path == b.path else product(a.layers, b.layers))
    if layers == "relative":
        return _relative(a.layers, b.layers)
    of_a, of_b = (record.layers if layers == "matched" else _listed(record, layers) for record in (a, b))
    if of_a != of_b:
        raise InvalidInput(
            f"task {a.task!r}: {a.model} keeps {len(of_a)} layers ({of_a[0]} to {of_a[-1]}), {b.model} "
            f"keeps {len(of_b)} ({of_b[0]} to {of_b[-1]}); matched layers need the same; use --layers relative, all, or a "
            "list of layers that both keep"
        )
    return [(layer, layer) for layer in of_a]


def _listed(record: Record, layers: str) -> tuple[int, ...]:
    try:
        return parse_layers(layers, record.layers[-1], known=record.layers)
    except InvalidInput as error:
        raise InvalidInput(f"{record.label}: {error}; name layers that every model keeps") from error


def _relative(a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int]]:
    """Pair each layer of the entry with fewer layers with the kept one nearest in relative depth, the lower of two."""
    if len(a) > len(b):
        return [(layer_a, layer_b) for layer_b, layer_a in _relative(b, a)]
    deepest_a, deepest_b = max(a[-1], 1), max(b[-1], 1)
    return [(layer, min(b, key=lambda other: abs(other * deepest_a - layer * deepest_b))) for layer in a]
