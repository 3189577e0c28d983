"""What `ingest` does and refuses: which entries, in which order, what it says, and what it leaves alone."""

import errno
import time
from datetime import datetime

import numpy as np
import pytest
import torch

from actlas.ingest import Checkpoint, Options, Progress, ingest
from actlas.ingest.capture import Capture
from actlas.store import (
    BATCH_TOKENS,
    ActError,
    EntryWriter,
    InvalidInput,
    Mismatch,
    NotFound,
    create_store,
    make_task,
    open_store,
    verify,
)
from tests.ingest.checkpoints import byte_tokenizer, ingest_one, load, own_states, tiny_task, tree

CPU = Options(device="cpu")


class Diary(Progress):
    """Remembers everything that it is told."""

    def __init__(self):
        self.events = []

    def start(self, forecast):
        self.events.append(("start", forecast))

    def note(self, message):
        self.events.append(("note", message))

    def entry(self, label):
        self.events.append(("entry", label))

    def advance(self, n_examples, n_tokens, n_padded):
        self.events.append(("advance", (n_examples, n_tokens, n_padded)))

    def waiting(self, seconds):
        self.events.append(("waiting", seconds))

    def of(self, kind):
        return [content for name, content in self.events if name == kind]


@pytest.fixture
def no_weights(monkeypatch):
    """From here on, loading weights fails the test."""

    def forbidden(*_args):
        raise AssertionError("weights were loaded")

    def forbid():
        monkeypatch.setattr("actlas.ingest.residents.load_base", forbidden)

    return forbid


@pytest.fixture
def tasks():
    return [tiny_task(7, "rte"), tiny_task(5, "boolq", seed=1), tiny_task(3, "sst2", seed=2)]


def names(entries):
    return [(entry.model, entry.task) for entry in entries]


def test_a_dry_run_loads_no_weights_and_writes_nothing(llama, root, tasks, tmp_path, no_weights):
    no_weights()
    report = ingest(root, [Checkpoint(base=str(llama))], tasks, CPU, dry_run=True)
    assert list(tmp_path.iterdir()) == []
    forecast = report.forecast
    assert (report.written, report.present) == ((), ())
    assert (forecast.n_entries, forecast.n_present, forecast.n_examples) == (3, 0, 15)
    assert forecast.n_bytes == 4 * 15 * 32 * 4
    assert forecast.n_padded >= forecast.n_tokens > 15
    assert forecast.least_seconds > 0
    assert forecast.free_bytes > 0
    create_store(root)
    before = tree(root)
    ingest(root, [Checkpoint(base=str(llama))], tasks, CPU, dry_run=True)
    assert tree(root) == before


def test_the_same_key_again_computes_nothing_and_loads_no_weights(llama, root, tasks, no_weights):
    checkpoint, diary = Checkpoint(base=str(llama), name="base"), Diary()
    first = ingest(root, [checkpoint], tasks[:2], CPU)
    before = tree(root)
    no_weights()
    again = ingest(root, [checkpoint], tasks[:2], CPU, progress=diary)
    assert tree(root) == before
    assert [entry.id for entry in again.present] == [entry.id for entry in first.written]
    assert again.written == ()
    assert (again.forecast.n_entries, again.forecast.n_present, again.forecast.least_seconds) == (0, 2, 0.0)
    assert [note.split(" key=")[0] for note in diary.of("note")] == [
        "already there, not computed again: base/rte/raw-last",
        "already there, not computed again: base/boolq/raw-last",
    ]


def test_only_what_is_missing_is_computed(llama, adapters, root, tasks):
    base, tuned = (
        Checkpoint(base=str(llama), name="base"),
        Checkpoint(base=str(llama), adapter=str(adapters()), name="t"),
    )
    ingest(root, [base], tasks[:1], CPU)
    report = ingest(root, [base, tuned], tasks[:2], CPU)
    assert names(report.present) == [("base", "rte")]
    assert names(report.written) == [("base", "boolq"), ("t", "rte"), ("t", "boolq")]
    report = ingest(root, [base, tuned], tasks, CPU)
    assert names(report.written) == [("base", "sst2"), ("t", "sst2")]


