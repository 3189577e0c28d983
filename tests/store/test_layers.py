"""Layers as a user names them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actlas.store import InvalidInput
from actlas.store.layers import parse_layers


@given(st.integers(0, 40), st.data())
def test_a_slice_of_layers_is_pythons(depth, data):
    bounds = st.one_of(st.none(), st.integers(-depth - 1, depth + 1))
    start, stop = data.draw(bounds), data.draw(bounds)
    step = data.draw(st.one_of(st.none(), st.integers(1, 5)))
    expected = tuple(range(depth + 1)[start:stop:step])
    text = f"{'' if start is None else start}:{'' if stop is None else stop}" + (f":{step}" if step else "")
    if expected:
        assert parse_layers(text, depth) == expected
    else:
        with pytest.raises(InvalidInput, match=f"names no layer of 0 to {depth}"):
            parse_layers(text, depth)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, (0, 1, 2, 3)),
        ("0:", (0, 1, 2, 3)),
        ("3,1", (1, 3)),
        ("-1", (3,)),
        (" 0 , 2:4 ,2", (0, 2, 3)),
        ("::3", (0, 3)),
    ],
)
def test_layers_are_sorted_and_named_once(text, expected):
    assert parse_layers(text, 3) == expected


@pytest.mark.parametrize("text", ["", "a", "1,", "1-3", "0:4:0", "0:4:-1", "1.5", "1:2:3:4", "0;1", "--1", "٣x"])
def test_layers_that_cannot_be_read_are_refused(text):
    with pytest.raises(InvalidInput, match=r"expected numbers and slices such as 0,4,8 or 0:33:2, got"):
        parse_layers(text, 3)


@pytest.mark.parametrize("text", ["4", "-5", "0,17"])
def test_layers_that_are_not_there_are_refused(text):
    with pytest.raises(InvalidInput, match="the model has layers 0 to 3, got"):
        parse_layers(text, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, (0, 8, 16)), ("0:", (0, 8, 16)), ("1:16", (8,)), ("16,0", (0, 16)), ("-1", (16,)), ("::8", (0, 8, 16))],
)
def test_of_an_entry_with_some_layers_a_slice_takes_those_that_are_kept(text, expected):
    assert parse_layers(text, 16, known=(0, 8, 16)) == expected


@pytest.mark.parametrize("text", ["3", "0,3", "17", "-2"])
def test_of_an_entry_with_some_layers_a_number_must_be_one_of_them(text):
    with pytest.raises(InvalidInput, match="the entry has layers 0, 8, 16, got"):
        parse_layers(text, 16, known=(0, 8, 16))


def test_a_slice_without_any_layer_that_is_kept_is_refused():
    with pytest.raises(InvalidInput, match="names no layer of 0, 8, 16"):
        parse_layers("1:8", 16, known=(0, 8, 16))
