"""Intervals of curves over tasks: simulated tables whose truth is known."""

import re

import numpy as np
import pandas as pd
import pytest

from actlas.analyze.bootstrap import curve_difference, curve_intervals, half_sample
from actlas.store import InvalidInput


def table(values: dict[str, np.ndarray]) -> tuple[pd.DataFrame, pd.Series]:
    """Return a table of the curves (n_tasks, n_layers) and its labels."""
    rows = [
        {"task": f"task-{task}", "model_a": "base", "model_b": name, "layer_a": layer, "layer_b": layer, "cka": value}
        for name, curves in values.items()
        for (task, layer), value in np.ndenumerate(curves)
    ]
    frame = pd.DataFrame(rows)
    return frame, frame["model_b"]


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def widths(intervals: pd.DataFrame) -> np.ndarray:
    return (intervals["high"] - intervals["low"]).to_numpy()


def share_covered(intervals: pd.DataFrame, truth: float) -> float:
    return float(((intervals["low"] <= truth) & (truth <= intervals["high"])).mean())


@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_the_interval_covers_the_truth(statistic: str):
    simulations = table({"tuned": 0.5 + 0.1 * noise(0, 40, 200)})  # each layer is one
    assert 0.92 <= share_covered(curve_intervals(*simulations, statistic=statistic), 0.5) <= 0.98


def test_clusters_of_tasks_widen_the_interval_until_it_covers_the_truth():
    effects = np.repeat(noise(0, 25, 200), 4, axis=0)
    frame, label = table({"tuned": 0.5 + 0.1 * effects + 0.05 * noise(1, 100, 200)})
    clusters = {f"task-{task}": f"cluster-{task // 4}" for task in range(100)}
    by_task = curve_intervals(frame, label, statistic="mean")
    by_cluster = curve_intervals(frame, label, statistic="mean", clusters=clusters)
    assert share_covered(by_task, 0.5) < 0.75
    assert 0.90 <= share_covered(by_cluster, 0.5) <= 0.98
    # The variance of the mean is (0.1^2 + 0.05^2/4)/25; of 100 independent tasks it would be (0.1^2 + 0.05^2)/100.
    expected = np.sqrt(4 * (0.01 + 0.0025 / 4) / 0.0125)
    assert np.mean(widths(by_cluster) / widths(by_task)) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_pairing_takes_out_what_tasks_do_to_both_curves(statistic: str):
    effects = 0.2 * noise(0, 30, 1)
    frame, label = table(
        {name: effects + shift + 0.01 * noise(int(shift), 30, 4) for name, shift in (("a", 1), ("b", 2))}
    )
    alone = curve_intervals(frame, label, statistic=statistic)
    difference = curve_difference(frame, label, "b", "a", statistic=statistic)
    assert (widths(difference) < 0.4 * widths(alone).min()).all()
    assert ((difference["low"] < 1) & (difference["high"] > 1)).all()
    assert difference["value"].to_numpy() == pytest.approx((alone.loc["b"] - alone.loc["a"])["value"].to_numpy())


def test_one_set_of_draws_serves_all_labels_and_layers():
    one = noise(0, 12, 1)
    intervals = curve_intervals(*table({"a": np.hstack([one, one]), "b": np.hstack([one, one])}))
    assert len(intervals.drop_duplicates()) == 1
    difference = curve_difference(*table({"a": one + 1, "b": one}), "a", "b")
    assert difference[["value", "low", "high"]].to_numpy() == pytest.approx(np.ones((1, 3)))


@pytest.mark.parametrize(("statistic", "function"), [("median", np.median), ("mean", np.mean)])
def test_the_value_is_that_of_all_tasks_and_an_undefined_cell_is_left_out(statistic, function):
    values = noise(0, 9, 2)
    values[[0, 4], 1] = np.nan
    intervals = curve_intervals(*table({"a": values}), statistic=statistic)
    assert intervals["value"].to_list() == pytest.approx(
        [function(values[:, 0]), function(np.delete(values[:, 1], [0, 4]))]
    )
    assert intervals["n_tasks"].to_list() == [9, 7]
    assert intervals.index.to_list() == [("a", 0), ("a", 1)]


def test_the_quantiles_are_those_of_drawn_tasks():
    values = noise(1, 8, 1)
    [row] = curve_intervals(*table({"a": values}), resamples=20_000, level=0.8).itertuples()
    drawn = np.median(np.random.default_rng(0).choice(values[:, 0], size=(20_000, 8)), axis=1)
    spread = np.sort(values[:, 0])
    for found, expected in ((row.low, np.quantile(drawn, 0.1)), (row.high, np.quantile(drawn, 0.9))):
        assert found == pytest.approx(expected, abs=np.diff(spread).max() / 10)


def test_all_rows_of_a_task_are_drawn_together():
    frame, _ = table({f"seed-{seed}": 0.5 + 0.1 * noise(0, 30, 1) for seed in range(4)})
    pooled = curve_intervals(frame, pd.Series("all", frame.index))
    alone = curve_intervals(frame[frame["model_b"] == "seed-0"], pd.Series("all", frame.index[:30]))
    pd.testing.assert_frame_equal(pooled, alone)


def test_neither_the_order_of_rows_nor_what_came_before_matters():
    frame, label = table({"a": noise(0, 10, 3)})
    shuffled = frame.sample(frac=1, random_state=1)
    expected = curve_intervals(frame, label, seed=4)
    pd.testing.assert_frame_equal(curve_intervals(shuffled, label[shuffled.index], seed=4).sort_index(), expected)
    assert not curve_intervals(frame, label, seed=5).equals(expected)


