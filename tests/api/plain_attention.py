"""Attention written out in torch, in float64: what autograd makes of it is the truth for training tests."""

import torch


def plain(q, k, v, *, causal=False, add=None, sink=None, scale=None):
    """(out, lse) in float64. add: what is added to the scaled scores, broadcast to (batch, heads, seqlen_q, seqlen_k)."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = (q.shape[-1] ** -0.5 if scale is None else scale) * (q @ k.transpose(2, 3))
    if add is not None:
        scores = scores + add
    if causal:
        i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
        scores = scores.masked_fill(j > i + k.shape[2] - q.shape[2], float("-inf"))
    joined = scores if sink is None else torch.cat([scores, sink.double()[:, None, None].expand(*scores.shape[:3], 1)], 3)
    lse = joined.logsumexp(3)
    return (torch.exp(scores - lse[..., None]) @ v).transpose(1, 2), lse


def distances(seqlen_q, seqlen_k):
    """|i + off - j|, which ALiBi's slopes multiply."""
    return (torch.arange(seqlen_q)[:, None] + seqlen_k - seqlen_q - torch.arange(seqlen_k)).abs()
