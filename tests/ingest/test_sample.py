"""Samples of tasks: the same examples whatever the order of the rows, fewer ones a part of more."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlas.ingest import Checkpoint, Options, ingest, sample_task
from actlas.store import InvalidInput
from tests.ingest.checkpoints import tiny_task

TASK = tiny_task(40)


@given(st.integers(1, 50), st.integers(), st.randoms(use_true_random=False))
def test_the_choice_depends_on_seed_and_ids_alone_and_keeps_the_order(n: int, seed: int, shuffle: random.Random):
    drawn = sample_task(TASK, n, seed)
    shuffled = replace(TASK, rows=tuple(shuffle.sample(TASK.rows, len(TASK))))
    assert set(sample_task(shuffled, n, seed).example_ids) == set(drawn.example_ids)
    assert len(drawn) == min(n, 40)
    assert drawn.rows == tuple(row for row in TASK.rows if row["example_id"] in set(drawn.example_ids))
    assert set(drawn.example_ids) <= set(sample_task(TASK, n + 5, seed).example_ids)


def test_every_seed_draws_others_and_every_example_is_drawn_as_often():
    draws = [frozenset(sample_task(TASK, 10, seed).example_ids) for seed in range(400)]
    assert len(set(draws)) == 400
    counts = [sum(example_id in drawn for drawn in draws) for example_id in TASK.example_ids]
    assert 60 < min(counts) <= max(counts) < 145  # 100 expected, deviation 8.7


def test_a_sample_knows_of_how_many_it_was_drawn_and_a_whole_task_is_returned_as_it_is():
    drawn = sample_task(replace(TASK, n_duplicates=3), 10, seed=7)
    assert (drawn.n_available, drawn.seed, drawn.n_duplicates) == (40, 7, 3)
    assert sample_task(TASK, 40) is TASK
    assert (TASK.n_available, TASK.seed) == (None, None)


@pytest.mark.parametrize("n", [0, -1])
def test_a_sample_of_nothing_is_refused(n: int):
    with pytest.raises(InvalidInput, match="task rte: expected at least 1 example to be drawn, got"):
        sample_task(TASK, n)


def test_an_entry_of_a_sample_records_it_and_lives_beside_the_whole(root, llama, task):
    checkpoint = Checkpoint(base=str(llama), name="base")
    for one in (task, sample_task(task, 5, seed=3)):
        (entry,) = ingest(root, [checkpoint], [one], Options(device="cpu")).written
    assert entry.n_examples == 5
    assert (entry.provenance["n_available"], entry.provenance["seed"]) == (12, 3)
    assert entry.read_task().digest == sample_task(task, 5, seed=3).digest
