"""Devices: a process for each makes what one makes, says what it says, and ends when any of them does."""

import os
import subprocess
import sys
import time

import pytest
import torch

from actlas.ingest import Checkpoint, Options, Progress, ingest
from actlas.ingest.jobs import all_jobs
from actlas.ingest.run import planned
from actlas.ingest.shard import shares_of
from actlas.store import ActError, InvalidInput, create_store, open_store, verify
from tests.ingest.checkpoints import child_ingests_on_two, save_base, tiny_task
from tests.torture import model_kills
from tests.torture.process_tree import children_of, is_running

LIMIT = 60  # seconds that a process may take
CPU, TWO = Options(device="cpu"), Options(devices=("cpu", "cpu"))


@pytest.fixture
def tasks():
    return [tiny_task(20 + 10 * number, f"task-{number}", seed=number) for number in range(3)]


@pytest.fixture
def checkpoints(llama, bases, adapters):
    return [
        Checkpoint(base=str(llama), name="base"),
        Checkpoint(base=str(bases("llama", seed=5)), name="other"),
        Checkpoint(base=str(llama), adapter=str(adapters(seed=31)), name="tuned"),
    ]


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_process(monkeypatch):
    """From here on, starting a process fails the test."""

    def forbidden(*_args, **_kwargs):
        raise AssertionError("a process was started")

    monkeypatch.setattr("actlas.ingest.devices.subprocess.Popen", forbidden)


class Diary(Progress):
    def __init__(self):
        self.forecasts, self.notes, self.entries, self.examples, self.tokens = [], [], [], 0, 0

    def start(self, forecast):
        self.forecasts.append(forecast)

    def note(self, message):
        self.notes.append(message)

    def entry(self, label):
        self.entries.append(label)

    def advance(self, n_examples, n_tokens, n_padded):
        self.examples += n_examples
        self.tokens += n_tokens


def ids(entries):
    return {(entry.model, entry.task): entry.id for entry in entries}


def processes_of_mine():
    return children_of(os.getpid())


def test_two_processes_make_what_one_makes_with_their_threads(checkpoints, tasks, root, tmp_path, four_threads):
    before, diary = processes_of_mine(), Diary()
    report = ingest(root, checkpoints, tasks, TWO, progress=diary)
    assert processes_of_mine() == before
    (forecast,) = diary.forecasts
    assert forecast == report.forecast
    assert (forecast.n_entries, forecast.n_examples) == (9, 270) == (len(report.written), diary.examples)
    assert forecast.n_tokens == diary.tokens
    assert sorted(diary.entries)[:2] == ["base / task-0 / raw on cpu", "base / task-1 / raw on cpu"]
    assert {entry.provenance["threads"] for entry in report.written} == {2}
    torch.set_num_threads(2)
    whole = ingest(tmp_path / "whole.act", checkpoints, tasks, CPU)
    assert list(ids(report.written).items()) == list(ids(whole.written).items())
    assert not any(found.problems for found in verify(open_store(root)))
    assert forecast.n_bytes == whole.forecast.n_bytes


def test_a_machines_shard_is_dealt_again_to_its_devices(checkpoints, tasks, root, tmp_path):
    whole = ids(ingest(tmp_path / "whole.act", checkpoints, tasks, CPU).written)
    first = ingest(root, checkpoints, tasks, Options(devices=("cpu", "cpu"), shard="1/2")).written
    second = ingest(root, checkpoints, tasks, Options(device="cpu", shard="2/2")).written
    assert min(len(first), len(second)) >= 3
    assert ids((*first, *second)) == whole
    assert ids(first).keys().isdisjoint(ids(second))


def test_what_is_there_starts_no_process(checkpoints, tasks, root, no_process):
    ingest(root, checkpoints, tasks, CPU)
    report = ingest(root, checkpoints, tasks, TWO)
    assert (report.written, len(report.present), report.forecast.least_seconds) == ((), 9, 0.0)


def test_one_device_needs_no_process_of_its_own(llama, task, root, no_process):
    options = Options(devices=("cpu",))
    assert len(ingest(root, [Checkpoint(base=str(llama), name="base")], [task], options).written) == 1


