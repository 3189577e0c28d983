"""act ingest over many checkpoints: sweeps, adapters, revisions, controls, status, shards, and a scheduler's SIGTERM."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from actlas.store import create_store, open_store
from tests.cli.conftest import ACT, Act, flan, tree_digest, write_jsonl
from tests.torture.process_tree import children_of, is_running

STOPPED = "Stopped. Nothing is half-written; the same command goes on where this one stopped."


@pytest.fixture
def sweep(checkpoints: Path, tmp_path: Path) -> Path:
    """A sweep over two bases in turns, in the folder of the checkpoints' links."""
    for name in ("base", "other", "tuned", "other-tuned"):
        (tmp_path / name).symlink_to(checkpoints / name)
    lines = [
        "name,base,adapter,trained_on,seed,family,note",
        "plain,base,,,,tiny,",
        "other,other,,,,,",
        'ctl,base,tuned,rte,7,tiny,"first, best"',
        "multi,other,other-tuned,rte;sst2,8,,",
    ]
    path = tmp_path / "sweep.csv"
    path.write_text("\n".join(lines))
    return path


def test_a_sweep_ingests_every_row_and_labels_it(act: Act, sweep: Path, tasks: Path, tmp_path: Path):
    store = tmp_path / "lab.act"
    done = act("ingest", store, "--models", sweep, "--tasks", tasks, "--json")
    assert done.code == 0
    written = [(record["model"], record["task"]) for record in done.json["written"]]
    every = ["qa", "rte", "sst2"]
    assert written == [
        *(("plain", task) for task in every),
        ("ctl", "rte"),
        *((model, task) for model in ("other", "multi") for task in every),
    ]
    opened = open_store(store)
    assert opened.labels("ctl") == {"trained_on": ["rte"], "seed": 7, "family": "tiny", "note": "first, best"}
    assert opened.labels("multi") == {"trained_on": ["rte", "sst2"], "seed": 8}
    assert opened.labels("other") == {}
    again = act("ingest", store, "--models", sweep, "--tasks", tasks, "--json").json
    assert (again["written"], len(again["present"])) == ([], 10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "Missing option '--model', or '--models' for a sweep."),
        (["--model", "m", "--device", "cpu", "--devices", "cpu,cpu"], "--device and --devices exclude each other"),
        (["--models", "s.csv", "--model", "m", "--name", "n"], "leave --model, --name out"),
        (["--models", "s.csv", "--adapters", "a*", "--trained-on", "rte"], "leave --adapters, --trained-on out"),
        (["--model", "m", "--revisions", "a,b", "--revision", "c"], "--revisions and --revision exclude each other"),
        (["--model", "m", "--revisions", "a,b", "--adapter", "c"], "--revisions and --adapter exclude each other"),
        (["--models", "s.csv", "--random-init", "0"], "leave --random-init out"),
        (
            ["--model", "m", "--revisions", "a,b", "--random-init", "0"],
            "--revisions and --random-init exclude each other",
        ),
        (["--model", "m", "--random-init", "many"], "'many' is not a valid integer"),
        (["--model", "m", "--status", "--dry-run"], "--status and --dry-run exclude each other"),
        (["--model", "m", "--off-target", "many"], "'many' is not a valid integer"),
    ],
)
def test_options_that_exclude_each_other_are_wrong_usage(
    act: Act, tasks: Path, tmp_path: Path, options: list[str], words: str
):
    result = act("ingest", tmp_path / "lab.act", "--tasks", tasks, *options)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--models", "none.csv"], "none.csv: there is no such file"),
        (["--model", "base", "--adapters", "none*"], "adapters 'none*': expected directories with an adapter_config"),
        (["--model", "base", "--revisions", "a,b"], "base: is a directory and has no revisions"),
        (["--model", "x", "--revisions", "a,b,c", "--name", "n", "--name", "m"], "one for each of 3 revisions, or one"),
        (["--model", "x", "--revisions", "a,B c"], "'x-B c' is not a slug"),
        (["--model", "base", "--shard", "3/2"], "--shard '3/2': expected I/N with I from 1 to N"),
        (["--model", "base", "--devices", "cpu,cup"], "--devices: 'cup' is no device; expected names such as cuda:0"),
        (
            ["--model", "base", "--devices", "cuda:1,cuda:1"],
            "cuda:1, cuda:1 are one device; only cpu may be named more",
        ),
        (
            ["--model", "base", "--random-init", "0", "--adapter", "tuned"],
            "random init 0: expected base as it is before any training, got the adapter tuned; leave one of the two out",
        ),
        (["--model", "base", "--random-init", "-1"], "random init: expected a seed from 0 to 2^63 - 1, got -1"),
        (["--model", "base", "--off-target", "1"], "none of the checkpoints is a control"),
        (
            ["--models", "sweep.csv", "--off-target", "3"],
            "sweep.csv, line 4: ctl: --off-target 3, but 2 of the 3 tasks",
        ),
        (["--models", "sweep.csv", "--off-target", "1", "--all-tasks"], "--all-tasks and --off-target exclude each"),
    ],
)
def test_what_cannot_be_ingested_is_one_message_and_leaves_no_store(
    act: Act, sweep: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
):
    monkeypatch.chdir(sweep.parent)
    result = act("ingest", "lab.act", "--tasks", tasks, *options)
    assert (result.code, result.out) == (1, "")
    assert words in result.err
    assert "Traceback" not in result.err
    assert not Path("lab.act").exists()


