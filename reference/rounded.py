"""The naive low-precision computation: what a GPU makes of attention with no tiling and no tricks.

Its distance from the truth is the yardstick of a kernel's error: FlashAttention's tests (Dao et al. 2022)
accept a kernel whose error is at most twice that of a plain low-precision implementation.
"""
import numpy as np

from .attention import default_scale, naive_head
from .heads import check_shapes, for_each_head
from .masks import visible_keys
from .rounding import round_to


def attention_rounded(q, k, v, *, mask="full", scale=None, dtype="bfloat16"):
    """Attention as tensor cores compute it in `dtype`: `(out, lse)`, float64 arrays that hold the rounded
    values.

    Arguments and shapes as `attention`; dtype a name in `FORMATS`. q, k and v are rounded to dtype; scores,
    softmax and both products are float32; the unnormalised weights are rounded to dtype before they meet v;
    the row sum is that of the weights before rounding; out is rounded to dtype and lse is left as float32
    values.
    """
    check_shapes(*(np.asarray(x) for x in (q, k, v)))
    q, k, v = (round_to(x, dtype).astype(np.float32) for x in (q, k, v))
    scale = default_scale(q) if scale is None else scale
    visible = visible_keys(mask, q.shape[1], k.shape[1])

    def round_p(p):
        return round_to(p, dtype).astype(np.float32)

    out, lse = for_each_head(lambda q, k, v: naive_head(q, k, v, visible, scale, round_p), q, k, v)
    return round_to(out, dtype), lse