def test_a_control_goes_to_its_own_task_alone_unless_all_are_asked_for(llama, adapters, root, tasks):
    checkpoints = [
        Checkpoint(base=str(llama), name="base"),
        Checkpoint(base=str(llama), adapter=str(adapters()), name="control", trained_on=("boolq",)),
        Checkpoint(base=str(llama), adapter=str(adapters(seed=2)), name="multi", trained_on=("rte", "boolq")),
    ]
    written = names(ingest(root, checkpoints, tasks, CPU).written)
    assert [task for model, task in written if model == "control"] == ["boolq"]
    assert [task for model, task in written if model == "multi"] == ["rte", "boolq", "sst2"]
    store = open_store(root)
    assert store.labels("control") == {"trained_on": ["boolq"]}
    assert store.labels("multi") == {"trained_on": ["rte", "boolq"]}
    assert store.labels("base") == {}
    late = Checkpoint(base=str(llama), name="base", trained_on=("rte",))
    assert ingest(root, [late], tasks, CPU, dry_run=True).present
    assert store.labels("base") == {}
    assert not ingest(root, [late], tasks, CPU).written  # it is there already, and what is new of it is taken over
    assert store.labels("base") == {"trained_on": ["rte"]}
    rest = ingest(root, checkpoints, tasks, Options(device="cpu", all_tasks=True)).written
    assert names(rest) == [("control", "rte"), ("control", "sst2")]