def test_random_weights_are_a_column_of_a_sweep_and_an_option(act: Act, sweep: Path, tasks: Path, tmp_path: Path):
    table, store = sweep.with_name("baselines.csv"), tmp_path / "lab.act"
    table.write_text("base,random_init,family\nbase,,tiny\nbase,4,tiny\nbase,5,\n")
    rte = tasks / "rte.jsonl"
    done = act("ingest", store, "--models", table, "--tasks", rte, "--json")
    assert [record["model"] for record in done.json["written"]] == ["base", "base-random-4", "base-random-5"]
    assert open_store(store).labels("base-random-4") == {"family": "tiny", "random_init": 4}
    option = ("--model", sweep.with_name("base"), "--random-init")
    again = act("ingest", store, *option, "5", "--tasks", rte, "--json")
    assert (again.json["written"], len(again.json["present"])) == ([], 1)
    assert (
        "0 done, 0 running, 0 interrupted, 1 missing"
        in act("ingest", store, *option, "6", "--name", "other", "--tasks", rte, "--status").out
    )
    table.write_text("base,random_init\nbase,zero\n")
    wrong = act("ingest", store, "--models", table, "--tasks", rte)
    assert (wrong.code, wrong.out) == (1, "")
    assert "baselines.csv, line 2: random_init 'zero': expected a whole number" in wrong.err


def test_a_pattern_of_adapters_is_expanded(act: Act, checkpoints: Path, tasks: Path, tmp_path: Path):
    for name in ("lora-b", "lora-a"):
        shutil.copytree(checkpoints / "tuned", tmp_path / "loras" / name)
    done = act(
        "ingest", tmp_path / "lab.act", "--model", checkpoints / "base", "--adapters", tmp_path / "loras" / "*",
        "--tasks", tasks / "rte.jsonl", "--json",
    )  # fmt: skip
    assert [record["model"] for record in done.json["written"]] == ["lora-a", "lora-b"]
    assert open_store(tmp_path / "lab.act").labels("lora-a") == {}


