"""Compare models from a store: what is asked is cut into blocks, each block is computed once, all make one table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, get_args

import pandas as pd

from actlas.analyze.blocks import Block, blocks_of
from actlas.analyze.cache import Cache, default_directory
from actlas.analyze.engine import MEMORY
from actlas.analyze.question import Question
from actlas.analyze.rows import Row, names_of
from actlas.analyze.work import Work, locally, plans, prepare
from actlas.store import Depth, InvalidInput, Store

if TYPE_CHECKING:
    import xarray as xr

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Means:
    """With what a comparison is computed; none of it changes a number.

    Attributes
    ----------
    memory : int
        Budget in bytes.
    depth : {"size", "sample", "full"}
        How far the entries are verified first: presence and sizes of their files, a sample of the files, or all bytes.
        Whatever it is, every chunk that is read is checked against its checksum.
    cache : bool
        Whether blocks that were computed before are taken from the user's cache directory ($ACTLAS_CACHE), unless the
        entries are to be verified first, and new ones kept there.
    scheduler : str, optional
        A Dask scheduler, ``tcp://HOST:PORT`` or its scheduler file, whose workers compute a task each, with the budget; they
        must reach the store under its location. By default this machine computes.
    announce : callable, optional
        Called with the address of that scheduler's dashboard.
    progress : callable, optional
        Called with tasks done, tasks in all, and the task at hand.
    """

    memory: int = MEMORY
    depth: Depth = "size"
    cache: bool = True
    scheduler: str | None = None
    announce: Callable[[str], None] | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.depth not in get_args(Depth):
            raise InvalidInput(f"depth: expected one of {', '.join(get_args(Depth))}, got {self.depth!r}")


_MEANS = Means()


class Options(TypedDict, total=False):
    """What `compare` and `compare_table` can be given by name; see `compare`."""

    tasks: str | Sequence[str] | None
    pairs: str
    layers: str
    position: str
    metrics: Sequence[str]
    where: str | None
    match_n: int | None
    seed: int
    min_shared: float
    differences: bool
    baselines: bool
    null: bool
    audit: bool
    behaviour: bool
    memory: int
    depth: Depth
    cache: bool
    scheduler: str | None
    announce: Callable[[str], None] | None
    progress: Progress | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What was asked, and the answer.

    Attributes
    ----------
    question : Question
        What was asked.
    table : pandas.DataFrame
        One row a (task, pair of models, pair of layers); see `compare_table`.
    differences : pandas.DataFrame
        Where they were asked for, one row a (task, reference, two models, layer): CKA(reference, model_a) minus
        CKA(reference, model_b) on the rows that all three have, with its paired standard error; empty otherwise.
    answers : tuple of (Block, sequence of Row)
        Every block with its rows, of which the two tables are made.
    """

    question: Question
    table: pd.DataFrame
    differences: pd.DataFrame
    answers: tuple[tuple[Block, Sequence[Row]], ...]

    @property
    def of_models(self) -> pd.DataFrame:
        """The rows of `table` that compare two models, without those of baselines."""
        return self.table[self.table["entry_b"] != ""]

    def to_dataset(self) -> "xr.Dataset":
        """Return the table as labelled arrays."""
        from actlas.analyze.results import to_dataset  # xarray takes a tenth of a second to import

        return to_dataset(self.table, self.question.layers)


def compare(store: Store, models: Sequence[str], **options: Unpack[Options]) -> "xr.Dataset":
    """Compare models by linear CKA on every task that they share, out of core.

    Parameters
    ----------
    store : Store
        Where their activations are.
    models : sequence of str
        ``model`` or ``model:rendering``, each with or without ``@dtype`` or ``@key``.
    tasks : str or sequence of str, optional
        Names or glob patterns; all tasks by default.
    pairs : str
        ``all`` pairs of models (default), ``ref:MODEL`` with each of the others, or ``consecutive`` ones.
    layers : str
        ``matched`` (default): each layer with the same layer of the other model; a list such as ``0,8,16:``: these alone;
        ``relative``: each layer of the shallower model with the one at the same relative depth; ``all``: every pair of
        layers, also inside each model.
    position : str
        Of which position the entries are; ``last`` by default.
    metrics : sequence of str
        Metrics beside CKA, such as ``procrustes`` or ``mutual-knn:5``; see docs/reference/metrics.md. Each pair of
        representations is read whole for these, and computed in float64.
    where : str, optional
        Only examples whose columns fit, such as ``label == "yes" and template_id in (1, 2)``.
    match_n, seed : int, optional
        Draw that many examples of every pair, by a digest of seed (0) and example id; fewer than that gives NaN.
    min_shared : float
        Refuse two entries that share less than this share of the larger one's examples; 0 by default.
    differences, baselines : bool
        As in `ask`; baselines are further rows, called ``MODEL (layer 0)``, ``MODEL (prompt length)`` and
        ``MODEL (template)``.
    null, audit, behaviour : bool
        Further columns: see `compare_table`.
    memory, depth, cache, scheduler, announce, progress : optional
        As in `Means`.

    Returns
    -------
    xarray.Dataset
        Dimensions (pair, task, layer) where layers match, else (pair, task, layer_a, layer_b). See `compare_table` for the
        variables.

    Raises
    ------
    ActError
        As `ask`.
    """
    return _ask(store, models, options).to_dataset()


