"""One step of online softmax over a fragment of scores, for the two rows that a thread holds."""

from typing import Any

from numba_fa.flash.online_softmax import shift_of
from numba_fa.jit import device
from numba_fa.ptx.fragment import make_exponential, make_row_max, make_row_sum
from numba_fa.ptx.math import ex2_approx, fmax
from numba_fa.ptx.warp import shfl_bfly


def make_softmax(count: int) -> tuple[Any, Any]:
    """(softmax, quad_sum) for fragments of `count` registers.

    softmax(scores, max0, max1, scale_log2) -> (exponentials, new max0, new max1, their sums over this thread's
    columns sum0, sum1, factors that bring older sums to the new maxima keep0, keep1). quad_sum(x): over the four
    threads that share a row.
    """
    row_max, row_sum, exponential = make_row_max(count), make_row_sum(count), make_exponential(count)

    @device
    def softmax(scores, max0, max1, scale_log2):
        new = row_max(scores, max0, max1)
        new0 = fmax(new[0], shfl_bfly(new[0], 1))
        new1 = fmax(new[1], shfl_bfly(new[1], 1))
        new0 = fmax(new0, shfl_bfly(new0, 2))
        new1 = fmax(new1, shfl_bfly(new1, 2))
        shift0 = shift_of(new0, scale_log2)
        shift1 = shift_of(new1, scale_log2)
        keep0 = ex2_approx(max0 * scale_log2 - shift0)
        keep1 = ex2_approx(max1 * scale_log2 - shift1)
        scores = exponential(scores, scale_log2, shift0, shift1)
        sums = row_sum(scores)
        return scores, new0, new1, sums[0], sums[1], keep0, keep1

    @device
    def quad_sum(value):
        value = value + shfl_bfly(value, 1)
        return value + shfl_bfly(value, 2)

    return softmax, quad_sum
