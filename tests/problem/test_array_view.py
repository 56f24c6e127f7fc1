"""ArrayView.alignment and contiguous_last, held against their definitions on any view."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from numba_fa.problem.arrays import ArrayView
from tests.problem.views import view

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@st.composite
def views(draw):
    """Views of any address, shape, strides and itemsize."""
    shape = draw(SHAPES)
    strides = tuple(draw(st.lists(st.integers(-64, 64), min_size=len(shape), max_size=len(shape))))
    itemsize = draw(st.sampled_from([1, 2, 4, 8]))
    return ArrayView(draw(st.integers(0, 1 << 48)), shape, strides, "any", itemsize, "cpu")


def counted(array):
    """The byte counts that an alignment must divide, by definition: address, and strides of axes that are stepped."""
    axes = list(zip(array.shape, array.strides, strict=True))[:-1]
    steps = [stride if stride > 0 else 1 for length, stride in axes if length > 1]
    return [array.pointer, *(step * array.itemsize for step in steps)]


@given(views())
def test_alignment_is_the_largest_power_of_two_that_divides_all(array):
    assert array.alignment == max(n for n in (1, 2, 4, 8, 16) if all(count % n == 0 for count in counted(array)))


@given(views(), st.integers(1, 1 << 20))
def test_alignment_of_an_array_16_bytes_further_is_the_same(array, steps):
    moved = ArrayView(array.pointer + 16 * steps, array.shape, array.strides, "any", array.itemsize, "cpu")
    assert moved.alignment == array.alignment


@given(views())
def test_axes_of_length_1_do_not_count(array):
    assume(array.pointer)
    padded = ArrayView(array.pointer, (1, *array.shape), (1, *array.strides), "any", array.itemsize, "cpu")
    assert padded.alignment == array.alignment


@pytest.mark.parametrize("stride", [0, -64])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_zero_or_negative_stride_is_worth_one_element(stride, axis):
    plain = view((2, 3, 4, 64), "bfloat16")
    strides = tuple(stride if at == axis else step for at, step in enumerate(plain.strides))
    assert plain.alignment == 16
    assert view((2, 3, 4, 64), "bfloat16", strides=strides).alignment == 2


def test_the_last_stride_does_not_count():
    assert view((2, 3, 4, 64), strides=(768, 256, 64, 3)).alignment == 16


@pytest.mark.parametrize(("last", "stride", "contiguous"), [(64, 1, True), (64, 2, False), (64, -1, False),
                                                            (64, 0, False), (1, 7, True), (0, 7, True)])  # fmt: skip
def test_contiguous_last(last, stride, contiguous):
    assert view((2, last), strides=(64, stride)).contiguous_last is contiguous
