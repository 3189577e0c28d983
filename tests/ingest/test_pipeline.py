"""Forward, copy and write overlap; little is in memory; the first error stops everything and says where it happened."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from actlas.analyze import compare_table
from actlas.ingest import Checkpoint, Options, ingest
from actlas.ingest.capture import Capture
from actlas.ingest.pipeline import Lane, Pipeline, to_numpy
from actlas.store import EntryWriter, InvalidInput, MemoryBudget, create_store, make_task, open_store
from tests.ingest.checkpoints import tiny_task

CPU = torch.device("cpu")


def nothing(_stage: str, _seconds: float) -> None:
    """Take no notice of waiting."""


def fill(lane: Lane, number: int, written: list[list[int]]) -> None:
    """Send one superblock of five batches through."""
    lane.begin()
    block: list[int] = []
    for batch in range(5):
        tensor = torch.tensor([10 * number + batch])
        lane.copy([tensor], lambda arrays, block=block: block.append(int(arrays[0][0])))
    lane.write(lambda: written.append(block))


def test_superblocks_are_written_whole_and_in_order():
    written: list[list[int]] = []
    with Pipeline(CPU, nothing) as pipeline:
        lane = pipeline.lane()
        for number in range(7):
            fill(lane, number, written)
    assert written == [[10 * number + batch for batch in range(5)] for number in range(7)]


def test_at_most_two_superblocks_are_in_memory_and_the_wait_is_told():
    open_gate, waits, begun = threading.Event(), [], []
    with Pipeline(CPU, lambda stage, seconds: waits.append((stage, seconds))) as pipeline:
        lane = pipeline.lane()

        def run() -> None:
            for number in range(4):
                lane.begin()
                begun.append(number)
                lane.write(open_gate.wait)

        thread = threading.Thread(target=run)
        thread.start()
        time.sleep(0.3)
        assert begun == [0, 1]
        open_gate.set()
        thread.join()
    assert begun == [0, 1, 2, 3]
    assert waits[0][0] == "writing"
    assert waits[0][1] > 0.1


@pytest.mark.parametrize("stage", ["copying to the host", "encoding and writing"])
def test_the_first_error_stops_everything_and_names_its_stage(stage: str):
    written: list[int] = []

    def fails(_arrays: object = None) -> None:
        raise OSError(28, "No space left on device")

    def run() -> None:
        with Pipeline(CPU, nothing) as pipeline:
            lane = pipeline.lane()
            for _ in range(1000):
                lane.begin()
                lane.copy([torch.zeros(1)], fails if stage.startswith("copy") else lambda _: None)
                lane.write(fails if stage.startswith("enc") else lambda: written.append(1))
                time.sleep(0.001)
            raise AssertionError("the forward pass went on")

    with pytest.raises(OSError, match="No space left") as caught:
        run()
    assert caught.value.__notes__ == [f"while {stage}"]
    assert written == []


def test_an_error_of_the_model_leaves_no_thread_behind():
    before, written = threading.active_count(), []

    def run() -> None:
        with Pipeline(CPU, nothing) as pipeline:
            lane = pipeline.lane()
            fill(lane, 0, written)
            fill(lane, 1, written)
            raise RuntimeError("CUDA out of memory")

    for _ in range(50):
        with pytest.raises(RuntimeError, match="CUDA out of memory"):
            run()
    assert threading.active_count() == before


def test_a_batch_that_does_not_fit_stops_the_ingest_and_a_smaller_budget_is_another_plan(
    llama: Path, root: Path, monkeypatch: pytest.MonkeyPatch
):
    task, checkpoints = tiny_task(20), [Checkpoint(base=str(llama), name="base")]
    create_store(root, batch_tokens=2000)
    real = Capture.__call__

    def small_device(capture: Capture, token_ids: list[list[int]], *parts: object) -> object:
        if len(token_ids) * max(map(len, token_ids)) > 240:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(capture, token_ids, *parts)

    monkeypatch.setattr(Capture, "__call__", small_device)
    with pytest.raises(
        MemoryBudget, match=r"task rte: a batch of \d+ prompts, \d+ tokens with padding.*--batch-tokens \d+:"
    ):
        ingest(root, checkpoints, [task], Options(device="cpu"))
    ingest(root, checkpoints, [task], Options(device="cpu", batch_tokens=150))
    monkeypatch.undo()
    ingest(root, [Checkpoint(base=str(llama), name="again")], [task], Options(device="cpu"))
    flags = compare_table(open_store(root), ["base", "again"])["flags"]
    assert flags.str.contains("plans differ").all()
    with pytest.raises(InvalidInput, match="batch_tokens: expected a positive number of tokens, got 0"):
        ingest(root, checkpoints, [task], Options(device="cpu", batch_tokens=0))


def test_bfloat16_goes_through_as_its_bits():
    tensor = torch.tensor([1.0, -2.5, float("nan")], dtype=torch.bfloat16)
    assert to_numpy(tensor).tobytes() == tensor.view(torch.int16).numpy().tobytes()
    assert to_numpy(torch.tensor([1.5], dtype=torch.float16)).dtype == np.float16


def test_an_ingest_whose_disk_fills_names_the_stage_and_goes_on_afterwards(
    llama: Path, root: Path, monkeypatch: pytest.MonkeyPatch
):
    task = make_task("long", [{"prompt": f"{n}", "target": ""} for n in range(4200)])
    create_store(root, batch_tokens=4096)
    real, written = EntryWriter.write, []

    def fills(writer: EntryWriter, **blocks: object) -> None:
        if written:
            raise OSError(28, "No space left on device")
        written.append(1)
        real(writer, **blocks)  # type: ignore[arg-type]

    monkeypatch.setattr(EntryWriter, "write", fills)
    checkpoint = [Checkpoint(base=str(llama))]
    with pytest.raises(OSError, match="No space left") as caught:
        ingest(root, checkpoint, [task], Options(device="cpu"))
    assert caught.value.__notes__ == ["while encoding and writing"]
    assert open_store(root).entries() == []
    monkeypatch.undo()
    (entry,) = ingest(root, checkpoint, [task], Options(device="cpu")).written
    assert entry.provenance["n_resumed"] == 2048
