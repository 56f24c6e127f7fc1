"""Sizes as they are written on a command line, and what is counted of them."""

from argparse import Namespace

import pytest

from numba_fa.dispatch.key import HeadDims
from numba_fa.testing import speed
from numba_fa.testing.shapes import Shape


@pytest.mark.parametrize(("text", "dims"), [("128", (128, 128)), ("192:128", (192, 128)), ("64:256", (64, 256))])
def test_head_dims_are_read_and_written(text, dims):
    assert HeadDims.parse(text) == dims and str(HeadDims(*dims)) == text


@pytest.mark.parametrize("text", ["1,4096,8192,32,8,128", "2,512,512,16,16,192:128"])
def test_shapes_are_read_and_written(text):
    assert str(Shape.parse(text)) == text


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,4,5,6,7", "a,2,3,4,5,6"])
def test_another_text_is_no_shape(text):
    with pytest.raises(ValueError):
        Shape.parse(text)


def test_the_usual_workload_and_its_operations():
    shape = Shape.usual(HeadDims(192, 128), 1024, 4)
    assert shape == (16, 1024, 1024, 8, 2, (192, 128)), "whole groups of heads, of a hidden size not above 2048"
    assert shape.arrays == ((16, 1024, 8, 192), (16, 1024, 2, 192), (16, 1024, 2, 128))
    assert shape.flops("full") == 2 * shape.flops("causal") == 2 * 16 * 8 * 1024**2 * (192 + 128)


def test_points_are_every_combination_or_the_shapes_asked_for():
    asked = Namespace(
        slugs=[], shapes=[], head_dims=[HeadDims(64, 64)], masks=["full", "causal"], groups=[1, 8], seqlens=[512]
    )  # fmt: skip
    assert [(shape.heads_kv, mask) for shape, mask, _ in speed.points(asked)] == [(32, "full"), (4, "full"), (32, "causal"),
                                                                                  (4, "causal")]  # fmt: skip
    asked.slugs = ["fwd-sm90-bf16-d192v128-causal-m128n128s2"]
    (one, other) = speed.points(asked)
    assert one[0].dims == (192, 128) and one[1:] == other[1:] == ("causal", asked.slugs[0])
    asked.slugs, asked.shapes = [], [Shape.parse("1,32768,32768,2,2,128")]
    assert [(shape, mask) for shape, mask, _ in speed.points(asked)] == [(asked.shapes[0], m) for m in asked.masks]
