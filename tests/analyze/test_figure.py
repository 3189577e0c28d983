"""Pictures and result files: what they show, and that they are whole or not there."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from actlas.analyze import check_output, curves, plot_curves, write_table
from actlas.store import InvalidInput


def table(n_tasks: int = 3, n_layers: int = 4, models: tuple[str, ...] = ("tuned",)) -> pd.DataFrame:
    rows = [
        {
            "task": f"task-{task}",
            "model_a": "base",
            "model_b": model,
            "layer_a": layer,
            "layer_b": layer,
            "cka": 1 - layer / 10 - task / 50,
            "cka_biased": 1.0,
        }
        for task in range(n_tasks)
        for model in models
        for layer in range(n_layers)
    ]
    return pd.DataFrame(rows)


def test_curves_are_quartiles_over_tasks():
    frame = table(n_tasks=5)
    summary = curves(frame, frame["model_b"])
    assert summary.loc[("tuned", 2), "tasks"] == 5
    expected = np.quantile(1 - 0.2 - np.arange(5) / 50, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(summary.loc[("tuned", 2), ["low", "median", "high"]].to_numpy(float), expected)


def test_undefined_cells_count_for_no_curve():
    frame = table(n_tasks=3)
    frame.loc[frame["task"] == "task-0", "cka"] = np.nan
    assert curves(frame, frame["model_b"])["tasks"].unique().tolist() == [2]


def test_a_picture_names_axes_and_curves(tmp_path: Path):
    path = tmp_path / "cka.svg"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.rcParams", {**__import__("matplotlib").rcParams, "svg.fonttype": "none"})
        plot_curves(table(models=("tuned", "other")), path)
    text = path.read_text()
    for words in ("layer (0 = input of the first block)", "linear CKA (debiased)", "base and tuned", "base and other"):
        assert words in text
    assert [file.name for file in tmp_path.iterdir()] == ["cka.svg"]


def test_many_curves_are_told_apart(tmp_path: Path):
    plot_curves(table(models=tuple(f"model-{number}" for number in range(12))), tmp_path / "cka.png", title="many")
    assert (tmp_path / "cka.png").read_bytes().startswith(b"\x89PNG")


def test_all_layers_make_no_curve(tmp_path: Path):
    frame = table()
    frame["layer_b"] = 0
    with pytest.raises(InvalidInput, match="a curve by layer needs matched layers"):
        plot_curves(frame, tmp_path / "cka.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_table_comes_back_as_it_was(tmp_path: Path, suffix: str):
    path = tmp_path / f"cka{suffix}"
    write_table(table(), path)
    read = pd.read_parquet(path) if suffix == ".parquet" else pd.read_csv(path)
    pd.testing.assert_frame_equal(read, table(), check_dtype=False)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_output_that_cannot_be_written_is_found_out_first(tmp_path: Path):
    with pytest.raises(InvalidInput, match=r"expected a name ending in \.parquet or \.csv"):
        check_output(tmp_path / "cka.xlsx", (".parquet", ".csv"))
    with pytest.raises(InvalidInput, match="cannot be written"):
        check_output(tmp_path / "nowhere" / "cka.csv", (".csv",))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidInput, match="is a directory, expected a file name"):
        check_output(tmp_path / "folder.csv", (".csv",))
    check_output(tmp_path / "fine.csv", (".csv",))
    assert not (tmp_path / "fine.csv").exists()


def test_paths_may_be_text_and_endings_are_checked(tmp_path: Path):
    write_table(table(), str(tmp_path / "cka.csv"))
    plot_curves(table(), str(tmp_path / "cka.png"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cka.csv", "cka.png"]
    with pytest.raises(InvalidInput, match=r"expected a name ending in \.parquet or \.csv"):
        write_table(table(), tmp_path / "cka.txt")
