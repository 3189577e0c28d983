import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actlas.cli.main import run

# What `act` is, wherever the environment puts its scripts.
ACT = [sys.executable, "-c", "import sys; from actlas.cli.main import main; sys.argv[0] = 'act'; main()"]


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, results and messages."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Act = Callable[..., Result]


@pytest.fixture
def act(capsys: pytest.CaptureFixture[str]) -> Act:
    """Run a command in this process."""

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture
def act_process(tmp_path: Path) -> Act:
    """Run a command in a process of its own, in an empty directory, as a shell does."""

    def call(*arguments: object, cwd: Path | None = None, **environment: str) -> Result:
        done = subprocess.run(
            [*ACT, *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=cwd or tmp_path,
            env=os.environ | environment,
            timeout=120,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return call


def tree_digest(root: Path) -> dict[str, tuple[int, str]]:
    """Mode and digest of everything below a path: what "the store is unchanged" means."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted([root, *root.rglob("*")])
    }


def flan(n: int, *, start: int = 0, renderings: int = 2) -> list[dict[str, str]]:
    """Examples with FLAN's fields; every source is rendered `renderings` times."""
    return [
        {
            "inputs": f"{('Premise', 'Given')[number % 2]}: {'odd ' * (number % 5)}{number // renderings}",
            "targets": str(number),
            "source_id": f"s{number // renderings}",
        }
        for number in range(start, start + n)
    ]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with rte.jsonl, sst2.jsonl (FLAN) and qa.parquet (Alpaca)."""
    directory = tmp_path_factory.mktemp("tasks")
    write_jsonl(directory / "rte.jsonl", flan(12))
    write_jsonl(directory / "sst2.jsonl", [{"inputs": f"{'Very ' * n}good, {n}", "targets": "+"} for n in range(9)])
    rows = [{"instruction": f"Add 1 and {n}", "input": f"It is {n}" * (n % 2), "output": str(n)} for n in range(8)]
    pq.write_table(pa.Table.from_pylist(rows), directory / "qa.parquet")
    return directory


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bases of one architecture, a deeper one, and an adapter for each of the first two."""
    from tests.cli.checkpoints import save_adapter, save_base

    directory = tmp_path_factory.mktemp("checkpoints")
    save_base(directory / "base", seed=1)
    save_base(directory / "other", seed=2)
    save_base(directory / "deeper", seed=3, n_layers=3)
    save_adapter(directory / "tuned", directory / "base", seed=4)
    save_adapter(directory / "other-tuned", directory / "other", seed=5)
    return directory


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, checkpoints: Path, tasks: Path) -> Path:
    """A store with two bases and an adapter on three tasks; not to be changed."""
    store = tmp_path_factory.mktemp("lab") / "lab.act"
    for arguments in (
        ["--model", checkpoints / "base", "--tasks", tasks],
        ["--model", checkpoints / "base", "--adapter", checkpoints / "tuned", "--tasks", tasks],
        ["--model", checkpoints / "other", "--tasks", tasks],
    ):
        assert run(["ingest", str(store), *map(str, arguments)]) == 0
    return store