def test_a_share_holds_what_it_needs_and_nothing_else(checkpoints, tasks, root):
    residents = planned(root, checkpoints, tasks, CPU)
    shares = shares_of(residents, 2)
    dealt, every = [[job for _, job in all_jobs(some)] for some in (sum(shares, []), residents)]  # noqa: RUF017
    assert sorted(map(id, dealt)) == sorted(map(id, every))
    assert all(run.jobs for share in shares for one in share for run in one.runs)
    assert all(one.runs for share in shares for one in share)


def test_a_script_without_a_guard_may_ingest_on_several_devices(llama, root, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from actlas.ingest import Checkpoint, Options, ingest\n"
        "from actlas.store import make_task\n"
        "tasks = [make_task(name, [{'prompt': name, 'target': ''}]) for name in ('a', 'b')]\n"
        f"checkpoint = Checkpoint(base={str(llama)!r}, name='base')\n"
        f"print(len(ingest({str(root)!r}, [checkpoint], tasks, Options(devices=('cpu', 'cpu'))).written))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=2 * LIMIT)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"devices": ()}, r"--devices: expected at least one, such as cuda:0,cuda:1"),
        ({"devices": ("cpu", "gpu")}, r"--devices: 'gpu' is no device; expected names such as cuda:0,cuda:1 or cpu"),
        ({"devices": ("auto",)}, r"--devices: 'auto' is no device"),
        ({"devices": ("cuda:1", "cpu", "cuda:1")}, r"--devices: cuda:1, cuda:1 are one device; only cpu may be named"),
        ({"devices": ("cuda", "cuda:0")}, r"--devices: cuda, cuda:0 are one device"),
        ({"devices": ("cpu", "cpu"), "device": "cpu"}, r"--device and --devices exclude each other"),
    ],
)
def test_devices_that_cannot_be_are_refused_before_anything_is_done(llama, task, root, options, words):
    with pytest.raises(InvalidInput, match=words):
        ingest(root, [Checkpoint(base=str(llama))], [task], Options(**options))
    assert not root.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine where CUDA cannot be used")
def test_a_device_that_cannot_be_used_is_named_before_any_model_runs(llama, tasks, root):
    before = processes_of_mine()
    with pytest.raises(InvalidInput, match=r"device 'cuda:0' cannot be used") as caught:
        ingest(root, [Checkpoint(base=str(llama))], tasks, Options(devices=("cpu", "cuda:0")))
    assert caught.value.__notes__ == ["on cuda:0"]
    assert processes_of_mine() == before
    assert not root.exists()


def test_the_first_that_fails_stops_the_others_and_its_error_is_shown(llama, root, tmp_path):
    broken = save_base(tmp_path / "broken", seed=9)
    (weights,) = broken.glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    tasks = [tiny_task(3000, "long")]
    create_store(root, batch_tokens=100)
    checkpoints = [Checkpoint(base=str(llama), name="base"), Checkpoint(base=str(broken), name="broken")]
    before = processes_of_mine()
    with pytest.raises(ActError, match=r"broken: transformers cannot load it") as caught:
        ingest(root, checkpoints, tasks, TWO)
    assert caught.value.__notes__ == ["on cpu"]
    assert processes_of_mine() == before
    assert open_store(root).entries() == []
    weights.write_bytes(whole)
    assert len(ingest(root, checkpoints, tasks, CPU).written) == 2
    assert not any(found.problems for found in verify(open_store(root)))


def test_when_the_parent_is_killed_its_processes_end(llama, root, processes):
    create_store(root, batch_tokens=100)
    answers = processes.Queue()
    tasks = [tiny_task(6000, "long"), tiny_task(6001, "longer")]
    parent = processes.Process(target=child_ingests_on_two, args=(str(root), str(llama), tasks, answers))
    parent.start()
    assert answers.get(timeout=LIMIT) == "begin"
    started = children_of(parent.pid)
    assert len(started) == 2
    parent.kill()
    parent.join(LIMIT)
    until = time.monotonic() + 20
    while any(map(is_running, started)):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert open_store(root).entries() == []


@pytest.mark.slow
def test_whichever_process_is_killed_whenever_the_next_run_ends_with_the_same_ids():
    assert model_kills.run(("cpu", "cpu"), 1, rounds=3).rounds == 3
