"""One step of online softmax over a fragment of scores, for the two rows that a thread holds."""

from typing import Any

import numpy as np

from numba_fa.flash.online_softmax import NEG_INF, ONE, shift_of
from numba_fa.jit import device, int32
from numba_fa.ptx.fragment import make_exponential, make_row_max, make_row_sum
from numba_fa.ptx.math import ex2_approx, fmax, fmax_nan
from numba_fa.ptx.warp import shfl_bfly, vote_any

# How far, in powers of 2, scores may exceed the running maximum before it moves: weights up to 2**8 lose no accuracy in
# floating point, and the output is rescaled only when one moves (FlashAttention-4, 2025).
_LEEWAY = np.float32(8)
# Exponents of 2 below -126 give 0. Where all of a warp's are below this, there is nothing to compute.
_FAINT = np.float32(-130)


def make_softmax(count: int, *, lifted: bool) -> tuple[Any, Any, Any, Any]:
    """(first_softmax, measure, weigh, quad_sum) for fragments of `count` registers.

    first_softmax(scores, scale_log2) -> (exponentials, max0, max1, their sums over this thread's columns sum0, sum1).
    measure(scores, lift0, lift1, max0, max1, sum0, sum1, scale_log2) -> (low0, low1, max0, max1, sum0, sum1, moved, keep0,
    keep1, seen). low0, low1: the maxima as this thread's scores see them. moved: whether a maximum of the warp moved; the
    factors keep0, keep1 bring what was summed before to the new ones. seen: whether an exponential of the warp may not be 0.
    weigh(scores, low0, low1, sum0, sum1, scale_log2) -> (exponentials, sum0, sum1).
    lifted: whether lift0 and lift1 are still to be added to this thread's scores of the rows, which sink out of sight as
    keys go by; else they are 0, and all is seen. quad_sum(x): over the four threads that share a row.
    """
    row_max, row_sum, exponential = make_row_max(count), make_row_sum(count), make_exponential(count)
    row_max_nan = make_row_max(count, nan=True)
    quad_max, quad_max_nan = _make_quad_max(fmax), _make_quad_max(fmax_nan)

    @device
    def first_softmax(scores, scale_log2):
        tops = row_max(scores, NEG_INF, NEG_INF)
        max0, max1 = quad_max(tops[0], tops[1])
        scores = exponential(scores, scale_log2, shift_of(max0, scale_log2), shift_of(max1, scale_log2))
        sums = row_sum(scores)
        return scores, max0, max1, sums[0], sums[1]

    @device
    def weigh(scores, low0, low1, sum0, sum1, scale_log2):
        scores = exponential(scores, scale_log2, shift_of(low0, scale_log2), shift_of(low1, scale_log2))
        sums = row_sum(scores)
        return scores, sum0 + sums[0], sum1 + sums[1]

    @device
    def move(max0, max1, new0, new1, sum0, sum1, scale_log2):
        keep0 = ex2_approx(max0 * scale_log2 - shift_of(new0, scale_log2))
        keep1 = ex2_approx(max1 * scale_log2 - shift_of(new1, scale_log2))
        return sum0 * keep0, sum1 * keep1, keep0, keep1

    @device
    def measure(scores, lift0, lift1, max0, max1, sum0, sum1, scale_log2):
        tops = row_max(scores, max0, max1)
        new0, new1 = quad_max(tops[0], tops[1])
        keep0 = ONE
        keep1 = ONE
        rise = fmax((new0 - max0) * scale_log2, (new1 - max1) * scale_log2)
        moved = vote_any(int32(rise > _LEEWAY)) != 0
        if moved:
            sum0, sum1, keep0, keep1 = move(max0, max1, new0, new1, sum0, sum1, scale_log2)
            max0 = new0
            max1 = new1
        return max0, max1, max0, max1, sum0, sum1, moved, keep0, keep1, True

    @device
    def measure_lifted(scores, lift0, lift1, max0, max1, sum0, sum1, scale_log2):
        tops = row_max_nan(scores, NEG_INF, NEG_INF)
        new0, new1 = quad_max_nan(tops[0] + lift0, tops[1] + lift1)
        keep0 = ONE
        keep1 = ONE
        rise0 = (new0 - max0) * scale_log2
        rise1 = (new1 - max1) * scale_log2
        seen = vote_any(int32(not (rise0 < _FAINT and rise1 < _FAINT))) != 0  # NaN is seen
        moved = vote_any(int32(fmax(rise0, rise1) > _LEEWAY)) != 0
        if moved:
            new0 = fmax(max0, new0)
            new1 = fmax(max1, new1)
            sum0, sum1, keep0, keep1 = move(max0, max1, new0, new1, sum0, sum1, scale_log2)
            max0 = new0
            max1 = new1
        return max0 - lift0, max1 - lift1, max0, max1, sum0, sum1, moved, keep0, keep1, seen

    @device
    def quad_sum(value):
        value = value + shfl_bfly(value, 1)
        return value + shfl_bfly(value, 2)

    return first_softmax, measure_lifted if lifted else measure, weigh, quad_sum


def _make_quad_max(larger: Any) -> Any:
    """quad_max(top0, top1) -> those of the four threads that share two rows."""

    @device
    def quad_max(top0, top1):
        top0 = larger(top0, shfl_bfly(top0, 1))
        top1 = larger(top1, shfl_bfly(top1, 1))
        return larger(top0, shfl_bfly(top0, 2)), larger(top1, shfl_bfly(top1, 2))

    return quad_max
