"""Heat maps of layers and matrices of models: that they show the numbers that they stand for."""

from collections.abc import Mapping, Sequence
from itertools import combinations, combinations_with_replacement, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from actlas.analyze import layer_matrix, model_matrix, plot_layers, plot_models
from actlas.analyze.figure.clustering import cluster
from actlas.analyze.figure.heatmap import grid_shape
from actlas.analyze.figure.layers import draw_layers
from actlas.analyze.figure.models import draw_models
from actlas.store import InvalidInput

LONG = "llama-2-7b-hf-flan-instruct-rte-seed-000"  # 40 letters


def every_layer(depths: Mapping[str, int], n_tasks: int = 3) -> pd.DataFrame:
    """All pairs of layers as `compare_table` gives them: within a model each pair once."""
    rows = [
        (
            f"task-{task}",
            a,
            b,
            layer_a,
            layer_b,
            1 - abs(layer_a - layer_b) / 10 - layer_a / 100 * (a != b) - task**2 / 50,
        )
        for task in range(n_tasks)
        for a, b in combinations_with_replacement(depths, 2)
        for layer_a, layer_b in (
            combinations_with_replacement(range(depths[a]), 2)
            if a == b
            else product(range(depths[a]), range(depths[b]))
        )
    ]
    return pd.DataFrame(rows, columns=["task", "model_a", "model_b", "layer_a", "layer_b", "cka"])


def matched(places: Mapping[str, float], n_layers: int = 3, n_tasks: int = 3) -> pd.DataFrame:
    """Models on a line: the further from each other, the less alike."""
    rows = [
        (f"task-{task}", a, b, layer, layer, 1 - abs(places[a] - places[b]) * (layer + 1) / 10 - task**2 / 50)
        for task in range(n_tasks)
        for a, b in combinations(places, 2)
        for layer in range(n_layers)
    ]
    return pd.DataFrame(rows, columns=["task", "model_a", "model_b", "layer_a", "layer_b", "cka"])


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.images]


def shown(axes: Axes) -> np.ndarray:
    return np.ma.filled(axes.images[0].get_array(), np.nan)


def rows_of(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_yticklabels()]