@pytest.mark.parametrize(
    ("names", "models"),
    [
        ([], ["tiny-step1", "tiny-step20"]),
        (["--name", "t"], ["t-step1", "t-step20"]),
        (["--name", "early", "--name", "late"], ["early", "late"]),
    ],
)
def test_revisions_are_models_with_a_step(
    act_process: Act, checkpoints: Path, tasks: Path, tmp_path: Path, names: list[str], models: list[str]
):
    repository = tmp_path / "hub" / "models--lab--tiny"
    (repository / "refs").mkdir(parents=True)
    for number, (revision, base) in enumerate({"step1": "base", "step20": "other"}.items()):
        shutil.copytree(checkpoints / base, repository / "snapshots" / f"{number:040x}")
        (repository / "refs" / revision).write_text(f"{number:040x}")
    done = act_process(
        "ingest", "lab.act", "--model", "lab/tiny", "--revisions", "step1,step20", *names,
        "--tasks", tasks / "rte.jsonl", "--json", HF_HUB_CACHE=str(tmp_path / "hub"),
    )  # fmt: skip
    assert [record["model"] for record in done.json["written"]] == models
    store = open_store(tmp_path / "lab.act")
    assert [store.labels(model) for model in models] == [{"step": 1}, {"step": 20}]


def test_a_dry_run_shows_what_was_drawn(act: Act, sweep: Path, tasks: Path, tmp_path: Path):
    call = ("ingest", tmp_path / "lab.act", "--models", sweep, "--tasks", tasks, "--off-target", 1, "--dry-run")
    drawn = {seed: act(*call, "--seed", seed).err.splitlines()[0] for seed in range(6)}
    assert {line.rpartition(" ")[2] for line in drawn.values()} == {"qa", "sst2"}
    assert drawn[3].startswith("ctl: off target, drawn with seed 3: ")


