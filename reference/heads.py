"""Batches and heads: which kv head a query head reads, and a loop that runs one head at a time.

MQA (Shazeer 2019, "Fast Transformer Decoding") has one kv head, GQA (Ainslie et al. 2023, "GQA") a few; both
mean that query head h reads kv head `h // (heads // heads_kv)`.
"""
import numpy as np


def group_size(heads, heads_kv):
    """How many query heads read one kv head, an int. ValueError where heads_kv does not divide heads."""
    if heads_kv == 0 or heads % heads_kv:
        raise ValueError(f"heads {heads} is not a multiple of heads_kv {heads_kv}")
    return heads // heads_kv


def expand_kv_heads(x, heads):
    """Repeat the kv heads of x (batch, seqlen, heads_kv, head_dim) so that it has `heads` of them, in GQA
    order.

    Returns (batch, seqlen, heads, head_dim) in x's dtype. ValueError where heads_kv does not divide heads.
    """
    return np.repeat(x, group_size(heads, x.shape[2]), axis=2)


def check_shapes(q, k, v):
    """ValueError with the shapes unless q, k and v are 4-d, BSHD and agree in batch, seqlen_k, heads_kv,
    head_dim."""
    shapes = f"q {q.shape}, k {k.shape}, v {v.shape}"
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(f"expected (batch, seqlen, heads, head_dim) arrays: {shapes}")
    if not q.shape[0] == k.shape[0] == v.shape[0]:
        raise ValueError(f"batch sizes differ: {shapes}")
    if k.shape[1:3] != v.shape[1:3]:
        raise ValueError(f"k and v differ in seqlen_k or heads_kv: {shapes}")
    if q.shape[3] != k.shape[3]:
        raise ValueError(f"q and k differ in head_dim: {shapes}")


def for_each_head(head_attention, q, k, v):
    """Run `head_attention(b, h, q, k, v) -> (out, lse)` on the 2-d arrays of every (batch, head) and gather
    the results.

    q (batch, seqlen_q, heads, head_dim), k (batch, seqlen_k, heads_kv, head_dim), v (batch, seqlen_k,
    heads_kv, head_dim_v); the callable gets two ints and (seqlen_q, head_dim), (seqlen_k, head_dim), (seqlen_k,
    head_dim_v) and returns (seqlen_q, head_dim_v), (seqlen_q,). Returns float64 out (batch, seqlen_q, heads,
    head_dim_v) and float64 lse (batch, heads, seqlen_q). One head at a time keeps the score matrix at
    seqlen_q x seqlen_k.
    """
    batch, seqlen_q, heads, _ = q.shape
    k, v = expand_kv_heads(k, heads), expand_kv_heads(v, heads)
    out = np.empty((batch, seqlen_q, heads, v.shape[3]))
    lse = np.empty((batch, heads, seqlen_q))
    for b, h in np.ndindex(batch, heads):
        out[b, :, h], lse[b, h] = head_attention(b, h, q[b, :, h], k[b, :, h], v[b, :, h])
    return out, lse
