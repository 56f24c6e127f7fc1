"""The naive low-precision computation: what a GPU makes of attention with no tiling and no tricks.

Its distance from the truth is the yardstick of a kernel's error: FlashAttention's tests (Dao et al. 2022)
accept a kernel whose error is at most twice that of a plain low-precision implementation.
"""
import numpy as np

from .attention import naive_head
from .heads import check_shapes, for_each_head
from .rounding import round_to
from .scores import head_maker


def attention_rounded(q, k, v, *, mask="full", bias=(), sink_logits=None, scale=None, dtype="bfloat16"):
    """Attention as tensor cores compute it in `dtype`: `(out, lse)`, float64 arrays that hold the rounded
    values.

    Arguments and shapes as `attention`; dtype a name in `FORMATS`. q, k and v are rounded to dtype; scores,
    biases, softmax and both products are float32; the unnormalised weights are rounded to dtype before they meet
    v; the row sum is that of the weights before rounding; out is rounded to dtype and lse is left as float32
    values.
    """
    check_shapes(*(np.asarray(x) for x in (q, k, v)))
    q, k, v = (round_to(x, dtype).astype(np.float32) for x in (q, k, v))
    head = head_maker(q, k, mask, bias, sink_logits, scale)

    def round_p(p):
        return round_to(p, dtype).astype(np.float32)

    out, lse = for_each_head(lambda b, h, q, k, v: naive_head(q, k, v, head(b, h), round_p), q, k, v)
    return round_to(out, dtype), lse