def compare_table(store: Store, models: Sequence[str], **options: Unpack[Options]) -> pd.DataFrame:
    """Compare models as `compare` does, and return a table with one row a (task, pair of models, pair of layers).

    Returns
    -------
    pandas.DataFrame
        task, model_a, model_b, layer_a, layer_b; cka with cka_se, cka_biased with null_mean; n rows in `groups`
        independent groups, rows dropped because they are not finite, examples unmatched; features p and q,
        participation_a and participation_b; a column for each of `metrics`, called as it was asked for; flags, the reason
        of a NaN, and both entries' ids.

        With `null` null_sd, null_skewness and p_value of cka_biased over all permutations of rows. With `audit` cka_zscored
        and cka_without_top_3 (features of largest variance); of both sides top_variance and top_gram (the largest
        feature's share of the variance and of |K|^2), first_eigenvalue and largest_row (their shares of |K|^2);
        most_influential, the row or source whose removal moves cka most, and its influence. With `behaviour` top_agreement,
        kl, shared_mass and nll_difference (b minus a, nats), each with ``_se``.

    Raises
    ------
    ActError
        As `ask`.
    """
    return _ask(store, models, options).table


def _ask(store: Store, models: Sequence[str], options: Mapping[str, Any]) -> Comparison:
    given = dict(options)
    means = Means(**{name: given.pop(name) for name in Means.__annotations__ if name in given})
    return ask(store, Question.of(models, **given), means)


def ask(store: Store, asked: Question, means: Means = _MEANS) -> Comparison:
    """Answer a question.

    Raises
    ------
    NotFound
        For an unknown model or task, or models that share no task.
    InvalidInput
        For fewer than 4 shared examples, or layers that do not match.
    Mismatch
        When one tokenizer and rendering gave different tokens.
    MemoryBudget
        When the budget holds not even one pair of tiles, or not what a metric needs.
    Corrupt, Incomplete
        When stored data is damaged.
    """
    return answer(store, asked, blocks_of(store, asked), means)


def answer(store: Store, asked: Question, blocks: Sequence[Block], means: Means = _MEANS) -> Comparison:
    """Answer a question by the blocks given, whatever else in the store would fit it; errors as `ask`."""
    cache = Cache(default_directory() if means.cache else None)
    known = {block: cache.find(block, asked) for block in blocks} if means.depth == "size" else {}
    rows = {block: found for block, found in known.items() if found is not None}
    works = _works(asked, [block for block in blocks if block not in rows], means)
    # What cannot be answered is refused before anything is computed.
    everything = [prepare(store, work) for work in works]
    if means.scheduler is None:
        done = locally(works, everything)
    else:
        from actlas.analyze.cluster import on_cluster  # distributed takes half a second to import

        done = on_cluster(store, works, means.scheduler, means.announce)
    if works and means.progress is not None:
        means.progress(0, len(works), works[0].task)
    for number, (work, results) in enumerate(done, start=1):
        for block, found in zip(work.blocks, results, strict=True):
            cache.keep(block, asked, found)
            rows[block] = found
        if number < len(works) and means.progress is not None:
            means.progress(number, len(works), works[number].task)
    return _assemble(asked, blocks, rows)


def explain(store: Store, asked: Question, means: Means = _MEANS) -> pd.DataFrame:
    """Return how a question will be answered, one row a pass over the rows of a task; no state is read.

    Returns
    -------
    pandas.DataFrame
        task, and what `PassPlan` says.

    Raises
    ------
    ActError
        As `ask`.
    """
    works = _works(asked, blocks_of(store, asked), means)
    return pd.DataFrame(
        [{"task": work.task, **asdict(plan)} for work in works for plan in plans(work, prepare(store, work))]
    )


def _works(asked: Question, blocks: Sequence[Block], means: Means) -> list[Work]:
    return [
        Work(question=asked, blocks=tuple(members), memory=means.memory, depth=means.depth)
        for _, members in groupby(blocks, key=lambda block: block.task)
    ]


def _assemble(asked: Question, blocks: Sequence[Block], rows: Mapping[Block, Sequence[Row]]) -> Comparison:
    def table(*kinds: str) -> pd.DataFrame:
        return pd.DataFrame([names_of(block, row) for block in blocks if block.kind in kinds for row in rows[block]])

    answers = tuple((block, rows[block]) for block in blocks)
    return Comparison(asked, table("pair", "baseline"), table("difference"), answers)