def caption(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def test_cells_are_medians_over_tasks_and_a_model_with_itself_has_both_sides():
    table = every_layer({"base": 3, "tuned": 2})
    cells = layer_matrix(table).set_index(["model_a", "model_b", "layer_a", "layer_b"]).sort_index()
    assert len(cells) == 3 * 3 + 3 * 2 + 2 * 2
    own = cells["median"].xs(("base", "base")).unstack()
    np.testing.assert_allclose(own, 1 - np.abs(np.subtract.outer(range(3), range(3))) / 10 - 1 / 50)  # of tasks 0, 1, 2
    across = cells["median"].xs(("base", "tuned")).unstack()
    assert across.loc[2, 0] == pytest.approx(1 - 0.2 - 0.02 - 0.02)
    assert across.loc[0, 1] == pytest.approx(1 - 0.1 - 0.02)
    assert (cells["tasks"] == 3).all()


def test_a_cell_is_the_median_of_the_tasks_that_define_it():
    table = every_layer({"base": 2}, n_tasks=2)
    table.loc[(table["layer_b"] == 1) & (table["task"] == "task-0"), "cka"] = np.nan
    table.loc[table["layer_a"] == 1, "cka"] = np.nan
    cells = layer_matrix(table).set_index(["layer_a", "layer_b"])
    assert cells["tasks"].to_dict() == {(0, 0): 2, (0, 1): 1, (1, 1): 0, (1, 0): 1}
    assert cells.loc[(1, 0), "median"] == cells.loc[(0, 1), "median"] == pytest.approx(0.9 - 1 / 50)
    assert np.isnan(cells.loc[(1, 1), "median"])


def test_every_pair_has_a_panel_with_its_layers_from_the_bottom_left():
    figure = draw_layers(every_layer({"base": 4, "tuned": 3}))
    labels = [(axes.get_ylabel(), axes.get_xlabel()) for axes in panels(figure)]
    names = [("base", "base"), ("base", "tuned"), ("tuned", "tuned")]
    assert labels == [(f"layer of {a}", f"layer of {b}") for a, b in names]
    middle = panels(figure)[1]
    assert middle.images[0].origin == "lower"
    assert shown(middle).shape == (4, 3)
    assert shown(middle)[3, 0] == pytest.approx(1 - 0.3 - 0.03 - 0.02)


def test_all_panels_share_one_scale_that_reaches_from_the_smallest_negative_to_1():
    table = every_layer({"base": 3, "tuned": 3})
    assert {axes.images[0].get_clim() for axes in panels(draw_layers(table))} == {(0.0, 1.0)}
    table.loc[(table["model_a"] != table["model_b"]) & (table["layer_a"] == 2), "cka"] = -0.25
    figure = draw_layers(table)
    assert {axes.images[0].get_clim() for axes in panels(figure)} == {(-0.25, 1.0)}
    assert len(figure.axes) == 3 + 1  # one colour bar


def test_what_is_undefined_is_grey_and_the_caption_says_so():
    table = every_layer({"base": 3})
    assert caption(draw_layers(table)) == ""
    table.loc[(table["layer_a"] == 0) & (table["layer_b"] == 2), "cka"] = np.nan
    figure = draw_layers(table)
    [axes] = panels(figure)
    assert np.argwhere(np.isnan(shown(axes))).tolist() == [[0, 2], [2, 0]]
    red, green, blue, _ = axes.images[0].to_rgba(shown(axes))[0, 2]
    assert red == green == blue
    assert caption(figure) == "Grey: undefined."


def test_a_table_without_any_value_is_drawn_all_grey():
    figure = draw_layers(every_layer({"base": 2}).assign(cka=np.nan))
    assert figure.get_suptitle() == "No value is defined"
    assert np.isnan(shown(panels(figure)[0])).all()


def test_layers_are_numbered_by_name_where_not_all_were_kept():
    table = every_layer({"base": 12})
    table[["layer_a", "layer_b"]] *= 3
    [axes] = panels(draw_layers(table))
    assert rows_of(axes) == ["0", "6", "12", "18", "24", "30"]
    np.testing.assert_array_equal(axes.get_yticks(), [0, 2, 4, 6, 8, 10])


@pytest.mark.parametrize(
    ("n_panels", "shape"), [(1, (1, 1)), (2, (1, 2)), (3, (1, 3)), (4, (2, 2)), (6, (2, 3)), (10, (3, 4)), (45, (7, 7))]
)
def test_panels_fill_a_grid_about_as_wide_as_high(n_panels: int, shape: tuple[int, int]):
    assert grid_shape(n_panels) == shape


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Texts of a drawn figure that lie upon each other, or leave the sheet."""
    for _ in range(2):  # as save_figure does
        figure.draw_without_rendering()
    texts = [text for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text().strip()]
    boxes = {text: text.get_window_extent() for text in texts if text.get_visible()}
    pairs = [(a.get_text(), b.get_text()) for a, b in combinations(boxes, 2) if boxes[a].overlaps(boxes[b])]
    outside = [
        (text.get_text(), "sheet")
        for text, box in boxes.items()
        if not (
            figure.bbox.x0 <= box.x0
            and box.x1 <= figure.bbox.x1
            and figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1
        )
    ]
    return pairs + outside


@pytest.mark.parametrize("n_models", [1, 2, 4])
def test_long_names_do_not_overlap_in_heat_maps(n_models: int):
    names = {f"{number}{LONG[:-1]}": 9 for number in range(n_models)}
    table = every_layer(names, n_tasks=1)
    table.loc[0, "cka"] = np.nan
    assert overlaps(draw_layers(table)) == []


@pytest.mark.parametrize("n_models", [3, 12])
def test_long_names_do_not_overlap_in_matrices(n_models: int):
    places = {f"{LONG[:-2]}{number:02}": number / 10 for number in range(n_models)}
    assert overlaps(draw_models(matched(places, n_layers=4, n_tasks=1))) == []


@pytest.mark.parametrize("letter", ["i", "m"])
def test_a_caption_does_not_overlap_names_however_wide_they_are(letter: str):
    table = matched({f"{letter * 40}{number}": number for number in range(4)}, n_layers=3, n_tasks=1)
    assert overlaps(draw_models(table.drop(index=[0, 1, 2]))) == []


def test_models_by_models_is_a_symmetric_square_of_medians():
    table = matched({"base": 0, "tuned": 1, "other": 3})
    cells = model_matrix(table, 1)
    assert list(cells) == ["model_a", "model_b", "median", "tasks"]
    square = cells.pivot(index="model_a", columns="model_b", values="median")
    assert square.loc["base", "other"] == square.loc["other", "base"] == pytest.approx(1 - 3 * 2 / 10 - 0.02)
    assert np.diag(square).tolist() == [1, 1, 1]
    assert cells["tasks"].tolist() == [3] * 9
    assert cells["model_a"].drop_duplicates().tolist() == ["base", "tuned", "other"]


def test_models_that_were_not_compared_have_no_value_nor_one_with_itself_when_nothing_is_defined():
    table = matched({"a": 0, "b": 1, "c": 2})
    table = table[~((table["model_a"] == "a") & (table["model_b"] == "c"))]
    cells = model_matrix(table, 0).set_index(["model_a", "model_b"])
    assert list(cells.index.unique("model_a")) == ["a", "b", "c"]
    assert np.isnan(cells.loc[("a", "c"), "median"])
    assert cells.loc[("c", "a"), "tasks"] == 0
    table.loc[(table["model_a"] == "a") & (table["layer_a"] == 2), "cka"] = np.nan
    undefined = model_matrix(table, 2).set_index(["model_a", "model_b"])["median"]
    assert np.isnan(undefined["a", "a"])
    assert undefined["b", "b"] == 1


def test_the_layers_drawn_are_spread_from_first_to_last_or_those_asked_for():
    table = matched({"a": 0, "b": 0.1, "c": 0.2}, n_layers=33, n_tasks=1)
    titles = [axes.get_title() for axes in panels(draw_models(table))]
    assert titles == [f"layer {layer}" for layer in (0, 6, 13, 19, 26, 32)]
    assert [axes.get_title() for axes in panels(draw_models(table, layers=[7, 3]))] == ["layer 7", "layer 3"]
    assert len(panels(draw_models(matched({"a": 0, "b": 1, "c": 2}, n_layers=2)))) == 2


def test_similar_models_are_beside_each_other_in_every_panel():
    places = {"a": 0.0, "far": 3.0, "b": 0.4, "farther": 3.3, "c": 0.7}
    figure = draw_models(matched(places, n_tasks=1))
    order = ["a", "b", "c", "far", "farther"]
    assert rows_of(panels(figure)[0]) == order
    for layer, axes in enumerate(panels(figure)):
        distances = np.abs(np.subtract.outer([places[name] for name in order], [places[name] for name in order]))
        np.testing.assert_allclose(shown(axes), 1 - distances * (layer + 1) / 10)
    assert "average linkage on 1 - linear CKA (debiased), mean over layers 0, 1, 2." in caption(figure)
    [beside] = panels(figure)[0].child_axes
    heights = sorted(max(line.get_xdata()) for line in beside.lines)
    assert heights[0] == pytest.approx(0.3 * 2 / 10)  # b and c, also far and farther, mean over the layers
    assert heights[-1] == pytest.approx(np.mean([3 - 0, 3 - 0.4, 3 - 0.7, 3.3 - 0, 3.3 - 0.4, 3.3 - 0.7]) * 2 / 10)


def test_each_leaf_of_the_tree_is_beside_the_row_of_its_model():
    figure = draw_models(matched({"a": 0, "b": 5, "c": 0.2, "d": 2}, n_layers=1, n_tasks=1))
    [axes] = panels(figure)
    names, [beside] = rows_of(axes), axes.child_axes
    first = min(beside.lines, key=lambda line: max(line.get_xdata()))
    assert {names[round(place)] for place in first.get_ydata()} == {"a", "c"}
    assert axes.images[0].origin == "upper"
    assert beside.get_ylim() == axes.get_ylim()


def test_a_layer_without_values_is_left_out_of_the_distances():
    table = matched({"a": 0, "b": 3, "c": 0.2}, n_tasks=1)
    table.loc[table["layer_a"] == 0, "cka"] = np.nan
    figure = draw_models(table)
    assert rows_of(panels(figure)[0]) == ["a", "c", "b"]
    assert "mean over layers 1, 2. Grey: undefined, or not compared." in caption(figure)


def test_without_all_distances_the_order_is_the_given_one_and_the_caption_says_so():
    table = matched({"a": 0, "b": 3, "c": 0.2}, n_tasks=1)
    figure = draw_models(table[~((table["model_a"] == "a") & (table["model_b"] == "c"))])
    assert rows_of(panels(figure)[0]) == ["a", "b", "c"]
    assert not panels(figure)[0].child_axes
    assert "in the order given, not clustered: at layer 0, a and c have no value." in caption(figure)
    assert np.argwhere(np.isnan(shown(panels(figure)[1]))).tolist() == [[0, 2], [2, 0]]


def test_identical_models_have_a_tree_of_no_height():
    square = pd.DataFrame(np.full((3, 3), 1 + 1e-15), index=[*"abc"], columns=[*"abc"])
    tree = cluster({0: square})
    assert tree is not None
    assert tree.heights.max() == 0
    draw_models(matched({"a": 0, "b": 0, "c": 0}, n_tasks=1))


@pytest.mark.parametrize(("n_models", "n_printed"), [(8, 64), (9, 0)])
def test_numbers_are_printed_where_the_cells_are_wide_enough(n_models: int, n_printed: int):
    table = matched({f"m{number}": number / 10 for number in range(n_models)}, n_layers=1, n_tasks=1)
    [axes] = panels(draw_models(table))
    assert len(axes.texts) == n_printed
    if n_printed:
        assert axes.texts[1].get_text() == f"{shown(axes)[0, 1]:.2f}"


def test_the_title_counts_the_tasks_of_the_cells():
    table = matched({"a": 0, "b": 1, "c": 2}, n_tasks=4)
    assert draw_models(table).get_suptitle() == "Median over 4 tasks"
    table = table[(table["model_b"] != "c") | (table["task"] == "task-0")]
    assert draw_models(table).get_suptitle() == "Median over 1 to 4 tasks"
    assert draw_layers(every_layer({"a": 2}, n_tasks=1)).get_suptitle() == "Median over 1 task"
    assert draw_layers(every_layer({"a": 2}), title="mine").get_suptitle() == "mine"


def test_other_metrics_of_the_table_are_drawn_too():
    table = every_layer({"base": 2, "tuned": 2}, n_tasks=1)
    table = table.assign(cka_biased=0.5, **{"mutual-knn:5": 0.25, "linear-r2": 0.1})
    assert layer_matrix(table, "cka-biased")["median"].unique() == [0.5]
    figure = draw_layers(table, metric="mutual-knn:5")
    assert (shown(panels(figure)[1]) == 0.25).all()
    assert figure.axes[-1].get_ylabel() == "mutual k-NN"
    with pytest.raises(InvalidInput, match=r"expected a symmetric one .* got 'linear-r2'"):
        layer_matrix(table, "linear-r2")
    with pytest.raises(
        InvalidInput, match=r"that the table has \(cka, cka-biased, mutual-knn:5, linear-r2\), got 'rsa'"
    ):
        layer_matrix(table, "rsa")


REFUSALS = {
    "fewer than three models": (
        lambda path: plot_models(matched({"a": 0, "b": 1}), path),
        "at least 3 models .* got 2",
    ),
    "no such layer": (
        lambda path: plot_models(matched({"a": 0, "b": 1, "c": 2}), path, layers=[3]),
        "one of 0, 1, 2, got 3",
    ),
    "no layer": (lambda path: plot_models(matched({"a": 0, "b": 1, "c": 2}), path, layers=[]), "at least one layer"),
    "all layers": (lambda path: plot_models(every_layer({"a": 2, "b": 2, "c": 2}), path), "needs matched layers"),
    "matched layers": (lambda path: plot_layers(matched({"a": 0, "b": 1}), path), "need every pair of layers"),
    "many models": (lambda path: plot_layers(every_layer(dict.fromkeys("abcdefghij", 1)), path), "at most 45, got 55"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_drawn_is_refused_and_leaves_no_file(tmp_path: Path, name: str):
    draw, words = REFUSALS[name]
    with pytest.raises(InvalidInput, match=words):
        draw(tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_pictures_are_whole_files(tmp_path: Path, suffix: str):
    plot_layers(every_layer({"base": 2}), str(tmp_path / f"layers{suffix}"))
    plot_models(matched({"a": 0, "b": 1, "c": 2}), tmp_path / f"models{suffix}")
    head: Sequence[bytes] = (b"\x89PNG", b"<?xml")
    assert all(path.read_bytes().startswith(tuple(head)) for path in tmp_path.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"layers{suffix}", f"models{suffix}"]
    with pytest.raises(InvalidInput, match=r"expected a name ending in \.png or \.svg"):
        plot_layers(every_layer({"base": 2}), tmp_path / "x.pdf")
