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


def test_every_token_and_the_outputs_are_kept_and_told(act: Act, checkpoints: Path, tasks: Path, tmp_path: Path):
    store = tmp_path / "lab.act"
    done = act(
        "ingest", store, "--model", checkpoints / "base", "--tasks", tasks / "rte.jsonl", "--position", "last",
        "--position", "all", "--position", "target-mean", "--with-target", "--outputs",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [line.split()[2:4] for line in done.out.splitlines() if "rte" in line] == [
        ["raw-target", "last"],
        ["raw-target", "all"],
        ["raw-target", "target-mean"],
    ]
    told = {record["position"]: record for record in act("info", store, "base/rte", "--json").json}
    assert told["all"]["rows, one a token"] > told["all"]["n"] == 12
    assert told["last"]["outputs"] == ["top_token", "top_logit", "log_sum_exp", "entropy", "target_nll"]
    assert not {"outputs", "rows, one a token"} & told["target-mean"].keys()
    refused = act("compare", store, "base:raw-target", "base:raw", "--position", "all")
    assert refused.code == 1
    missing = act("ingest", store, "--model", checkpoints / "base", "--tasks", tasks, "--position", "target-mean")
    assert (missing.code, "add --with-target" in missing.err) == (1, True)
