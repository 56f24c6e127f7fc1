"""The truth: exact attention in float64, written as the definition reads, with the whole score matrix in
memory.

Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1: `softmax(scale * q k^T) v`, with the
conventions of this folder's README: bottom-right causal, GQA, empty rows, and NaN that stays in the rows that
see it.
"""
import numpy as np

from .heads import check_shapes, for_each_head
from .scores import head_maker, masked, score_steps


def softmax_terms(scores, sink=-np.inf):
    """The unnormalised softmax of each row of scores (seqlen_q, seqlen_k): `(p, row_sum, row_max)`.

    `p = exp(scores - row_max)` (seqlen_q, seqlen_k), `row_sum` and `row_max` (seqlen_q, 1), in the dtype of
    scores; sink is one more logit, in row_sum and row_max alone. A row of -inf, or of no keys, gives p = 0,
    row_sum = 0 and row_max = 0 where there is no sink: -inf - -inf would be NaN.
    """
    sink = scores.dtype.type(sink)
    row_max = scores.max(axis=-1, keepdims=True, initial=sink)
    row_max = np.where(np.isneginf(row_max), scores.dtype.type(0), row_max)
    p = np.exp(scores - row_max)
    return p, p.sum(axis=-1, keepdims=True) + np.exp(sink - row_max), row_max


def weighted_sum(p, v, visible):
    """`p @ v` over the visible keys alone: (seqlen_q, head_dim_v) in the dtype of p and v.

    p (seqlen_q, seqlen_k), zero where not visible; v (seqlen_k, head_dim_v); visible (seqlen_q, seqlen_k)
    bool. A matrix product would carry a NaN or infinity in v to the rows that do not see it, since 0 * NaN is
    NaN; so the keys that hold one are added one by one, to the rows that see them.
    """
    finite = np.isfinite(v)
    out = p @ np.where(finite, v, v.dtype.type(0))
    for j in np.flatnonzero(~finite.all(axis=1)):
        term = p[:, j, None] * np.where(finite[j], v.dtype.type(0), v[j])
        out += np.where(visible[:, j, None], term, v.dtype.type(0))
    return out


def naive_head(q, k, v, head, round_p):
    """Attention of one head with `round_p(p)` applied to the unnormalised weights before they meet v.

    q (seqlen_q, head_dim), k (seqlen_k, head_dim), v (seqlen_k, head_dim_v), all of one dtype, in which
    everything is computed; head a `Head`. Returns out (seqlen_q, head_dim_v) and lse (seqlen_q,). The row sum
    is that of the weights before rounding, as in FlashAttention (Dao 2023, algorithm 1).
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        scores = masked(score_steps(q, k, head)[-1], head.visible)
        p, row_sum, row_max = softmax_terms(scores, head.sink)
        out = weighted_sum(round_p(p), v, head.visible) / np.where(row_sum == 0, row_sum.dtype.type(1), row_sum)
        return out, (row_max + np.log(row_sum))[:, 0]


def attention(q, k, v, *, mask="full", bias=(), sink_logits=None, scale=None):
    """Exact attention in float64: `(out, lse)`.

    q (batch, seqlen_q, heads, head_dim), k (batch, seqlen_k, heads_kv, head_dim), v (batch, seqlen_k,
    heads_kv, head_dim_v) of any float dtype. mask is a name in `MASKS`, a bool array that broadcasts to (batch,
    heads, seqlen_q, seqlen_k), or a callable `(b, h, q_idx, kv_idx) -> bool array`; bias a sequence of callables
    `(score, b, h, q_idx, kv_idx) -> score`, applied in order to `scale * q.k`. Callables get ints b and h and
    index arrays that broadcast to the score's shape; `bind` makes them of the functions in `masks.py` and
    `biases.py`. sink_logits (heads,) join the softmax's denominator and the lse; scale is a number, by default
    1 / sqrt(head_dim).

    Returns float64 out (batch, seqlen_q, heads, head_dim_v) and float64 lse (batch, heads, seqlen_q), natural
    log. Rows with no visible key give out 0 and lse -inf, or the logit where there is a sink. ValueError for
    shapes that disagree or an unknown mask.
    """
    q, k, v = (np.asarray(x).astype(np.float64) for x in (q, k, v))
    check_shapes(q, k, v)
    head = head_maker(q, k, mask, bias, sink_logits, scale)
    return for_each_head(lambda b, h, q, k, v: naive_head(q, k, v, head(b, h), lambda p: p), q, k, v)
