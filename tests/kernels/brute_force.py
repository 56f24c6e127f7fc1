"""Attention in float64 as the definition reads, for small tests of kernels."""

import numpy as np


def attention(q, k, v, scale, keep, biases=(), sinks=None):
    """O (batch, seqlen_q, heads, head_dim) and LSE (batch, heads, seqlen_q).

    keep: bool that broadcasts to (batch, heads, seqlen_q, seqlen_k). biases: functions of all scaled scores, in order.
    sinks: a logit a head that joins the denominator. Values that a row does not see do not reach it, NaN included.
    """
    q, k, v = (x.astype(np.float64).transpose(0, 2, 1, 3) for x in (q, k, v))
    sharing = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, sharing, axis=1) for x in (k, v))
    with np.errstate(all="ignore"):
        scores = scale * (q @ k.swapaxes(2, 3))
        for bias in biases:
            scores = bias(scores)
        keep = np.broadcast_to(keep, scores.shape)
        scores = np.where(keep, scores, -np.inf)
        top = scores.max(-1, initial=-np.inf)
        top = top if sinks is None else np.maximum(top, sinks[:, None])
        shift = np.where(top == -np.inf, 0, top)
        weights = np.exp(scores - shift[..., None])
        total = weights.sum(-1) + (0 if sinks is None else np.exp(sinks[:, None] - shift))
        out = np.zeros(q.shape)
        for j in range(k.shape[2]):
            out += np.where(keep[..., j, None], weights[..., j, None] * v[:, :, j, None], 0)
        out /= np.where(total == 0, 1, total)[..., None]
        return out.transpose(0, 2, 1, 3), shift + np.log(total)
