"""What an ingest tells while it runs: speed, utilisation where the device's peak is known, bytes, and a summary."""

import re

import pytest

from actlas.cli.progress import IngestDisplay
from actlas.ingest import Checkpoint, Options, Progress, ingest
from actlas.ingest.peaks import known_peak, peak_rate


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("Tesla T4", None),
        ("NVIDIA A1000", None),
    ],
)
def test_peaks_are_known_by_the_whole_name(name, tera):
    assert known_peak(name) == (None if tera is None else pytest.approx(tera * 1e12))


def test_a_cpu_has_no_peak():
    assert peak_rate("cpu", "bfloat16") is None


class Counting(Progress):
    def __init__(self):
        self.n_bytes = 0

    def wrote(self, n_bytes):
        self.n_bytes += n_bytes


@pytest.mark.parametrize("positions", [("last", "mean"), ("all",)])
def test_the_bytes_of_states_are_told_as_they_are_written(positions, llama, root, task):
    told = Counting()
    report = ingest(
        root, [Checkpoint(base=str(llama))], [task], Options(device="cpu", positions=positions), progress=told
    )
    states = sum(
        file["size"]
        for entry in report.written
        for name, file in entry.manifest.files.items()
        if name.startswith(("hidden_states/c.", "final_norm/c."))
    )
    assert told.n_bytes == states > 0


def test_the_share_of_the_peak_is_shown_where_it_is_known(llama, root, task, monkeypatch, capsys):
    shown = IngestDisplay()
    monkeypatch.setattr("actlas.ingest.forecast.peak_rate", lambda _device, _dtype: 1e9)
    report = ingest(root, [Checkpoint(base=str(llama))], [task], Options(device="cpu"), progress=shown)
    shown.summary()
    line = capsys.readouterr().err.splitlines()[-1]
    found = re.fullmatch(
        r"12 examples in .*: ([\d,]+) tokens/s, \d+% padding, (\d+)% of the device's peak, bound by .*, .* written",
        line,
    )
    assert found, line
    share = report.forecast.operations_per_token * int(found[1].replace(",", "")) / 1e9
    assert int(found[2]) == pytest.approx(100 * share, abs=1)
