"""Online softmax in base 2 (Milakov and Gimelshein 2018; FlashAttention-2, section 3.1), one row's scalars at a time.

The running maximum is of unscaled scores; `scale_log2` is scale * log2(e). A row that has seen no key has maximum
-inf and sum 0.
"""

import numpy as np

from numba_fa.jit import device
from numba_fa.ptx.math import ex2_approx, fmax, lg2_approx, rcp_approx

NEG_INF = np.float32(-np.inf)
ZERO, ONE = np.float32(0), np.float32(1)
LN2 = np.float32(0.6931471805599453)
LOG2_E = np.float32(1.4426950408889634)


@device
def shift_of(row_max, scale_log2):
    """What to subtract from scaled scores: the scaled maximum, or 0 for a row that has seen nothing (-inf - -inf is NaN)."""
    return ZERO if row_max == NEG_INF else row_max * scale_log2


@device
def inverse_sum(row_sum):
    """1 / row_sum; 0 for a row that has seen nothing, so that its output is 0. NaN stays NaN."""
    return ZERO if row_sum == ZERO else rcp_approx(row_sum)


@device
def natural_lse(shift, row_sum):
    """log(sum(exp(scores))) of row_sum = sum(2 ** (score - shift)): natural log, -inf for a row that has seen nothing."""
    return (shift + lg2_approx(row_sum)) * LN2


@device
def with_sink(row_max, row_sum, scale_log2, logit):
    """(shift, row sum, factor of the output) once a sink's logit has joined the softmax's denominator.

    A row that has seen no key has the sink alone: its output is 0 and its LSE the logit.
    """
    sink = logit * LOG2_E
    seen = row_max * scale_log2
    shift = fmax(seen, sink)
    shift = ZERO if shift == NEG_INF else shift
    keep = ex2_approx(seen - shift)
    total = row_sum * keep + ex2_approx(sink - shift)
    return shift, total, keep * inverse_sum(total)
