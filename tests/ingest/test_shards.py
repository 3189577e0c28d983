"""Shards: every entry belongs to one, they are nearly equal, and together they make what one process makes."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actlas.ingest import Checkpoint, Options, ingest
from actlas.ingest.shard import Shard, deal, parse_shard, take_shard
from actlas.store import InvalidInput, open_store, verify
from tests.ingest.checkpoints import child_ingests_a_shard, tiny_task

LIMIT = 120  # seconds that a child may take


def planned(costs):
    """Bases, their checkpoints and what the entries of these cost, as far as dealing looks at them."""
    return [
        SimpleNamespace(
            base=SimpleNamespace(digest=f"{number}"),
            runs=[
                SimpleNamespace(
                    checkpoint=SimpleNamespace(slug=f"{number}-{which}"),
                    jobs=[
                        Entry(task=SimpleNamespace(slug=f"task-{row}"), rendering="raw", plan=SimpleNamespace(n_padded=cost))
                        for row, cost in enumerate(jobs)
                    ],
                )
                for which, jobs in enumerate(runs)
            ],
        )
        for number, runs in enumerate(costs)
    ]  # fmt: skip


class Entry(SimpleNamespace):
    __hash__ = object.__hash__
    __eq__ = object.__eq__


def jobs_of(residents):
    return [job for resident in residents for run in resident.runs for job in run.jobs]


def totals(shares):
    return [sum(job.plan.n_padded for job in share) for share in shares]


COSTS = st.lists(st.lists(st.lists(st.integers(1, 10_000), max_size=8), max_size=8), max_size=3)


@given(COSTS, st.integers(1, 12))
@settings(deadline=None)
def test_every_entry_belongs_to_exactly_one_shard(costs, n_shards):
    residents = planned(costs)
    everything = jobs_of(residents)
    shares = deal(residents, n_shards)
    assert len(shares) == n_shards
    assert sorted(map(id, (job for share in shares for job in share))) == sorted(map(id, everything))
    if everything:
        mean = sum(totals([everything])) / n_shards
        assert max(totals(shares)) <= max(1.05 * mean, mean + max(job.plan.n_padded for job in everything))
    for number, share in enumerate(shares, start=1):
        again = planned(costs)
        take_shard(again, Shard(number, n_shards))
        assert len(jobs_of(again)) == len(share)


@given(COSTS, st.integers(1, 12), st.randoms())
@settings(deadline=None)
def test_shards_do_not_depend_on_the_order_of_anything(costs, n_shards, random):
    residents = planned(costs)
    before = [set(share) for share in deal(residents, n_shards)]
    random.shuffle(residents)
    for resident in residents:
        random.shuffle(resident.runs)
        for run in resident.runs:
            random.shuffle(run.jobs)
    assert [set(share) for share in deal(residents, n_shards)] == before


def owners(residents, shares):
    """For each checkpoint how many shares hold entries of it."""
    return [sum(bool(set(run.jobs) & set(share)) for share in shares) for one in residents for run in one.runs]


def test_a_sweep_of_equal_checkpoints_is_dealt_evenly_and_keeps_them_whole():
    residents = planned([[[900, 500, 100 + number % 7] for number in range(60)]])
    shares = deal(residents, 4)
    assert max(totals(shares)) < 1.05 * sum(totals(shares)) / 4
    assert set(owners(residents, shares)) == {1}


def test_bases_stay_whole_when_they_balance():
    residents = planned([[[5, 5], [5]], [[6, 4, 5]]])
    shares = deal(residents, 2)
    assert [{job in one for job in jobs_of(residents[:1])} for one in shares] in ([{True}, {False}], [{False}, {True}])


def test_a_checkpoint_is_cut_where_that_alone_balances():
    residents = planned([[[100] * 12], [[10]], [[10]]])
    shares = deal(residents, 4)
    assert max(totals(shares)) <= 310
    assert len(deal(residents, 30)) == 30
    assert max(totals(deal(residents, 30))) == 100


@pytest.mark.parametrize("text", ["3/2", "0/2", "1/0", "-1/2", "1", "1/2/3", "", "a/b", "1 / 2", "1/²"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(InvalidInput, match=r"--shard .*: expected I/N with I from 1 to N, such as 1/8"):
        parse_shard(text)
    assert str(parse_shard("2/8")) == "2/8"


def test_shards_at_the_same_time_make_what_one_process_makes(llama, bases, adapters, root, tmp_path, processes):
    places = [(str(llama), None), (str(bases("llama", seed=5)), None), (str(llama), str(adapters(seed=31)))]
    checkpoints = [
        Checkpoint(base=base, adapter=adapter, name=f"m{number}") for number, (base, adapter) in enumerate(places)
    ]
    tasks = [tiny_task(20 + 10 * number, f"task-{number}", seed=number) for number in range(3)]
    whole = tmp_path / "whole.act"
    children, answers = [], processes.Queue()
    for store, shard in ((root, "1/2"), (root, "2/2"), (whole, "1/1")):
        arguments = (str(store), checkpoints, tasks, shard, answers)
        children.append(processes.Process(target=child_ingests_a_shard, args=arguments))
        children[-1].start()
    written = sorted(answers.get(timeout=LIMIT) for _ in children)
    for child in children:
        child.join(LIMIT)
        assert child.exitcode == 0
    assert min(written) > 0
    assert written[0] + written[1] == written[2] == 9
    ids = [{(one.model, one.task): one.id for one in open_store(store).entries()} for store in (root, whole)]
    assert ids[0] == ids[1]
    assert not any(found.problems for found in verify(open_store(root)))


def test_a_shard_that_goes_on_takes_the_same_entries(llama, root):
    tasks = [tiny_task(5 + number, f"task-{number}", seed=number) for number in range(4)]
    checkpoint = Checkpoint(base=str(llama), name="base")
    first = ingest(root, [checkpoint], tasks, Options(device="cpu", shard="1/2")).written
    second = Options(device="cpu", shard="2/2")
    assert ingest(root, [checkpoint], tasks, Options(device="cpu", shard="1/2")).written == ()
    rest = ingest(root, [checkpoint], tasks, second).written
    assert sorted(entry.task for entry in (*first, *rest)) == [task.slug for task in tasks]
