"""An ingest that is interrupted or killed leaves no entry, and the next one makes what an uninterrupted one makes."""

import random
import time

import pytest
import torch

from actlas.ingest import Checkpoint, Options, Progress, ingest
from actlas.store import create_store, open_store, verify
from tests.ingest.checkpoints import child_ingests, ingest_one, tiny_task

BUDGET, N_KILLS = 70, 5
LIMIT = 60  # seconds that a child may take


class Interrupting(Progress):
    def __init__(self, batches):
        self.left = batches

    def advance(self, n_examples, n_tokens, n_padded):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def assert_nothing_is_there(root):
    store = open_store(root)
    assert store.entries() == []
    assert list(verify(store)) == []


@pytest.fixture
def uninterrupted(llama, tmp_path):
    """The id of the entry that an ingest makes when nothing happens to it."""

    def ingested(task, budget=BUDGET):
        create_store(tmp_path / "whole.act", batch_tokens=budget)
        return ingest_one(tmp_path / "whole.act", llama, task).id

    return ingested


@pytest.mark.parametrize("batches", [0, 1, 5, 9])
def test_an_interrupted_ingest_leaves_nothing_visible_and_the_next_completes(batches, llama, root, uninterrupted):
    task = tiny_task(20)
    create_store(root, batch_tokens=BUDGET)
    checkpoints = [Checkpoint(base=str(llama), name="base")]
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        ingest(root, checkpoints, [task], Options(device="cpu"), progress=Interrupting(batches))
    assert_nothing_is_there(root)
    assert [path for path in (root / ".staging").iterdir() if path.is_dir()] == []
    assert ingest_one(root, llama, task).id == uninterrupted(task)


def test_a_killed_ingest_leaves_nothing_visible_and_the_next_completes(llama, root, uninterrupted, processes):
    task, draw = tiny_task(900), random.Random(7)
    create_store(root, batch_tokens=BUDGET)
    start = time.perf_counter()
    expected = uninterrupted(task)
    seconds = time.perf_counter() - start
    killed = 0
    for _ in range(N_KILLS):
        answers = processes.Queue()
        child = processes.Process(target=child_ingests, args=(str(root), str(llama), task, answers))
        child.start()
        assert answers.get(timeout=LIMIT) == "begin"
        time.sleep(draw.uniform(0.05, 0.5) * seconds)
        child.kill()
        child.join(LIMIT)
        if open_store(root).entries():  # it was faster
            break
        killed += child.exitcode == -9
        assert_nothing_is_there(root)
    assert killed >= 3
    entry = (open_store(root).entries() or [ingest_one(root, llama, task)])[0]
    assert entry.id == expected
    assert [found.problems for found in verify(open_store(root))] == [()]


def test_ids_do_not_depend_on_the_process(llama, tmp_path, uninterrupted, processes):
    """They may depend on the number of threads: on some CPUs two sum in another order than one."""
    task, ids, n_threads = tiny_task(30), [], torch.get_num_threads()
    for _ in range(2):
        answers = processes.Queue()
        root = create_store(tmp_path / f"{len(ids)}.act", batch_tokens=600).root
        child = processes.Process(target=child_ingests, args=(str(root), str(llama), task, answers, n_threads))
        child.start()
        assert answers.get(timeout=LIMIT) == "begin"
        ids.append(answers.get(timeout=LIMIT))
        child.join(LIMIT)
        assert child.exitcode == 0
    assert set(ids) == {uninterrupted(task, 600)}
