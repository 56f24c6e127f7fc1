"""Whether arrays share memory. An output that overlaps an input is written while others still read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from numba_fa.problem.arrays import ArrayView

# Steps that the exact search may take. Slices and transposes of one array, packed ones too, need a handful.
_MOST_WORK: Any = 10_000  # NumPy's stubs know its two special values alone


def overlap(first: ArrayView, second: ArrayView) -> bool:
    """Whether two arrays have a byte in common. True as well when a bounded search cannot tell.

    A call that is refused costs the caller a copy; one that is let through wrongly costs right numbers.
    """
    if first.device != second.device or 0 in first.shape or 0 in second.shape:
        return False
    (low, high), (other_low, other_high) = span(first), span(second)
    return low < other_high and other_low < high and _share(first, second)


def same_place(first: ArrayView, second: ArrayView) -> bool:
    """Whether two arrays are one view: each element of one lies where its namesake of the other does."""
    return (
        first.pointer == second.pointer
        and first.shape == second.shape
        and all(n <= 1 or s == t for n, s, t in zip(first.shape, first.strides, second.strides, strict=True))
    )


def overlaps_itself(view: ArrayView) -> bool:
    """Whether elements of an array may share memory: an axis steps less than all the shorter steps reach together.

    True for no slice or transpose of a plain array; true for a few hand-made strides whose elements lie apart.
    """
    if 0 in view.shape:
        return False
    steps = sorted((abs(s), n) for n, s in zip(view.shape, view.strides, strict=True) if n > 1)
    reach = 0
    for step, length in steps:
        if step <= reach:
            return True
        reach += (length - 1) * step
    return False


def span(view: ArrayView) -> tuple[int, int]:
    """The first address and the one past the last."""
    low = high = view.pointer
    for length, stride in zip(view.shape, view.strides, strict=True):
        reach = (length - 1) * stride * view.itemsize
        if reach < 0:
            low += reach
        else:
            high += reach
    return low, high + view.itemsize


def _share(first: ArrayView, second: ArrayView) -> bool:
    import numpy as np

    try:
        return bool(np.shares_memory(_described(first), _described(second), max_work=_MOST_WORK))
    except np.exceptions.TooHardError:
        return True


def _described(view: ArrayView) -> Any:
    """A NumPy array with the addresses of `view`, whose memory is never touched: it may be a GPU's."""
    import numpy as np

    interface = {
        "version": 3,
        "typestr": f"|V{view.itemsize}",
        "shape": view.shape,
        "strides": tuple(stride * view.itemsize for stride in view.strides),
        "data": (view.pointer, True),
    }
    return np.asarray(SimpleNamespace(__array_interface__=interface))