def test_status_tells_every_entry_and_how_to_go_on(act: Act, sweep: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(sweep.parent)
    Path("my lab").mkdir()
    call = ("ingest", "my lab/lab.act", "--models", "sweep.csv", "--tasks", tasks)
    before = act(*call, "--status", "--json").json
    assert before["counts"] == {"done": 0, "running": 0, "interrupted": 0, "missing": 10}
    assert not Path("my lab/lab.act").exists()
    assert (
        act("ingest", "my lab/lab.act", "--model", "base", "--name", "plain", "--tasks", tasks / "rte.jsonl").code == 0
    )
    digest = tree_digest(Path("my lab"))
    status = act(*call, "--json", "--status").json
    assert status["counts"] == {"done": 1, "running": 0, "interrupted": 0, "missing": 9}
    assert status["entries"][1] == {
        "model": "plain", "task": "rte", "rendering": "raw", "position": "last", "state": "done", "n_written": 12,
        "n_examples": 12,
    }  # fmt: skip
    assert status["entries"][0]["state"] == "missing"
    assert status["retry"] == f"act ingest 'my lab/lab.act' --models sweep.csv --tasks {tasks}"
    table = act(*call, "--status")
    assert table.err == ""
    assert ["ctl", "rte", "raw", "last", "missing", "0", "of", "12"] in [
        line.split() for line in table.out.splitlines()
    ]
    assert table.out.splitlines()[-2:] == [
        "10 entries: 1 done, 0 running, 0 interrupted, 9 missing",
        f"go on with: {status['retry']}",
    ]
    assert tree_digest(Path("my lab")) == digest
    assert act(*shlex.split(status["retry"])[1:]).code == 0
    after = act(*call, "--status", "--json").json
    assert (after["counts"]["done"], after["retry"]) == (10, None)
    assert "go on with" not in act(*call, "--status").out


def test_two_shards_are_the_whole(act: Act, sweep: Path, tasks: Path, tmp_path: Path):
    call = ("ingest", tmp_path / "lab.act", "--models", sweep, "--tasks", tasks)
    status = [act(*call, "--shard", f"{number}/2", "--status", "--json").json for number in (1, 2)]
    entries = [{(entry["model"], entry["task"]) for entry in one["entries"]} for one in status]
    assert not entries[0] & entries[1]
    assert len(entries[0] | entries[1]) == 10
    assert status[0]["retry"].endswith("--shard 1/2")
    first = act(*call, "--shard", "1/2", "--json").json
    assert {(record["model"], record["task"]) for record in first["written"]} == entries[0]
    assert act(*call, "--shard", "2/2").code == 0
    assert act(*call, "--status", "--json").json["counts"]["done"] == 10


def test_sigterm_stops_like_ctrl_c_and_the_next_run_goes_on(
    act: Act, act_process: Act, checkpoints: Path, tmp_path: Path
):
    store = create_store(tmp_path / "lab.act", batch_tokens=160).root
    path = write_jsonl(tmp_path / "long.jsonl", flan(6200))
    call = ("ingest", store, "--model", checkpoints / "base", "--tasks", path)
    process = subprocess.Popen([*ACT, *map(str, call)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not any(journal.read_text().count("\n") == 2 for journal in (store / ".staging").glob("*.journal")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    (running,) = act(*call, "--status", "--json").json["entries"]
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "")
    assert err.splitlines()[-1] == STOPPED
    assert "Traceback" not in err
    assert running["state"] == "running"
    assert (running["n_written"] in (2048, 4096), running["n_examples"]) == (True, 6200)
    assert act("ls", store, "--json").json == []
    assert act("verify", store).code == 0
    status = act(*call, "--status", "--json").json
    (left,) = status["entries"]
    assert (left["state"], left["n_written"] >= running["n_written"]) == ("interrupted", True)
    # in processes of their own: what was begun with other threads is begun anew
    done = act_process(*shlex.split(status["retry"])[1:], "--json")
    whole = create_store(tmp_path / "whole.act", batch_tokens=160).root
    undisturbed = act_process("ingest", whole, "--model", checkpoints / "base", "--tasks", path, "--json")
    assert done.json["written"][0]["id"] == undisturbed.json["written"][0]["id"]
    assert open_store(store).entry(model="base", task="long").provenance["n_resumed"] == left["n_written"]


def test_two_devices_of_one_machine_are_the_whole(act: Act, sweep: Path, tasks: Path, tmp_path: Path):
    call = ("ingest", tmp_path / "lab.act", "--models", sweep, "--tasks", tasks, "--devices", "cpu, cpu")
    forecast = act(*call, "--dry-run", "--json").json["forecast"]
    assert (forecast["n_entries"], forecast["n_present"]) == (10, 0)
    assert not (tmp_path / "lab.act").exists()
    done = act(*call)
    assert done.code == 0, done.err
    assert len([line for line in done.out.splitlines() if " raw " in line]) == 10
    assert done.err.count(" on cpu") == 10
    assert act(*call, "--status", "--json").json["counts"]["done"] == 10


@pytest.mark.parametrize(
    ("victim", "number", "code", "message"),
    [
        ("parent", signal.SIGTERM, 143, STOPPED),
        ("parent", signal.SIGINT, 1, STOPPED),
        (
            "child",
            signal.SIGKILL,
            1,
            "Error: the process on cpu was killed by SIGKILL, as it happens when memory runs out;",
        ),
    ],
)
def test_several_devices_stop_together_with_one_message_and_keep_what_they_wrote(
    act: Act, checkpoints: Path, tmp_path: Path, victim: str, number: signal.Signals, code: int, message: str
):
    store = create_store(tmp_path / "lab.act", batch_tokens=160).root
    paths = [write_jsonl(tmp_path / name, flan(6200, start=start)) for start, name in enumerate(("a.jsonl", "b.jsonl"))]
    call = (
        "ingest",
        store,
        "--model",
        checkpoints / "base",
        "--devices",
        "cpu,cpu",
        "--tasks",
        paths[0],
        "--tasks",
        paths[1],
    )
    process = subprocess.Popen([*ACT, *map(str, call)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while sum(journal.read_text().count("\n") > 1 for journal in (store / ".staging").glob("*.journal")) < 2:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    children = children_of(process.pid)
    assert len(children) == 2
    os.kill(process.pid if victim == "parent" else min(children), number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert err.splitlines()[-1].startswith(message)
    assert err.count("Error: ") == (victim == "child")
    assert "Traceback" not in err
    assert not any(map(is_running, children))
    left = act(*call, "--status", "--json").json
    assert left["counts"] == {"done": 0, "running": 0, "interrupted": 2, "missing": 0}
    assert min(entry["n_written"] for entry in left["entries"]) >= 2048
    assert act("verify", store).code == 0
