"""Controls go to their own task, and to drawn tasks of other clusters when asked."""

import dataclasses
import random

import pytest

from actlas.ingest import Checkpoint, Options, ingest
from actlas.ingest.controls import Reach, tasks_of
from actlas.store import InvalidInput, open_store
from tests.ingest.checkpoints import tiny_task
from tests.ingest.test_ingest_runs import Diary

NLI, OTHERS, UNKNOWN = ("rte", "cb", "wnli"), ("copa", "sst2", "wsc", "stsb"), ("mine", "yours")
TASKS = [tiny_task(3, slug, seed=number) for number, slug in enumerate((*NLI, *OTHERS, *UNKNOWN))]


def drawn(name, own, n, *, tasks=TASKS, **reach):
    checkpoint = Checkpoint(base="base", name=name, trained_on=(own,))
    chosen, draw = tasks_of(checkpoint, tasks, Reach(off_target=n, **reach))
    assert {task.slug for task in chosen} == {own, *draw.tasks}
    assert len(chosen) == n + 1
    assert [task for task in tasks if task in chosen] == chosen
    return draw.tasks


def test_a_draw_holds_tasks_of_other_clusters_alone():
    assert set(drawn("a", "rte", 6)) == {*OTHERS, *UNKNOWN}
    assert set(drawn("a", "mine", 8)) == {*NLI, *OTHERS, "yours"}  # of unknown cluster: like nothing else
    named = {"mine": "nli", "sst2": "nli"}
    assert set(drawn("a", "rte", 4, clusters=named)) == {"copa", "wsc", "stsb", "yours"}


def test_a_draw_depends_on_name_and_seed_and_not_on_the_order_of_tasks():
    shuffled = random.Random(1).sample(TASKS, len(TASKS))
    assert drawn("a", "rte", 3) == drawn("a", "rte", 3, tasks=shuffled)
    assert drawn("a", "rte", 3) == drawn("a", "rte", 6)[:3]
    assert len({drawn("a", "rte", 3, seed=seed) for seed in range(20)}) > 5
    assert len({drawn(f"model-{number}", "rte", 3) for number in range(20)}) > 5
    firsts = [drawn(f"model-{number}", "rte", 1)[0] for number in range(600)]
    assert {slug: firsts.count(slug) for slug in firsts} == pytest.approx(
        dict.fromkeys((*OTHERS, *UNKNOWN), 100), abs=40
    )


def test_too_few_tasks_of_other_clusters_are_counted():
    with pytest.raises(InvalidInput, match=r"a: --off-target 7, but 6 of the 9 tasks are of another cluster than rte"):
        drawn("a", "rte", 7)
    with pytest.raises(InvalidInput, match=r"but 0 of the 3 tasks .* \(nli\); ask for fewer, or give more --tasks"):
        drawn("a", "rte", 1, tasks=TASKS[:3])


def test_requests_that_exclude_each_other_or_reach_nobody_are_refused(llama, root):
    base = Checkpoint(base=str(llama), name="base", trained_on=("rte", "cb"))
    for options, message in (
        (Options(all_tasks=True, off_target=1), "--all-tasks and --off-target exclude each other"),
        (Options(off_target=0), "--off-target: expected at least 1 task of other clusters, got 0"),
        (Options(off_target=1), "--off-target: none of the checkpoints is a control"),
    ):
        with pytest.raises(InvalidInput, match=message):
            ingest(root, [base], TASKS, dataclasses.replace(options, device="cpu"))


def test_a_draw_is_told_before_the_work_and_kept_with_the_entries(llama, adapters, root):
    control = Checkpoint(base=str(llama), adapter=str(adapters(seed=31)), name="ctl", trained_on=("rte",))
    checkpoints, diary = [Checkpoint(base=str(llama), name="base"), control], Diary()
    options = Options(device="cpu", off_target=2, seed=5)
    expected = drawn("ctl", "rte", 2, seed=5)
    forecast = ingest(root, checkpoints, TASKS, options, dry_run=True, progress=diary).forecast
    assert forecast.n_entries == len(TASKS) + 3
    assert diary.of("note") == [f"ctl: off target, drawn with seed 5: {', '.join(expected)}"]
    ingest(root, checkpoints, TASKS, options)
    entries = open_store(root).entries(model="ctl")
    assert {entry.task for entry in entries} == {"rte", *expected}
    for entry in entries:
        assert entry.provenance["off_target"] == {"tasks": list(expected), "seed": 5}
    assert open_store(root).entry(model="base", task="rte").provenance["off_target"] is None
