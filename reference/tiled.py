"""Attention in tiles with an online softmax: the same truth as `attention`, in the steps and names of the GPU
kernels.

Dao et al. 2022 (FlashAttention), algorithm 1, and Dao 2023 (FlashAttention-2), algorithm 1 and section 3.1;
online softmax by Milakov and Gimelshein 2018. `block_m` queries keep a running `row_max`, `row_sum` and `acc`
while blocks of `block_n` keys pass, from the last to the first: the blocks that need masking come first, as
in the kernels. Exponents are base 2, because the hardware has ex2 and no exp: scores are multiplied by `scale
* log2(e)` once.
"""
import math
from typing import NamedTuple

import numpy as np

from .attention import weighted_sum
from .heads import check_shapes, for_each_head
from .scores import head_maker, masked, score_steps

LOG2_E = math.log2(math.e)
LN_2 = math.log(2.0)


class SoftmaxState(NamedTuple):
    """What block_m rows know of the keys seen so far.

    row_max (block_m, 1): largest score, in log2 units, -inf before any key; row_sum (block_m, 1): sum of
    exp2(score - row_max); acc (block_m, head_dim_v): sum of exp2(score - row_max) * v. All float64.
    """

    row_max: np.ndarray
    row_sum: np.ndarray
    acc: np.ndarray


def empty_state(rows, head_dim_v):
    """The state of `rows` queries that have seen no key."""
    return SoftmaxState(np.full((rows, 1), -np.inf), np.zeros((rows, 1)), np.zeros((rows, head_dim_v)))


def reach(visible, last):
    """The last key at or before `last` that some query sees, -1 for none: visible (block_m, seqlen_k) bool."""
    seen = np.flatnonzero(visible[:, : last + 1].any(axis=0))
    return int(seen[-1]) if seen.size else -1


def update(state, scores, v, visible):
    """The state after one block of keys, rescaled to the new row_max (FlashAttention-2, algorithm 1, lines
    8-10).

    scores (block_m, block_n) in log2 units, -inf where masked; v (block_n, head_dim_v); visible (block_m,
    block_n).
    """
    row_max = np.maximum(state.row_max, scores.max(axis=1, keepdims=True))
    shift = np.where(np.isneginf(row_max), 0.0, row_max)  # a row that sees no key yet: -inf - -inf is NaN
    rescale = np.exp2(state.row_max - shift)
    p = np.exp2(scores - shift)
    row_sum = state.row_sum * rescale + p.sum(axis=1, keepdims=True)
    return SoftmaxState(row_max, row_sum, state.acc * rescale + weighted_sum(p, v, visible))


def add_sink(state, sink):
    """The state after a key of logit `sink`, in log2 units, and value zero, which every row sees; -inf is no sink."""
    if np.isneginf(sink):
        return state
    rows, head_dim_v = state.acc.shape
    return update(state, np.full((rows, 1), sink), np.zeros((1, head_dim_v)), np.ones((rows, 1), dtype=bool))


def finish(state):
    """`(out, lse)` of a state: acc / row_sum (block_m, head_dim_v) and natural-log lse (block_m,)."""
    empty = state.row_sum == 0
    row_sum = np.where(empty, 1.0, state.row_sum)
    lse = np.where(empty, -np.inf, LN_2 * (state.row_max + np.log2(row_sum)))
    return state.acc / row_sum, lse[:, 0]


def row_block(q, k, v, head, m, block_n):
    """The state of the queries in the slice m after every block of keys that one of them sees, last block first.

    q (seqlen_q, head_dim), k (seqlen_k, head_dim), v (seqlen_k, head_dim_v), float64; head a `Head`.
    """
    visible = head.visible[m]
    state = empty_state(m.stop - m.start, v.shape[1])
    last = reach(visible, len(k) - 1)
    while last >= 0:
        start = last // block_n * block_n
        n = slice(start, min(start + block_n, len(k)))
        scores = LOG2_E * score_steps(q[m], k[n], head, m.start, n.start)[-1]
        state = update(state, masked(scores, visible[:, n]), v[n], visible[:, n])
        last = reach(visible, start - 1)
    return state


def tiled_head(q, k, v, head, block_m, block_n):
    """Attention of one head in tiles: float64 out (seqlen_q, head_dim_v) and lse (seqlen_q,).

    q (seqlen_q, head_dim), k (seqlen_k, head_dim), v (seqlen_k, head_dim_v), float64; head a `Head`. The last
    block of queries and that of keys may be short.
    """
    out, lse = np.empty((len(q), v.shape[1])), np.empty(len(q))
    for m_start in range(0, len(q), block_m):
        m = slice(m_start, min(m_start + block_m, len(q)))
        out[m], lse[m] = finish(add_sink(row_block(q, k, v, head, m, block_n), LOG2_E * head.sink))
    return out, lse


def attention_tiled(q, k, v, *, mask="full", bias=(), sink_logits=None, scale=None, block_m=64, block_n=64):
    """Exact attention in float64 by tiles: `(out, lse)`, the same numbers as `attention` up to float64
    rounding.

    Arguments, shapes and errors as `attention`; block_m queries and block_n keys a tile, positive ints.
    """
    if block_m < 1 or block_n < 1:
        raise ValueError(f"block_m {block_m} and block_n {block_n} must be positive")
    q, k, v = (np.asarray(x).astype(np.float64) for x in (q, k, v))
    check_shapes(q, k, v)
    head = head_maker(q, k, mask, bias, sink_logits, scale)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return for_each_head(lambda b, h, *qkv: tiled_head(*qkv, head(b, h), block_m, block_n), q, k, v)


def merge(out_a, lse_a, out_b, lse_b):
    """Attention over two disjoint sets of keys, from the attention over each: `(out, lse)`.

    out_a, out_b (batch, seqlen_q, heads, head_dim_v); lse_a, lse_b (batch, heads, seqlen_q), natural log. The
    merged lse is `log(exp(lse_a) + exp(lse_b))` and out the mean weighted by `exp(lse_x - lse)`. A state with
    lse -inf has seen no key and adds nothing, whatever its out holds. Flash-Decoding (Dao et al. 2023);
    FlashInfer's `merge_state`.
    """
    lse_a, lse_b = (np.asarray(x).astype(np.float64) for x in (lse_a, lse_b))
    lse = np.logaddexp(lse_a, lse_b)
    return weighted_state(out_a, lse_a, lse) + weighted_state(out_b, lse_b, lse), lse


def weighted_state(out, lse_part, lse):
    """`exp(lse_part - lse) * out`, and 0 where lse_part is -inf: (batch, seqlen_q, heads, head_dim_v)
    float64.

    lse_part and lse are (batch, heads, seqlen_q).
    """
    with np.errstate(invalid="ignore"):
        weight = np.exp(lse_part - lse).transpose(0, 2, 1)[..., None]
        unseen = np.isneginf(lse_part).transpose(0, 2, 1)[..., None]
        return np.where(unseen, 0.0, weight * np.asarray(out).astype(np.float64))
