"""compare on a Dask cluster: real scheduler and workers, one of them killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import psutil
import pytest

from actlas.analyze import compare_table
from actlas.analyze.cache import default_directory
from actlas.store import Corrupt, InvalidInput, Unreachable, open_store
from tests.analyze.stores import put, related

START = 60  # seconds that a process may take to come up


class Cluster:
    """A scheduler and its workers, each a process."""

    def __init__(self, directory: Path, n_workers: int) -> None:
        self.file = directory / "scheduler.json"
        self._directory = directory
        self._scheduler = self._start("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(self.file))
        self._wait(self.file.exists)
        self.workers = [self._worker() for _ in range(n_workers)]

    def _worker(self) -> subprocess.Popen[bytes]:
        return self._start(
            "worker", "--scheduler-file", str(self.file), "--nthreads", "1", "--no-nanny", "--no-dashboard"
        )

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", *arguments]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._directory)

    @staticmethod
    def _wait(is_there: object) -> None:
        end = time.monotonic() + START
        while not is_there():  # type: ignore[operator]
            assert time.monotonic() < end, "did not come up"
            time.sleep(0.05)

    def stop_scheduler(self) -> None:
        self._scheduler.kill()
        self._scheduler.wait(START)

    def close(self) -> None:
        for process in (*self.workers, self._scheduler):
            process.kill()
            process.wait(START)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running = Cluster(tmp_path_factory.mktemp("cluster"), 4)
    yield running
    running.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    x, y = related(300, 64, 64, n_layers=4)
    for task in [f"task-{number}" for number in range(8)]:
        put(tmp_path / "lab.act", "base", x, task=task)
        put(tmp_path / "lab.act", "tuned", y, task=task)
    return tmp_path / "lab.act"


def test_four_worker_processes_give_the_same_numbers(cluster: Cluster, root: Path):
    store = open_store(root)
    here = compare_table(store, ["base", "tuned"], cache=False)
    there = compare_table(store, ["base", "tuned"], cache=False, scheduler=str(cluster.file))
    assert there.equals(here)


def test_a_worker_that_is_killed_changes_nothing(cluster: Cluster, root: Path):
    store = open_store(root)
    here = compare_table(store, ["base", "tuned"], layers="all", cache=False)
    done: list[int] = []

    def kill_one(number: int, *_: object) -> None:
        if number == 1 and not done:
            cluster.workers[0].send_signal(signal.SIGKILL)
            done.append(number)

    there = compare_table(
        store, ["base", "tuned"], layers="all", cache=False, scheduler=str(cluster.file), progress=kill_one
    )
    assert done
    assert not psutil.pid_exists(cluster.workers[0].pid) or cluster.workers[0].wait(START) == -signal.SIGKILL
    assert there.equals(here)


def test_an_error_of_a_worker_is_the_error_here(cluster: Cluster, root: Path):
    shard = next((root / "models/tuned/task-5").rglob("hidden_states/c.0.0.0"))
    shard.chmod(0o644)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(Corrupt, match="tuned/task-5"):
        compare_table(open_store(root), ["base", "tuned"], scheduler=str(cluster.file))


def test_no_scheduler_is_said(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = open_store(root)
    monkeypatch.setattr("actlas.analyze.cluster._TIMEOUT", 1)
    with pytest.raises(Unreachable, match=r"no Dask scheduler answers at tcp://127.0.0.1:9"):
        compare_table(store, ["base", "tuned"], scheduler="tcp://127.0.0.1:9")
    with pytest.raises(InvalidInput, match="expected an address such as tcp://host:8786, or the file that"):
        compare_table(store, ["base", "tuned"], scheduler=str(tmp_path / "none.json"))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"other.json: expected an address .*KeyError: 'address'"):
        compare_table(store, ["base", "tuned"], scheduler=str(tmp_path / "other.json"))


def test_a_scheduler_that_goes_away_is_said_and_finished_tasks_are_kept(root: Path, tmp_path: Path):
    store, running = open_store(root), Cluster(tmp_path, 1)
    done: list[int] = []

    def stop(number: int, *_: object) -> None:
        if number == 1:
            running.stop_scheduler()
        done.append(number)

    try:
        with (
            dask.config.set({"distributed.comm.timeouts.connect": "2s"}),
            pytest.raises(Unreachable, match="is gone; finished tasks are kept, ask again"),
        ):
            compare_table(store, ["base", "tuned"], layers="all", scheduler=str(running.file), progress=stop)
    finally:
        running.close()
    assert 1 in done
    assert any(path.is_file() for path in default_directory().rglob("*"))
