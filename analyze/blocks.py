"""Blocks: the numbers of one task that depend on the same entries; what is computed, kept and found again together."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from actlas.analyze.question import Question
from actlas.analyze.selection import (
    ModelRef,
    Pair,
    layer_pairs,
    model_pairs,
    parse_models,
    select_records,
    select_tasks,
)
from actlas.store import InvalidInput, NotFound, Record, Store

Kind = Literal["pair", "baseline", "difference"]


@dataclass(frozen=True, kw_only=True)
class Block:
    """The numbers of one task that depend on the same entries.

    Attributes
    ----------
    kind : {"pair", "baseline", "difference"}
        A model with another; a model with its baselines; of (r, a, b), CKA(r, a) - CKA(r, b).
    task : str
        The task.
    refs : tuple of ModelRef
        Two models, one, or three.
    records : tuple of Record
        Their entries.
    """

    kind: Kind
    task: str
    refs: tuple[ModelRef, ...]
    records: tuple[Record, ...]


def blocks_of(store: Store, question: Question) -> list[Block]:
    """Return the blocks that answer a question; nothing but the catalogue is read.

    Raises
    ------
    NotFound
        For an unknown model or task, or models that share no task.
    InvalidInput
        When several entries fit, two models are one entry, or layers do not match.
    """
    refs, tasks = parse_models(question.models), select_tasks(store, question.tasks)
    pairs = model_pairs(refs, question.pairs, with_self=question.layers == "all")
    records = select_records(store, refs, tasks, question.position)
    found = [_block("pair", task, pair, records) for task in tasks for pair in pairs if _all_there(records, task, pair)]
    if not any(block.refs[0] != block.refs[1] for block in found):
        having = "; ".join(f"{ref} has {', '.join(task for task in tasks if (task, ref) in records)}" for ref in refs)
        raise NotFound(f"{store.location}: the models share no task, so nothing can be compared: {having}")
    for block in found:
        _check_pair(block, question.layers)
    if question.baselines:
        found += [_block("baseline", task, (ref,), records) for task in tasks for ref in refs if (task, ref) in records]
    if question.differences:
        found += [
            _block("difference", task, triple, records)
            for task in tasks
            for triple in _triples([block.refs for block in found if block.kind == "pair" and block.task == task])
        ]
    return sorted(found, key=lambda block: tasks.index(block.task))


def _block(kind: Kind, task: str, refs: tuple[ModelRef, ...], records: dict[tuple[str, ModelRef], Record]) -> Block:
    return Block(kind=kind, task=task, refs=refs, records=tuple(records[task, ref] for ref in refs))


def _all_there(records: dict[tuple[str, ModelRef], Record], task: str, pair: Pair) -> bool:
    return all((task, ref) in records for ref in pair)


def _check_pair(block: Block, layers: str) -> None:
    (a, b), (ref_a, ref_b) = block.records, block.refs
    if a.path == b.path and ref_a != ref_b:
        raise InvalidInput(f"{ref_a} and {ref_b} are the same entry of task {block.task!r}; name every model once")
    layer_pairs(a, b, layers)


def _triples(pairs: Iterable[tuple[ModelRef, ...]]) -> list[tuple[ModelRef, ...]]:
    """Return (r, a, b) for any two pairs that share one model r."""
    return [
        (*shared, *(ref for ref in (*one, *other) if ref not in shared))
        for one, other in combinations(pairs, 2)
        if len(shared := {*one} & {*other}) == 1
    ]
