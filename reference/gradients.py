"""The gradients of attention, in closed form and float64, with every matrix in memory.

Dao et al. 2022 (FlashAttention), appendix B.2, and Dao 2023 (FlashAttention-2), section 2.2. With p the softmax
weights, dout and dlse the gradients of the loss with respect to out and lse:

    dv    = p^T dout
    dp    = dout v^T
    delta = sum over d of dout * out, a row                  equal to the sum over j of p * dp
    ds    = p * (dp - delta + dlse)                          of the scores that the softmax takes
    dsink = sum over i of exp(sink - lse) * (dlse - delta)
    ds passes back through the biases, the last one first
    dq    = scale * ds k,  dk = scale * ds^T q               dk and dv summed over the query heads of a kv head
"""
from typing import NamedTuple

import numpy as np

from .attention import softmax_terms, weighted_sum
from .bias_gradients import bias_backward, zero_gradients
from .heads import check_shapes, group_size
from .rounding import round_to
from .scores import head_maker, indices, masked, score_steps


class Gradients(NamedTuple):
    """The gradients of a loss, float64 arrays, each in the shape of what it belongs to.

    dq (batch, seqlen_q, heads, head_dim), dk (batch, seqlen_k, heads_kv, head_dim), dv (batch, seqlen_k, heads_kv,
    head_dim_v), dsink (heads,), None without sink_logits; dbias one dict a bias, from the names of its differentiable
    parameters (`slopes`, `array`, `table`) to their gradients.
    """

    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray
    dsink: np.ndarray | None
    dbias: tuple[dict[str, np.ndarray], ...]


def softmax_backward(p, p_sink, out, v, dout, dlse, visible):
    """`(ds, dsink)`: the gradients of the masked scores, (seqlen_q, seqlen_k), and of the sink, a number.

    p (seqlen_q, seqlen_k) the weights, zero where not visible, and p_sink (seqlen_q,) that of the sink; out, dout
    (seqlen_q, head_dim_v), dlse (seqlen_q,). A row without weights has out 0, and its dout and dlse move only the
    sink.
    """
    zero = p.dtype.type(0)
    delta = np.where((p != 0).any(axis=1), (dout * out).sum(axis=1), zero) - dlse
    ds = np.where(visible & (p != 0), p * (dout @ v.T - delta[:, None]), zero)
    return ds, np.where(p_sink == 0, zero, -p_sink * delta).sum()


def biases_backward(steps, ds, head, dbias):
    """The gradient of `scale * q.k`, from ds, that of the masked scores: (seqlen_q, seqlen_k).

    steps as `score_steps` makes them; the gradients of the biases' parameters are added to dbias, a list of dicts.
    """
    q_idx, kv_idx = indices(*ds.shape)
    for bias, score, grads in reversed(list(zip(head.bias, steps, dbias))):
        ds = bias_backward(bias, score, ds, head.b, head.h, q_idx, kv_idx, grads)
    return ds


def head_backward(q, k, v, dout, dlse, head, narrow, dbias):
    """`(dq, dk, dv, dsink)` of one query head, dk and dv as if no other read its kv head; adds to dbias.

    q (seqlen_q, head_dim), k (seqlen_k, head_dim), v (seqlen_k, head_dim_v), dout (seqlen_q, head_dim_v), dlse
    (seqlen_q,), all of one dtype, in which everything is computed; `narrow(x)` is applied to the weights and to ds
    before a product, and to out, as a kernel that stores them narrow would.
    """
    steps = score_steps(q, k, head)
    p, row_sum, row_max = softmax_terms(masked(steps[-1], head.visible), head.sink)
    row_sum = np.where(row_sum == 0, row_sum.dtype.type(1), row_sum)
    out = narrow(weighted_sum(narrow(p), v, head.visible) / row_sum)
    p_sink = np.exp(p.dtype.type(head.sink) - row_max)[:, 0] / row_sum[:, 0]
    p = np.where(head.visible, p / row_sum, p.dtype.type(0))  # a row with NaN has it at hidden keys too
    ds, dsink = softmax_backward(p, p_sink, out, v, dout, dlse, head.visible)
    ds = narrow(biases_backward(steps, ds, head, dbias))
    scale, dv = q.dtype.type(head.scale), weighted_sum(narrow(p).T, dout, head.visible.T)
    return scale * weighted_sum(ds, k, ds != 0), scale * weighted_sum(ds.T, q, ds.T != 0), dv, dsink