def test_an_entry_says_where_it_comes_from(llama, adapters, root):
    rows = [{"prompt": str(n), "target": "", "source_id": str(n // 2)} for n in range(6)]
    task = make_task("rte", [*rows, rows[0]])
    checkpoint, diary = Checkpoint(base=str(llama), adapter=str(adapters()), name="tuned", trained_on=("rte",)), Diary()
    (entry,) = ingest(root, [checkpoint], [task], CPU, progress=diary).written
    found = entry.provenance
    assert datetime.fromisoformat(found["started"]).tzinfo is not None
    assert set(found["versions"]) == {"actlas", "torch", "transformers", "peft", "zarr", "numpy"}
    assert found["checkpoint"] == {
        "base": str(llama), "revision": None, "adapter": checkpoint.adapter, "random_init": None, "stack": None,
        "name": "tuned", "trained_on": ["rte"],
    }  # fmt: skip
    assert (found["attention"], found["batch_tokens"], found["n_resumed"]) == ("sdpa", BATCH_TOKENS, 0)
    assert found["device"].startswith("cpu ")  # which vector instructions it has decides some bits
    assert (found["n_truncated"], found["n_duplicates"], found["n_tokens"]) == (0, 1, 12)
    assert found["padding_share"] == 0
    assert found["conformance"]["norm_width"] == 32
    assert found["conformance"]["padded_against_alone"] < 1e-5
    assert found["seconds"] >= 0
    assert found["tokens_per_second"] > 0
    assert found["host"]
    assert diary.of("note") == ["task rte: 1 exact duplicates kept once, 6 examples remain"]
    model = open_store(root).model("tuned")
    assert (model.architecture, model.n_layers, model.width, model.norm_width) == ("LlamaForCausalLM", 3, 32, 32)
    assert (model.base, model.adapter) == (str(llama), checkpoint.adapter)
    assert entry.read_task().column("source_id") == task.column("source_id")


@pytest.mark.parametrize("budget", [40, 16384])
def test_progress_adds_up_to_the_forecast(budget, llama, adapters, root, tasks):
    create_store(root, batch_tokens=budget)
    checkpoints, diary = (
        [Checkpoint(base=str(llama), adapter=str(adapters()), name="a"), Checkpoint(base=str(llama), name="b")],
        Diary(),
    )
    report = ingest(root, checkpoints, tasks, CPU, progress=diary)
    (forecast,) = diary.of("start")
    assert forecast == report.forecast
    assert diary.events[0][0] == "start"
    sums = np.sum(diary.of("advance"), axis=0).tolist()
    assert sums == [forecast.n_examples, forecast.n_tokens, forecast.n_padded]
    assert diary.of("entry") == [f"{model} / {task} / raw" for model in "ab" for task in ("rte", "boolq", "sst2")]


def test_two_superblocks_are_in_task_order(llama, root):
    task = make_task("long", [{"prompt": f"{n * 7919 % 2100}", "target": str(n)} for n in range(2100)])
    create_store(root, batch_tokens=1500)
    (entry,) = ingest(root, [Checkpoint(base=str(llama), name="base")], [task], CPU).written
    rows = [0, 1, 1000, 2046, 2047, 2048, 2049, 2099]
    token_ids = byte_tokenizer()([task.rows[row]["prompt"] for row in rows])["input_ids"]
    hidden, final = own_states(load(llama), token_ids)
    np.testing.assert_allclose(entry.hidden_states[:, rows], hidden.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(entry.final_norm[rows], final.numpy(), rtol=1e-5, atol=1e-5)


def refuse(root, error, match, checkpoints, tasks, options=CPU):
    before = tree(root)
    with pytest.raises(error, match=match):
        ingest(root, checkpoints, tasks, options)
    assert tree(root) == before


def test_a_name_belongs_to_one_checkpoint(llama, bases, adapters, root, task, no_weights):
    ingest_one(root, llama, task)
    no_weights()
    match = "the name 'base' belongs to another checkpoint"
    other = bases("llama", seed=5)
    refuse(root, Mismatch, match, [Checkpoint(base=str(other), name="base")], [task])
    refuse(root, Mismatch, match, [Checkpoint(base=str(llama), adapter=str(adapters()), name="base")], [task])
    refuse(root, Mismatch, match, [Checkpoint(base=str(other), name="base")], [tiny_task(4, "other")])


def test_requests_that_make_no_sense_are_refused_before_weights_are_loaded(llama, adapters, root, task, no_weights):
    ingest_one(root, llama, task)
    no_weights()
    base, lora = str(llama), str(adapters())
    twins = [Checkpoint(base=base, name="x"), Checkpoint(base=base, adapter=lora, name="x")]
    refuse(root, InvalidInput, "two checkpoints are called x; give each its own name", twins, [task])
    lost = [Checkpoint(base=base, name="x", trained_on=("rta",))]
    refuse(root, NotFound, "x is said to be trained on 'rta', .*did you mean 'rte'?", lost, [task])
    for checkpoints, tasks in (([], [task]), (twins[:1], [])):
        refuse(root, InvalidInput, "at least one checkpoint, one task and one rendering", checkpoints, tasks)
    refuse(root, InvalidInput, "at least one", twins[:1], [task], Options(device="cpu", renderings=()))
    refuse(root, InvalidInput, "is not a slug.*'my-model' would do", [Checkpoint(base=base, name="My Model")], [task])
    refuse(root, InvalidInput, "dtype 'int8': expected one of", twins[:1], [task], Options(device="cpu", dtype="int8"))
    refuse(root, InvalidInput, "layers '9'.*0 to 3, got 9", twins[:1], [task], Options(device="cpu", layers="9"))
    refuse(root, InvalidInput, "device 'abacus' cannot be used", twins[:1], [task], Options(device="abacus"))


def test_two_tasks_of_one_name_are_refused(llama, root):
    create_store(root)
    twins = [tiny_task(3), tiny_task(4)]
    refuse(root, InvalidInput, "two tasks are called rte", [Checkpoint(base=str(llama), name="base")], twins)


def test_without_a_gpu_cuda_is_refused_and_auto_is_the_cpu(llama, root, task):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    (entry,) = ingest(root, [Checkpoint(base=str(llama), name="base")], [task]).written
    assert entry.provenance["device"].startswith("cpu ")
    refuse(
        root,
        InvalidInput,
        "device 'cuda' cannot be used",
        [Checkpoint(base=str(llama), name="base")],
        [task],
        Options(device="cuda"),
    )


def test_what_is_no_store_is_refused_and_left_alone(llama, tmp_path, task):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    before = tree(tmp_path)
    for name in ("file", "folder"):
        with pytest.raises(ActError, match=f"{name}.*not an actlas store"):
            ingest(tmp_path / name, [Checkpoint(base=str(llama), name="base")], [task], CPU)
    assert tree(tmp_path) == before


def test_an_empty_directory_becomes_a_store(llama, root, task):
    root.mkdir()
    assert ingest_one(root, llama, task).model == "base"
    assert open_store(root).batch_tokens == BATCH_TOKENS


def test_a_disk_that_is_too_small_is_refused_before_weights_are_loaded(llama, root, task, monkeypatch, no_weights):
    create_store(root)
    no_weights()
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 1000}))
    refuse(root, InvalidInput, "need up to 0.0 GiB, 0.0 GiB are free", [Checkpoint(base=str(llama), name="x")], [task])


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_while_writing_stops_the_run_and_the_next_goes_on_from_there(failing, llama, root, monkeypatch):
    task = make_task("long", [{"prompt": "a", "target": str(n)} for n in range(2100)])
    calls, write = [], EntryWriter.write

    def full_disk(self, **blocks):
        calls.append(len(calls))
        if calls[-1] == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, **blocks)

    create_store(root)
    monkeypatch.setattr(EntryWriter, "write", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        ingest(root, [Checkpoint(base=str(llama), name="base")], [task], CPU)
    assert open_store(root).models() == []
    assert len([path for path in (root / ".staging").iterdir() if path.is_dir()]) == failing
    monkeypatch.setattr(EntryWriter, "write", write)
    entry = ingest_one(root, llama, task)
    assert (entry.n_examples, entry.provenance["n_resumed"]) == (2100, 2048 * failing)
    assert list((root / ".staging").iterdir()) == []


def test_an_error_in_the_second_entry_leaves_the_first(llama, root, tasks, monkeypatch):
    calls, run = [], Capture.__call__

    def fails(self, token_ids, *parts):
        calls.append(len(token_ids))
        if calls.count(5) == 1:  # the batch of the second task
            raise RuntimeError("out of memory")
        return run(self, token_ids, *parts)

    monkeypatch.setattr(Capture, "__call__", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        ingest(root, [Checkpoint(base=str(llama), name="base")], tasks, CPU)
    store = open_store(root)
    assert [entry.task for entry in store.entries()] == ["rte"]
    assert all(not found.problems for found in verify(store))


def test_the_forecast_counts_the_parameters_of_the_files_whatever_is_computed_in(llama, root, task, monkeypatch):
    monkeypatch.setattr("actlas.ingest.forecast._matrix_rate", lambda _device, _dtype: 1.0)
    checkpoint = Checkpoint(base=str(llama), name="base")
    full, half = (
        ingest(root, [checkpoint], [task], Options(device="cpu", dtype=dtype), dry_run=True).forecast.least_seconds
        for dtype in ("float32", "bfloat16")
    )
    n_parameters = sum(parameter.numel() for parameter in load(llama).parameters())
    n_padded = ingest(root, [checkpoint], [task], CPU, dry_run=True).forecast.n_padded
    assert full == half
    assert full / (2 * n_parameters * n_padded) == pytest.approx(1, rel=0.1)


def test_the_rate_of_the_forecast_is_a_bound(llama, root):
    task = tiny_task(200)
    checkpoint = Checkpoint(base=str(llama), name="base")
    start = time.perf_counter()
    report = ingest(root, [checkpoint], [task], CPU)
    assert report.forecast.least_seconds < time.perf_counter() - start
    half = ingest(root, [checkpoint], [task], Options(device="cpu", dtype="bfloat16"), dry_run=True).forecast
    assert half.n_bytes == report.forecast.n_bytes // 2