def test_fewer_than_five_tasks_or_clusters_have_no_interval():
    frame, label = table({"a": noise(0, 5, 4)})
    assert curve_intervals(frame, label)["low"].notna().all()
    frame.loc[(frame["layer_a"] == 2) & (frame["task"] == "task-0"), "cka"] = np.nan
    few = curve_intervals(frame, label)
    assert few["low"].isna().to_list() == few["high"].isna().to_list() == [False, False, True, False]
    assert few["value"].notna().all()
    clustered = curve_intervals(frame, label, clusters={"task-0": "nli", "task-1": "nli"})
    assert clustered[["low", "high"]].isna().all(axis=None)
    assert clustered["n_clusters"].to_list() == [4, 4, 4, 4]
    assert half_sample(frame, label, clusters={"task-0": "nli", "task-1": "nli"})["median"].isna().all()


def test_a_layer_without_values_stays_in_the_curve():
    values = noise(0, 6, 2)
    values[:, 0] = np.nan
    first = curve_intervals(*table({"a": values})).iloc[0]
    assert first[["value", "low", "high"]].isna().all()
    assert first["n_tasks"] == 0


def test_a_difference_is_over_the_tasks_that_both_have():
    a, b = noise(0, 8, 1), noise(1, 8, 1)
    a[0], b[7] = np.nan, np.nan
    frame, label = table({"a": a, "b": b})
    frame = frame.drop(index=1)  # task 1 of a
    [row] = curve_difference(frame, label[frame.index], "a", "b").itertuples()
    assert row.value == pytest.approx(np.median(a[2:7]) - np.median(b[2:7]))
    assert (row.n_tasks, row.n_clusters) == (5, 5)


def test_two_halves_agree_on_a_shape_and_not_on_noise():
    shape = np.sin(np.arange(12) / 2)
    found = half_sample(*table({"shape": shape + 0.5 * noise(0, 40, 12), "noise": noise(1, 40, 12)}), splits=400)
    assert found.loc["shape", "low"] > 0.9
    assert abs(found.loc["noise", "median"]) < 0.4
    assert found.loc["noise", "low"] < 0
    assert found["n_tasks"].to_list() == [40, 40]


def test_the_halves_share_no_cluster():
    """Where all that moves is an accident of each cluster, halves of tasks agree and halves of clusters do not."""
    accidents = np.repeat(noise(0, 6, 15), 20, axis=0)
    frame, label = table({"a": accidents + 0.1 * noise(1, 120, 15)})
    clusters = {f"task-{task}": f"cluster-{task // 20}" for task in range(120)}
    by_task = half_sample(frame, label, statistic="mean", splits=200)
    by_cluster = half_sample(frame, label, statistic="mean", splits=200, clusters=clusters)
    assert by_task.loc["a", "median"] > 0.7
    assert by_cluster.loc["a", "median"] < 0.4
    assert by_cluster.loc["a", "n_clusters"] == 6


def test_a_flat_curve_and_two_layers_have_no_shape():
    assert half_sample(*table({"flat": np.full((10, 5), 0.1)}))[["median", "low"]].isna().all(axis=None)
    assert half_sample(*table({"short": noise(0, 10, 2)}))[["median", "low"]].isna().all(axis=None)


def test_a_layer_that_few_tasks_have_does_not_undo_the_others():
    values = np.arange(6) + 0.1 * noise(0, 20, 6)
    values[1:, 3] = np.nan
    assert half_sample(*table({"a": values})).loc["a", "low"] > 0.9


def test_rows_without_a_label_belong_to_no_curve():
    frame, label = table({"a": noise(0, 8, 2), "b": noise(1, 8, 2)})
    expected = curve_intervals(frame[label == "a"], label[label == "a"])
    pd.testing.assert_frame_equal(curve_intervals(frame, label.where(label == "a")), expected)


def test_columns_are_found_by_the_name_of_their_metric():
    frame, label = table({"a": noise(0, 6, 1)})
    frame = frame.assign(cka_biased=1.0).assign(**{"mutual-knn:5": 2.0})
    assert curve_intervals(frame, label, metric="cka-biased")["high"].item() == 1
    assert curve_intervals(frame, label, metric="mutual-knn:5")["low"].item() == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "cka-bised"}, "no metric 'cka-bised' in the table; "),
        ({"statistic": "mode"}, "statistic 'mode': expected one of median, mean"),
        ({"level": 95}, "level: expected a share between 0 and 1, got 95"),
        ({"resamples": 0}, "resamples: expected at least 1, got 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    frame, label = table({"a": noise(0, 6, 2)})
    with pytest.raises(InvalidInput, match=re.escape(message)):
        curve_intervals(frame, label, **options)
    with pytest.raises(InvalidInput, match=re.escape(message)):
        curve_difference(frame, label, "a", "a", **options)


def test_tables_that_are_no_curves_are_refused():
    frame, label = table({"a": noise(0, 6, 2)})
    with pytest.raises(InvalidInput, match="label: expected one label for each row"):
        curve_intervals(frame, label.iloc[:4])
    with pytest.raises(InvalidInput, match="no label 'b' in the table; there is: a"):
        curve_difference(frame, label, "a", "b")
    with pytest.raises(InvalidInput, match="splits: expected at least 1, got 0"):
        half_sample(frame, label, splits=0)
    with pytest.raises(InvalidInput, match="label: expected a label in at least one row of the table, got none"):
        curve_intervals(frame, pd.Series(None, frame.index, object))
    twice = pd.concat([frame, frame.assign(layer_b=0)], ignore_index=True)
    with pytest.raises(InvalidInput, match="one row for each label, task, pair of models and layer, got several"):
        curve_intervals(twice, twice["model_b"])