def every_head_backward(q, k, v, dout, dlse, mask, bias, sink_logits, scale, narrow):
    """`head_backward` of every head, gathered: `Gradients`. The arrays have one dtype; the rest as `attention`."""
    bias = tuple(bias)
    head = head_maker(q, k, mask, bias, sink_logits, scale)
    group = group_size(q.shape[2], k.shape[2])
    dq, dk, dv, dsink = (np.zeros(shape) for shape in (q.shape, k.shape, v.shape, q.shape[2]))
    dbias = tuple(zero_gradients(one) for one in bias)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for b, h in np.ndindex(q.shape[0], q.shape[2]):
            kv = b, slice(None), h // group
            of_q, of_k, of_v, of_sink = head_backward(
                q[b, :, h], k[kv], v[kv], dout[b, :, h], dlse[b, h], head(b, h), narrow, dbias
            )
            dq[b, :, h] = of_q
            dk[kv] += of_k
            dv[kv] += of_v
            dsink[h] += of_sink
    return Gradients(dq, dk, dv, None if sink_logits is None else dsink, dbias)


def check_gradients(q, v, dout, dlse):
    """dlse, or zeros where it is None. ValueError unless dout and dlse have the shapes of out and lse."""
    (batch, seqlen_q, heads, _), head_dim_v = q.shape, v.shape[3]
    dlse = np.zeros((batch, heads, seqlen_q)) if dlse is None else np.asarray(dlse)
    expected = (batch, seqlen_q, heads, head_dim_v), (batch, heads, seqlen_q)
    if (np.shape(dout), dlse.shape) != expected:
        raise ValueError(f"expected dout and dlse of shapes {expected}, got {np.shape(dout)} and {dlse.shape}")
    return dlse


def attention_backward(q, k, v, dout, *, mask="full", bias=(), sink_logits=None, scale=None, dlse=None):
    """The exact gradients of a loss through `attention` of the same arguments, in float64: `Gradients`.

    dout (batch, seqlen_q, heads, head_dim_v) is the gradient of the loss with respect to out, dlse (batch, heads,
    seqlen_q) that with respect to lse, by default zero; the rest as `attention`. The parameters of the biases of
    `biases.py`, bound by `bind`, get gradients; a user's bias is differentiated by its attribute `derivative`
    (see `ScoreMod`), or else by differences. Rows that see no key give zero gradients, but for the sink's: their
    lse is the sink, so it gets their dlse.
    """
    q, k, v, dout = (np.asarray(x).astype(np.float64) for x in (q, k, v, dout))
    check_shapes(q, k, v)
    dlse = check_gradients(q, v, dout, dlse).astype(np.float64)
    return every_head_backward(q, k, v, dout, dlse, mask, bias, sink_logits, scale, lambda x: x)


def attention_backward_rounded(
    q, k, v, dout, *, mask="full", bias=(), sink_logits=None, scale=None, dlse=None, dtype="bfloat16"
):
    """The gradients as tensor cores compute them in `dtype`, naively: `Gradients` of rounded values.

    Arguments as `attention_backward`; dtype a name in `FORMATS`. q, k, v, dout and out are rounded to dtype, and so
    are the operands p and ds of the other products; products and all else are float32. dq, dk and dv are rounded to
    dtype, after the sum over the query heads of a kv head; dsink and dbias are sums of float32 values.
    """
    check_shapes(*(np.asarray(x) for x in (q, k, v)))
    dlse = check_gradients(np.asarray(q), np.asarray(v), dout, dlse).astype(np.float32)

    def narrow(x):
        return round_to(x, dtype).astype(np.float32)

    q, k, v, dout = (narrow(x) for x in (q, k, v, dout))
    grads = every_head_backward(q, k, v, dout, dlse, mask, bias, sink_logits, scale, narrow)
    return grads._replace(dq=round_to(grads.dq, dtype), dk=round_to(grads.dk, dtype), dv=round_to(grads.dv, dtype))
