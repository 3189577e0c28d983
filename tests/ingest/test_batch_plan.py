"""The plan: every row once, within the budget, in superblocks, the same every time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlas.ingest.plan import make_plan

LEAF = 2048
LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=200)
BUDGETS = st.integers(1, 2000)


@given(LENGTHS, BUDGETS, st.sampled_from([1, 1, 1, 30]))
def test_every_row_is_in_one_batch_of_its_superblock_and_within_the_budget(lengths, budget, times):
    lengths = lengths * times  # sometimes more than one superblock
    plan = make_plan(lengths, budget)
    assert len(plan.superblocks) == -(-len(lengths) // LEAF)
    for number, superblock in enumerate(plan.superblocks):
        rows = [row for batch in superblock for row in batch.rows]
        assert sorted(rows) == list(range(number * LEAF, min((number + 1) * LEAF, len(lengths))))
        for batch in superblock:
            longest = max(lengths[row] for row in batch.rows)
            assert batch.n_padded == len(batch.rows) * longest
            assert batch.n_padded <= budget or len(batch.rows) == 1
    assert plan.n_padded >= sum(lengths)


@given(LENGTHS, BUDGETS)
def test_the_plan_depends_on_lengths_and_budget_alone(lengths, budget):
    plan = make_plan(lengths, budget)
    assert make_plan(tuple(lengths), budget) == plan
    assert make_plan(list(lengths), budget).digest == plan.digest
    assert make_plan(lengths, budget + 1).digest != plan.digest


@given(LENGTHS, BUDGETS)
def test_batches_go_from_long_to_short_and_equal_lengths_keep_their_order(lengths, budget):
    (superblock,) = make_plan(lengths, budget).superblocks
    order = [(-lengths[row], row) for batch in superblock for row in batch.rows]
    assert order == sorted(order)


def test_a_superblock_does_not_know_its_neighbours():
    random = np.random.default_rng(1)
    lengths = random.integers(1, 200, 3000).tolist()
    assert make_plan(lengths, 4096).superblocks[0] == make_plan([*lengths[:LEAF], 7], 4096).superblocks[0]


@pytest.mark.parametrize("spread", [0.2, 0.4, 0.6, 0.8])
def test_padding_is_at_most_six_percent_of_a_run_of_usual_lengths(spread):
    for seed in range(5):
        random = np.random.default_rng(seed)
        lengths = np.maximum(1, random.lognormal(np.log(120) - spread**2 / 2, spread, 3000)).astype(int).tolist()
        plan = make_plan(lengths, 16384)
        assert 1 - sum(lengths) / plan.n_padded <= 0.06
        n_batches = sum(len(superblock) for superblock in plan.superblocks)
        assert n_batches <= 4 * -(-sum(lengths) // 16384)  # a quarter of the budget, all in all


def test_the_digest_knows_where_prompts_were_cut():
    assert make_plan([30, 30, 4], 1000).digest != make_plan([28, 28, 4], 1000).digest


def test_a_batch_of_a_quarter_of_the_budget_is_not_filled_up_with_short_prompts():
    (superblock,) = make_plan([10] * 4 + [100] * 3, 1200).superblocks
    assert [batch.rows for batch in superblock] == [(4, 5, 6), (0, 1, 2, 3)]
    (superblock,) = make_plan([10] * 4 + [100] * 3, 2800).superblocks
    assert [batch.rows for batch in superblock] == [(4, 5, 6, 0, 1, 2, 3)]
