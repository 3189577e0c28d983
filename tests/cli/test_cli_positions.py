"""Positions from the command line: several in one pass, listed, and compared one at a time."""

from pathlib import Path

import numpy as np
import pytest

from actlas.analyze import similarity
from actlas.store import open_store
from tests.cli.conftest import Act


def test_two_positions_are_ingested_in_one_pass_and_compared_one_at_a_time(
    act: Act, checkpoints: Path, tasks: Path, tmp_path: Path
):
    store, base = tmp_path / "lab.act", ("--model", checkpoints / "base")
    common = ("--tasks", tasks / "rte.jsonl", "--position", "last", "--position", "mean", "--json")
    plain = act("ingest", store, *base, *common)
    assert [record["position"] for record in plain.json["written"]] == ["last", "mean"]
    assert plain.json["forecast"]["n_examples"] == 12
    assert act("ingest", store, *base, "--adapter", checkpoints / "tuned", *common).code == 0
    opened = open_store(store)
    for position in ("last", "mean"):
        shown = act("compare", store, "base", "tuned", "--position", position, "--json")
        for row in shown.json:
            x, y = (
                opened.entry(model=name, task="rte", position=position).read(row["layer_a"]).astype("f8")
                for name in ("base", "tuned")
            )
            assert row["cka"] == pytest.approx(similarity(x, y), abs=1e-5)
            assert np.isfinite(row["cka"]) or row["layer_a"] == 0
    refused = act("compare", store, "base", "tuned", "--position", "first")
    assert refused.code == 1
    assert "no entry with rendering 'raw' and position 'first' on the tasks asked for" in refused.err
